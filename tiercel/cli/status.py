"""`infer-cli status`: services, models, queue, cache by tier."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from tiercel.cli.cache_tables import Workers, show_tiers
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.tables import shown_duration, table
from tiercel.cli.target import Address, recorded_stack, running_stack
from tiercel.cli.values import Target
from tiercel.cli.watch import watch
from tiercel.client import ModelInfo, ServiceStatus, StackStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--watch", "is_watching", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--count", type=click.IntRange(min=1), help="Leave --watch after this many looks.")
@click.option("--target", type=Target(), help="The stack to ask, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on.")
@click.pass_obj
def status(
    consoles: Consoles,
    as_json: bool,
    is_watching: bool,
    interval: float,
    count: int | None,
    target: str | None,
    port: int | None,
    ca: Path | None,
) -> int:
    """Show services, models, queue and cache by tier.

    With --watch: requests, tokens per second, and use and hit rate of each tier, as they are now. A pipe gets a line
    per worker and look.
    """
    if is_watching and as_json:
        raise click.UsageError("--watch and --json do not go together; ask for --json again and again instead")
    if count is not None and not is_watching:
        raise click.UsageError("--count needs --watch")
    address = Address(target, port, ca)
    client = running_stack(address)
    if client is None:
        raise CommandFailed("no stack is running; start one with `infer-cli up`")
    record = recorded_stack(address)
    if record is not None and record.state == "starting":
        consoles.note(f"the stack on {record.target} is starting, or a service of it is")
    with client:
        if is_watching:
            # Ctrl-C is how one leaves.
            with contextlib.suppress(KeyboardInterrupt):
                watch(consoles, client, interval, count)
            return 0
        found = client.status()
        if as_json:
            consoles.write(json.dumps({"target": client.target, **asdict(found)}) + "\n")
        else:
            _show(consoles, found)
    return 0


def _show(consoles: Consoles, found: StackStatus) -> None:
    out = consoles.out
    out.print(_services(found.services))
    out.print(_models(found.models))
    workers = [(service.address, service.worker) for service in found.services if service.worker is not None]
    if workers:
        out.print(_queue(workers))
        show_tiers(out, workers)


def _services(services: tuple[ServiceStatus, ...]) -> Table:
    rows = table("Services", "service", "address", "metrics", "#pid", "state", "#up", "")
    colours = {"ready": "green", "starting": "yellow", "draining": "yellow", "lost": "red"}
    for service in services:
        state = f"[{colours.get(service.state, 'default')}]{service.state}[/]"
        up_s = service.uptime_ns / 1e9
        pid = str(service.pid or "")
        rows.add_row(
            service.role, service.address, service.metrics_address, pid, state, shown_duration(up_s), service.detail
        )
    return rows


def _models(models: tuple[ModelInfo, ...]) -> Table:
    rows = table("Models", "model", "#context", "#vocabulary", "chat template", "fingerprint")
    for model in models:
        template = "yes" if model.has_chat_template else "no"
        sizes = (f"{model.max_model_tokens}", f"{model.vocab_size}")
        rows.add_row(model.id, *sizes, template, model.fingerprint[:12])
    return rows


def _queue(workers: Workers) -> Table:
    columns = (
        "#running",
        "#waiting",
        "#steps",
        "#prompt tokens",
        "#output tokens",
        "#preempted",
        "#gap p50",
        "#gap p99",
    )
    rows = table("Queue", "worker", "device", "types", "attention", *columns)
    for address, worker in workers:
        weights = "" if worker.weights == worker.dtype else f", weights {worker.weights}"
        types = f"{worker.dtype}{weights}, KV {worker.kv_dtype}"
        gaps = (f"{ns / 1e6:.2f} ms" for ns in (worker.step_gap_p50_ns, worker.step_gap_p99_ns))
        counts = (worker.running, worker.waiting, worker.steps, worker.prompt_tokens, worker.completion_tokens)
        numbers = (*map(str, counts), str(worker.preemptions), *gaps)
        rows.add_row(address, worker.device, types, worker.attention_backend, *numbers)
    return rows
