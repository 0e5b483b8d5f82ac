"""What tracing costs: the same stack without it, with a collector that takes every span, and with one that is gone.

    python -m bench.tracing_cost [--shape 135m] [--rounds 5] [--json]

All three stacks are up at once and idle while they are not measured. Every round runs W1 and W2 on each in turn, in
another order each time, so that a slow minute of the machine hits all alike. What counts is the ratio to the stack
without tracing of the same round. Metrics are not exported. A first round warms up and is not counted.
"""

import json
import os
import socket
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.otlp_sink import OtlpSink
from bench.records import summarize
from bench.tiercel_peer import TiercelPeer
from bench.workloads import one_stream, throughput

OFF, ON, GONE = "off", "on, every request sampled", "on, collector gone"
THROUGHPUT, TPOT = "W1 output tok/s", "W2 TPOT ms"


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def main(shape: str, rounds: int, as_json: bool) -> None:
    """Output tokens/s of W1 and TPOT of W2, with and without tracing."""
    console = Console(stderr=True)
    with console.status("making the checkpoint"):
        path = checkpoint(SHAPES[shape])
    sink = OtlpSink()
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with closed_port() as port, only_traces():
        endpoints = {OFF: None, ON: sink.endpoint, GONE: f"http://127.0.0.1:{port}"}
        stacks = {
            name: TiercelPeer(path, () if endpoint is None else ("--otlp", endpoint))
            for name, endpoint in endpoints.items()
        }
        started: list[TiercelPeer] = []
        try:
            for name, stack in stacks.items():
                with console.status(f"starting the stack with tracing {name}"):
                    stack.start()
                    started.append(stack)
            for number in range(rounds + 1):
                names = list(stacks)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    with console.status(f"round {number} of {rounds}: tracing {name}"):
                        measured = measure(stacks[name], SHAPES[shape].vocab_size, number)
                    if number:
                        for title, value in measured.items():
                            figures[name, title].append(value)
        finally:
            for stack in started:
                stack.stop()
    sink.close()
    if as_json:
        by_name = {name: {title: figures[name, title] for title in (THROUGHPUT, TPOT)} for name in stacks}
        click.echo(json.dumps({"shape": shape, "rounds": rounds, "spans": sink.num_spans, "tracing": by_name}))
    else:
        show(Console(), shape, rounds, figures, sink.num_spans)


def measure(stack: TiercelPeer, vocab_size: int, number: int) -> dict[str, float]:
    seed = 1000 * number + 7
    at_once = throughput(vocab_size, seed, num_requests=32 if number else 4)
    stream = one_stream(vocab_size, seed)
    return {
        THROUGHPUT: summarize(at_once, stack.run(at_once)).output_tokens_per_s,
        TPOT: 1e3 * (summarize(stream, stack.run(stream)).tpot_s or 0.0),
    }


def show(
    console: Console, shape: str, rounds: int, figures: dict[tuple[str, str], list[float]], num_spans: int
) -> None:
    table = Table(title=f"{shape} shape, median of {rounds} interleaved rounds (beside off, and its range)")
    table.add_column("tracing")
    for title in (THROUGHPUT, TPOT):
        table.add_column(title, justify="right")
    for name in (OFF, ON, GONE):
        cells = []
        for title in (THROUGHPUT, TPOT):
            values, base = figures[name, title], figures[OFF, title]
            ratios = sorted(value / other for value, other in zip(values, base, strict=True))
            beside = f" ({statistics.median(ratios):.3f}, {ratios[0]:.3f}-{ratios[-1]:.3f})" if name != OFF else ""
            cells.append(f"{statistics.median(values):.1f}{beside}")
        table.add_row(name, *cells)
    console.print(table)
    console.print(f"{num_spans} spans came to the collector")


@contextmanager
def closed_port() -> Iterator[int]:
    """Nobody listens there, and nobody will while the block runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def only_traces() -> Iterator[None]:
    """For the stacks that are started within."""
    before = os.environ.get("OTEL_METRICS_EXPORTER")
    os.environ["OTEL_METRICS_EXPORTER"] = "none"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OTEL_METRICS_EXPORTER"]
        else:
            os.environ["OTEL_METRICS_EXPORTER"] = before


if __name__ == "__main__":
    main()
