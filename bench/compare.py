"""The small benchmark: this stack beside transformers, interleaved in one run, as a table.

    python -m bench.compare [--shape 135m] [--rounds 3] [--json]

Every round runs each workload on every peer in turn, so that a slow minute of the machine hits all alike; the
table shows medians over rounds and their range. A first round, with other prompts and fewer of them, warms up and
is not counted.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.peers import Peer
from bench.records import Round, summarize
from bench.tiercel_peer import TiercelPeer
from bench.transformers_peer import WAYS, TransformersPeer
from bench.workloads import Workload, one_stream, prefill, steady_decode, throughput

Results = dict[tuple[str, str], list[Round]]


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--peers", "with_peers", type=bool, default=True, help="Measure transformers too.")
@click.option("--kv-dtype", default="auto", show_default=True, help="Of our blocks; the peers keep the model's type.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def main(shape: str, rounds: int, with_peers: bool, kv_dtype: str, as_json: bool) -> None:
    """Output tokens/s of W1, TPOT and TTFT of W2, prefill tokens/s of W3, and the gaps between steps."""
    console = Console(stderr=True)
    vocab_size = SHAPES[shape].vocab_size
    with console.status("making the checkpoint"):
        path = checkpoint(SHAPES[shape])
    flags = ("--kv-dtype", kv_dtype)
    peers: list[Peer] = [TiercelPeer(path, flags)]
    if with_peers:
        peers += [TransformersPeer(path, way) for way in WAYS]
    results: Results = defaultdict(list)
    try:
        for peer in peers:
            with console.status(f"starting {peer.name}"):
                peer.start()
        for number in range(rounds + 1):
            seed = 1000 * number + 7
            at_once = throughput(vocab_size, seed, num_requests=32 if number else 4)
            for workload in (at_once, one_stream(vocab_size, seed), prefill(vocab_size, seed)):
                for peer in peers:
                    with console.status(f"round {number} of {rounds}: {workload.name} on {peer.name}"):
                        outcome = measure(peer, workload, warm_up=number == 0)
                    if outcome is not None:
                        results[peer.name, workload.name].append(outcome)
    finally:
        for peer in peers:
            peer.stop()
    gaps = {}
    for num_running in (8, 32):
        with console.status(f"gaps between steps at {num_running} running sequences"):
            gaps[num_running] = step_gaps(TiercelPeer(path, flags), vocab_size, num_running)
    if as_json:
        click.echo(json.dumps(as_object(shape, rounds, results, gaps)))
    else:
        show(Console(), shape, rounds, [peer.name for peer in peers], results, gaps)


@dataclass(frozen=True, slots=True)
class Gaps:
    """Between steps on the worker: from known ids of one to the forward pass of the next."""

    p50_ms: float
    p99_ms: float
    back_to_back_share: float
    """Of all steps, those whose plan was waiting on the worker in time; the gaps are theirs."""


def step_gaps(peer: TiercelPeer, vocab_size: int, num_running: int) -> Gaps:
    """On a fresh stack, so that nothing but these sequences is in the figures."""
    peer.start()
    try:
        peer.run(steady_decode(vocab_size, seed=num_running, num_running=num_running, max_tokens=192))
        worker = peer.worker_status()
    finally:
        peer.stop()
    share = worker.back_to_back_steps / worker.steps
    return Gaps(worker.step_gap_p50_ns / 1e6, worker.step_gap_p99_ns / 1e6, share)


def measure(peer: Peer, workload: Workload, warm_up: bool) -> Round | None:
    """None for the warm-up round, and where the workload says nothing new about the peer."""
    if peer.name == "transformers, static batch" and not workload.at_once:
        return None  # a batch of one is "one by one"
    outcome = summarize(workload, peer.run(workload))
    return None if warm_up else outcome


Value = Callable[[Round], float]

COLUMNS: dict[str, tuple[str, Value, str]] = {
    "W1 output tok/s": ("W1", lambda r: r.output_tokens_per_s, "{:.1f}"),
    "W2 TPOT ms": ("W2", lambda r: (r.tpot_s or 0.0) * 1e3, "{:.1f}"),
    "W2 TTFT ms": ("W2", lambda r: r.ttft_s * 1e3, "{:.0f}"),
    "W3 prefill tok/s": ("W3", lambda r: r.prefill_tokens_per_s, "{:.0f}"),
}


def show(
    console: Console,
    shape: str,
    rounds: int,
    names: list[str],
    results: Results,
    gaps: dict[int, Gaps],
) -> None:
    table = Table(title=f"{shape} shape, bf16, median of {rounds} interleaved rounds (lowest-highest)")
    table.add_column("")
    for title in COLUMNS:
        table.add_column(title, justify="right")
    for name in names:
        cells = []
        for workload, value, form in COLUMNS.values():
            values = sorted(value(outcome) for outcome in results[name, workload])
            spread = f" ({form.format(values[0])}-{form.format(values[-1])})" if len(values) > 1 else ""
            cells.append(form.format(statistics.median(values)) + spread if values else "")
        table.add_row(name, *cells)
    console.print(table)
    for num_running, gap in gaps.items():
        console.print(
            f"gap between steps at {num_running:2} running: p50 {gap.p50_ms:.3f} ms, p99 {gap.p99_ms:.3f} ms "
            f"({gap.back_to_back_share:.0%} of steps back to back)"
        )


def as_object(shape: str, rounds: int, results: Results, gaps: dict[int, Gaps]) -> dict[str, object]:
    peers: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for title, (workload, value, _form) in COLUMNS.items():
        for (name, ran), outcomes in results.items():
            if ran == workload:
                peers[name][title] = [value(outcome) for outcome in outcomes]
    return {
        "shape": shape,
        "rounds": rounds,
        "peers": peers,
        "step_gaps": {num_running: asdict(gap) for num_running, gap in gaps.items()},
    }


if __name__ == "__main__":
    main()
