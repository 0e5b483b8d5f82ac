"""`infer-cli up`: start all services here."""

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import click

from tiercel.cli import background, log_folder, stack_record
from tiercel.cli.console import Consoles
from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.cli.progress import PipeReporter, Reporter, StackEvent, Step, reporter_for
from tiercel.cli.stack_spec import StackPlan, StackSpec, plan_stack
from tiercel.cli.supervisor import Supervisor
from tiercel.cli.values import ByteSize
from tiercel.otlp import Signal, otlp_target

_COUNT = click.IntRange(min=1)


@click.command()
@click.option("--model", metavar="PATH|HUB_ID|demo", help="Checkpoint directory, Hugging Face id, or demo (default).")
@click.option("--served-model-name", help="Name that clients know the model by.")
@click.option("--workers", "num_workers", type=_COUNT, default=1, show_default=True, help="Worker processes.")
@click.option("--tokenizers", "num_tokenizers", type=_COUNT, default=1, show_default=True, help="Front doors.")
@click.option("--host", help="Address the front door listens on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port of the front door; further ones take the next ports; 0 picks free ones.  [default: 50051]",
)
@click.option(
    "--kv-dtype",
    type=click.Choice(["fp8", "bf16", "fp16", "fp32", "auto"]),
    help="Type of the KV cache.  [default: fp8]",
)
@click.option("--dtype", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), help="Type of weights and activations.")
@click.option(
    "--weights",
    type=click.Choice(["auto", "int8"]),
    help="int8 rounds the weights to a byte each, on a CPU with native kernels.  [default: auto]",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the model runs.")
@click.option("--block-size", "block_size_tokens", type=_COUNT, help="Tokens per cache block.")
@click.option("--device-cache", "device_cache_bytes", type=ByteSize(), help="Size of the device's block pool.")
@click.option("--host-cache", "host_cache_bytes", type=ByteSize(), help="Size of the host tier; 0 switches it off.")
@click.option("--disk-cache", "disk_cache_bytes", type=ByteSize(), help="Size of the disk tier; 0 switches it off.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Folder of the disk tier.")
@click.option("--max-batched-tokens", type=_COUNT, help="Tokens that one step computes at most.")
@click.option("--max-seqs", type=_COUNT, help="Sequences that run at once.")
@click.option("--max-model-len", type=click.IntRange(min=2), help="Tokens of prompt and output together.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="TOML file with [tokenizer], [scheduler], [worker], [tls], [telemetry].",
)
@click.option("--ready-file", type=click.Path(path_type=Path), help="JSON file to write when the stack is ready.")
@click.option("--otlp", metavar="ENDPOINT", help="OpenTelemetry collector that traces and metrics go to.")
@click.option("--log-dir", type=click.Path(path_type=Path), help="Folder for the services' logs.")
@click.option("--detach", is_flag=True, help="Return when the stack is ready and leave it running.")
@click.option("--private", "is_private", is_flag=True, hidden=True)
@click.option("--progress-fd", type=int, hidden=True)
@click.pass_obj
def up(consoles: Consoles, /, detach: bool, progress_fd: int | None, **given: object) -> int:
    """Start all services here. Ctrl-C drains them: running answers are finished first.

    A SIZE is a number of bytes, or a number with KiB, MiB, GiB or TiB. What is not given comes from --config, or is
    chosen by the service.
    """
    spec = StackSpec(**given)  # type: ignore[arg-type]
    if progress_fd is not None:
        return _run(spec, PipeReporter(os.fdopen(progress_fd, "wb")))
    if detach:
        _check(spec)
        here = spec if spec.ready_file is None else replace(spec, ready_file=spec.ready_file.absolute())
        background.start(here, reporter_for(consoles.out, consoles.err), dies_with_us=False)
        return 0
    _check(spec)
    return _run(spec, reporter_for(consoles.out, consoles.err))


def _run(spec: StackSpec, reporter: Reporter) -> int:
    try:
        plan = plan_stack(spec)
        return asyncio.run(_supervise(plan, log_folder.create(spec.log_dir), reporter))
    except CommandFailed as failure:
        reporter.report(StackEvent(Step.FAILED, failure.message, exit_code=failure.exit_code))
        raise
    finally:
        reporter.close()


async def _supervise(plan: StackPlan, log_dir: Path, reporter: Reporter) -> int:
    # Made on the loop, since it holds events of that loop.
    return await Supervisor(plan, log_dir, reporter).run()


def _check(spec: StackSpec) -> None:
    """What can be told before anything is started; the rest is told by the services."""
    plan = plan_stack(spec)
    _refuse_bad_telemetry(spec.otlp)
    if spec.ready_file is not None:
        if not spec.ready_file.parent.is_dir():
            raise CommandFailed(f"--ready-file: there is no folder {spec.ready_file.parent}", EXIT_USAGE)
        # Whoever waits for the file must not find an old one.
        spec.ready_file.unlink(missing_ok=True)
    if plan.port:
        for port in range(plan.port, plan.port + spec.num_tokenizers):
            _refuse_taken(plan.host, port)


def _refuse_bad_telemetry(endpoint: str | None) -> None:
    try:
        for signal in Signal:
            otlp_target(signal, endpoint, os.environ)
    except ValueError as error:
        raise CommandFailed(str(error), EXIT_USAGE) from None


def _refuse_taken(host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        record = next((record for record in stack_record.running_stacks() if record.port == port), None)
        if record is not None:
            raise CommandFailed(
                f"a stack is already running on port {port} (pid {record.supervisor.pid}); stop it with "
                f"`infer-cli down --port {port}` or choose another --port (0 picks a free one)",
                EXIT_USAGE,
            ) from None
        raise CommandFailed(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}; "
            "choose another --port (0 picks a free one) or --host",
            EXIT_USAGE,
        ) from None
