"""The price of the stack: W1 or W2 over gRPC through all services beside the same engine driven in one process.

    python -m bench.stack_cost [--shape 135m] [--workload w2] [--rounds 5] [--weights int8] [--json FILE]

Both have the same model, kernels, limits and threads; the engine alone has no services, sockets, client or tiers. They
take turns, and what counts is the ratio of output tokens/s within a round, of W2 after the first token: of the stack
with several tokens in each of its client's messages, and with a message for each token. A first round warms up and is
not counted. What the stack's parts take of the cores for an output token, which the computing then lacks, is shown
below.
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from bench.checkpoints import SHAPES, checkpoint
from bench.compare import NUM_AT_ONCE
from bench.cpu_time import PARTS, cpu_seconds
from bench.idle import wait_until_idle
from bench.peer_process import ProcessPeer
from bench.peers import Peer
from bench.records import RequestRecord, Round, summarize
from bench.tiercel_peer import AT_ONCE_INTERVAL, TiercelPeer
from bench.workloads import Workload, one_stream, throughput

ENGINE_RUNNER = Path(__file__).with_name("engine_runner.py")

ENGINE = "engine alone"
INTERVALS = (AT_ONCE_INTERVAL, 1)
"""Tokens of a message to the client."""


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--workload", "kind", type=click.Choice(["w1", "w2"]), default="w1", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--kv-dtype", type=click.Choice(["bf16", "fp8"]), default="fp8", show_default=True)
@click.option("--weights", type=click.Choice(["auto", "int8"]), default="auto", show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def main(shape: str, kind: str, rounds: int, kv_dtype: str, weights: str, json_path: Path | None) -> None:
    """Output tokens/s through the stack and by the engine alone."""
    console = Console(stderr=True)
    path = checkpoint(SHAPES[shape])
    variant = kv_dtype if weights == "auto" else f"{kv_dtype}/{weights}"
    stack = TiercelPeer(path, ("--kv-dtype", kv_dtype, "--weights", weights))
    engine: Peer = ProcessPeer(ENGINE, Path(sys.executable), ENGINE_RUNNER, variant, path)
    runs: dict[str, Callable[[Workload], list[RequestRecord]]] = {
        ENGINE: engine.run,
        **{_name(interval): partial(stack.run, stream_interval=interval) for interval in INTERVALS},
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    cpu_us: dict[str, dict[str, list[float]]] = {_name(interval): defaultdict(list) for interval in INTERVALS}
    with ExitStack() as stops:
        for peer in (engine, stack):
            with console.status(f"starting: {peer.name}"):
                peer.start()
                stops.callback(peer.stop)
        for number in range(rounds + 1):
            workload = _workload(kind, shape, seed=1000 * number + 7)
            for name in runs if number % 2 else reversed(runs):
                with console.status(f"round {number} of {rounds}: {name}"):
                    wait_until_idle()
                    before = cpu_seconds(stack.pids)
                    outcome: Round = summarize(workload, runs[name](workload))
                    after = cpu_seconds(stack.pids)
                if not number:
                    continue
                rates[name].append(_rate(kind, outcome))
                for part in PARTS if name in cpu_us else ():
                    cpu_us[name][part].append((after[part] - before[part]) * 1e6 / workload.output_tokens)
    for name, values in rates.items():
        click.echo(f"{name}: {statistics.median(values):.0f} tok/s ({min(values):.0f}-{max(values):.0f})")
    ratios = {name: [whole / alone for whole, alone in zip(rates[name], rates[ENGINE], strict=True)] for name in cpu_us}
    for name, values in ratios.items():
        spread = f"({min(values):.3f}-{max(values):.3f})"
        click.echo(f"{name} / engine, median of {rounds} rounds: {statistics.median(values):.3f} {spread}")
        parts = ", ".join(f"{part} {statistics.median(cpu_us[name][part]):.0f}" for part in PARTS)
        click.echo(f"  CPU time of an output token beside the computing, us: {parts}")
    if json_path is not None:
        facts = {"shape": shape, "workload": kind, "kv_dtype": kv_dtype, "weights": weights}
        json_path.write_text(
            json.dumps(facts | {"output_tokens_per_s": rates, "ratios": ratios, "cpu_us": cpu_us}, indent=1) + "\n"
        )


def _workload(kind: str, shape: str, seed: int) -> Workload:
    vocab_size = SHAPES[shape].vocab_size
    return one_stream(vocab_size, seed) if kind == "w2" else throughput(vocab_size, seed, NUM_AT_ONCE[shape])


def _rate(kind: str, outcome: Round) -> float:
    if kind == "w1":
        return outcome.output_tokens_per_s
    assert outcome.tpot_s is not None
    return 1 / outcome.tpot_s


def _name(interval: int) -> str:
    return f"whole stack, a message for {interval} tokens" if interval > 1 else "whole stack, a message for each token"


if __name__ == "__main__":
    main()
