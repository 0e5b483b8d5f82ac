"""What moving blocks costs those who decode meanwhile: ``python -m bench.tier_decode``.

Decode steps of a model are timed while nothing moves, while 1 GiB is spilled and while it is loaded, in turns. The
copier works as it does on a CPU worker, unless flags say otherwise. There all cores compute, and its thread takes its
time from them.
"""

import json
import statistics
import threading
import time
from dataclasses import dataclass

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.kv_cost import KV_DTYPES, StepWork, batch_of
from engine.execution.loading import load_model
from kernels.attention.choice import choose_attention
from kvstore.executor import ExecutorLimits, TierExecutor
from kvstore.layout import BlockLayout
from kvstore.slab import HostSlab
from kvstore.transfer import NO_TENANT, MoveKind, Transfer, TransferResult

CPU = torch.device("cpu")
BLOCK_SIZE = 16
WORK = StepWork("decode, 8 rows at 512", 8, 511, 1)
ROWS_PER_TRANSFER = 64


@dataclass(frozen=True)
class Phase:
    """Step times in seconds, and how long the bytes took; 0 where nothing moved."""

    steps_s: list[float]
    move_s: float


class Mover:
    """1 GiB of blocks between the end of a pool and a slab, through the executor."""

    def __init__(self, pool: torch.Tensor, first_block: int, num_blocks: int, limits: ExecutorLimits) -> None:
        self._slab = HostSlab(num_blocks, pool.shape[1], CPU)
        self._first_block, self._num_blocks = first_block, num_blocks
        self._left = 0
        self._done = threading.Event()
        self._executor = TierExecutor(
            pool,
            self._slab,
            None,
            on_result=self._on_result,
            on_events=lambda _: None,
            on_fault=lambda _: None,
            limits=limits,
        )

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def start(self, kind: MoveKind) -> None:
        starts = range(0, self._num_blocks, ROWS_PER_TRANSFER)
        self._left = len(starts)
        self._done.clear()
        for number, start in enumerate(starts):
            rows = list(range(start, min(start + ROWS_PER_TRANSFER, self._num_blocks)))
            self._executor.submit(
                Transfer(
                    transfer_id=number,
                    kind=kind,
                    keys=[row.to_bytes(32, "little") for row in rows],
                    block_ids=[self._first_block + row for row in rows],
                    host_slots=rows,
                    depths=[0] * len(rows),
                    tenant=NO_TENANT,
                    timeout_ns=10**12,
                )
            )

    def close(self) -> None:
        self._executor.close()

    def _on_result(self, result: TransferResult) -> None:
        assert result.failure is None, result
        self._left -= 1
        if not self._left:
            self._done.set()


def measure(shape_name: str, kv_dtype: str, rounds: int, gib: float, limits: ExecutorLimits) -> dict[str, list[Phase]]:
    """`rounds` phases of each kind, in turns."""
    loaded = load_model(checkpoint(SHAPES[shape_name]), device=CPU, max_model_tokens=1024)
    config, batch = loaded.config, batch_of(WORK)
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, KV_DTYPES[kv_dtype])
    own = WORK.num_rows * -(-(WORK.start + WORK.num_new) // BLOCK_SIZE)
    moved = int(gib * 2**30) // layout.block_bytes
    pool = layout.allocate(own + moved, CPU)
    attention = choose_attention(layout.pages(pool), config.windows, loaded.model.dtype)
    ids = torch.zeros(WORK.num_rows, dtype=torch.int32)
    mover = Mover(pool, own, moved, limits)

    def step() -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            hidden = loaded.model.hidden(ids, batch.positions, None, attention, attention.plan(batch))
            loaded.model.logits(hidden)
        return time.perf_counter() - started

    def phase(kind: MoveKind | None) -> Phase:
        started = time.perf_counter()
        if kind is None:
            return Phase([step() for _ in range(20)], 0.0)
        mover.start(kind)
        steps: list[float] = []
        while not mover.is_done:
            steps.append(step())
        return Phase(steps, time.perf_counter() - started)

    phase(None)
    kinds = {"nothing": None, "spill": MoveKind.SPILL, "load": MoveKind.LOAD}
    phases: dict[str, list[Phase]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            phases[name].append(phase(kind))
    mover.close()
    return phases


@click.command()
@click.option("--shape", "shape_name", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--kv-dtype", type=click.Choice(list(KV_DTYPES)), default="fp8", show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--gib", default=1.0, show_default=True, help="GiB that move in each phase.")
@click.option("--piece-mib", default=2.0, show_default=True, help="MiB that are copied without a pause.")
@click.option("--spill-share", default=0.05, show_default=True, help="Part of the copier's time for spills.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def main(
    shape_name: str, kv_dtype: str, rounds: int, gib: float, piece_mib: float, spill_share: float, as_json: bool
) -> None:
    """Print step times while nothing moves, while blocks are spilled and while they are loaded."""
    limits = ExecutorLimits(piece_bytes=int(piece_mib * 2**20), spill_share=spill_share)
    phases = measure(shape_name, kv_dtype, rounds, gib, limits)
    if as_json:
        click.echo(json.dumps({name: [vars(phase) for phase in each] for name, each in phases.items()}))
        return
    plain = statistics.median(step for phase in phases["nothing"] for step in phase.steps_s)
    table = Table("what moves", "step ms", "slower by", "steps meanwhile", "GB/s meanwhile")
    for name, each in phases.items():
        step = statistics.median(step for phase in each for step in phase.steps_s)
        count = statistics.median(len(phase.steps_s) for phase in each)
        move_s = statistics.median(phase.move_s for phase in each)
        rate = f"{gib * 2**30 / move_s / 1e9:.1f}" if move_s else ""
        table.add_row(name, f"{1e3 * step:.1f}", f"{100 * (step / plain - 1):.0f} %", f"{count:.0f}", rate)
    Console().print(f"{shape_name} shape, {WORK.name}, KV {kv_dtype}, {gib} GiB each way, {rounds} rounds")
    Console().print(table)


if __name__ == "__main__":
    main()
