"""The price of the stack: W1 over gRPC through all services beside the same engine driven in one process.

    python -m bench.stack_cost [--shape 135m] [--rounds 5] [--weights int8] [--json FILE]

Both have the same model, kernels, limits and threads; the engine alone has no services, sockets, client or tiers. They
take turns, and what counts is the ratio of output tokens/s within a round. A first round warms up and is not counted.
What the stack's parts take of the cores for an output token, which the computing then lacks, is shown below.
"""

import json
import statistics
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from bench.checkpoints import SHAPES, checkpoint
from bench.compare import NUM_AT_ONCE
from bench.cpu_time import PARTS, cpu_seconds
from bench.idle import wait_until_idle
from bench.peer_process import ProcessPeer
from bench.peers import Peer
from bench.records import Round, summarize
from bench.tiercel_peer import TiercelPeer
from bench.workloads import throughput

ENGINE_RUNNER = Path(__file__).with_name("engine_runner.py")


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--kv-dtype", type=click.Choice(["bf16", "fp8"]), default="fp8", show_default=True)
@click.option("--weights", type=click.Choice(["auto", "int8"]), default="auto", show_default=True)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def main(shape: str, rounds: int, kv_dtype: str, weights: str, json_path: Path | None) -> None:
    """Output tokens/s of W1 through the stack and by the engine alone."""
    console = Console(stderr=True)
    path = checkpoint(SHAPES[shape])
    variant = kv_dtype if weights == "auto" else f"{kv_dtype}/{weights}"
    stack = TiercelPeer(path, ("--kv-dtype", kv_dtype, "--weights", weights), "whole stack")
    peers: list[Peer] = [ProcessPeer("engine alone", Path(sys.executable), ENGINE_RUNNER, variant, path), stack]
    rates: dict[str, list[float]] = defaultdict(list)
    cpu_us: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stops:
        for peer in peers:
            with console.status(f"starting: {peer.name}"):
                peer.start()
                stops.callback(peer.stop)
        for number in range(rounds + 1):
            workload = throughput(SHAPES[shape].vocab_size, 1000 * number + 7, NUM_AT_ONCE[shape])
            for peer in peers if number % 2 else reversed(peers):
                with console.status(f"round {number} of {rounds}: {peer.name}"):
                    wait_until_idle()
                    before = cpu_seconds(stack.pids)
                    outcome: Round = summarize(workload, peer.run(workload))
                    after = cpu_seconds(stack.pids)
                if not number:
                    continue
                rates[peer.name].append(outcome.output_tokens_per_s)
                if peer is stack:
                    for part in PARTS:
                        cpu_us[part].append((after[part] - before[part]) * 1e6 / workload.output_tokens)
    ratios = [whole / alone for whole, alone in zip(rates["whole stack"], rates["engine alone"], strict=True)]
    for name, values in rates.items():
        click.echo(f"{name}: {statistics.median(values):.0f} tok/s ({min(values):.0f}-{max(values):.0f})")
    spread = f"({min(ratios):.3f}-{max(ratios):.3f})"
    click.echo(f"stack / engine, median of {rounds} rounds: {statistics.median(ratios):.3f} {spread}")
    parts = ", ".join(f"{part} {statistics.median(cpu_us[part]):.0f}" for part in PARTS)
    click.echo(f"CPU time of an output token beside the computing, us: {parts}")
    if json_path is not None:
        facts = {"shape": shape, "kv_dtype": kv_dtype, "weights": weights}
        json_path.write_text(
            json.dumps(facts | {"output_tokens_per_s": rates, "ratios": ratios, "cpu_us": cpu_us}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
