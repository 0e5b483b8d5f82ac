"""The time between two steps on the worker: from known ids of one to the forward pass of the next.

    python -m bench.step_gaps [--shape 135m] [--json]

Each number of running sequences has a stack of its own, so that nothing but these sequences is in the figures.
"""

import json
from dataclasses import asdict, dataclass

import click

from bench.checkpoints import SHAPES, checkpoint
from bench.tiercel_peer import TiercelPeer
from bench.workloads import steady_decode

NUM_RUNNING = (8, 32)


@dataclass(frozen=True, slots=True)
class Gaps:
    p50_ms: float
    p99_ms: float
    back_to_back_share: float
    """Of all steps, those whose plan was waiting on the worker in time; the gaps are theirs."""


def step_gaps(peer: TiercelPeer, vocab_size: int, num_running: int) -> Gaps:
    peer.start()
    try:
        peer.run(steady_decode(vocab_size, seed=num_running, num_running=num_running, max_tokens=192))
        worker = peer.worker_status()
    finally:
        peer.stop()
    share = worker.back_to_back_steps / worker.steps
    return Gaps(worker.step_gap_p50_ns / 1e6, worker.step_gap_p99_ns / 1e6, share)


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of lines.")
def main(shape: str, as_json: bool) -> None:
    """Gaps between steps at several numbers of running sequences."""
    peer = TiercelPeer(checkpoint(SHAPES[shape]), ("--kv-dtype", "auto"))
    gaps = {num_running: step_gaps(peer, SHAPES[shape].vocab_size, num_running) for num_running in NUM_RUNNING}
    if as_json:
        click.echo(json.dumps({num_running: asdict(gap) for num_running, gap in gaps.items()}))
        return
    for num_running, gap in gaps.items():
        click.echo(
            f"gap between steps at {num_running:2} running: p50 {gap.p50_ms:.3f} ms, p99 {gap.p99_ms:.3f} ms "
            f"({gap.back_to_back_share:.0%} of steps back to back)"
        )


if __name__ == "__main__":
    main()
