"""What moving blocks costs those who decode meanwhile: ``python -m bench.tier_decode``.

Decode steps of a model are timed while nothing moves, and while 1 GiB is spilled, loaded, persisted and fetched, in
turns. The movers work as they do on a CPU worker, unless flags say otherwise. There all cores compute, and movers take
their time from them. A pause hits single steps, so it is the mean that says what all of them cost.
"""

import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.kv_cost import KV_DTYPES, batch_of
from bench.step_cost import StepWork
from engine.execution.loading import load_model
from kernels.attention.choice import choose_attention
from kvstore.courtesy import ComputeGauge
from kvstore.disk import DiskTier
from kvstore.executor import CPU_LIMITS, ExecutorLimits, TierExecutor
from kvstore.layout import BlockLayout
from kvstore.slab import HostSlab
from kvstore.slab_file import slot_bytes
from kvstore.transfer import NO_TENANT, MoveKind, Transfer, TransferResult

CPU = torch.device("cpu")
BLOCK_SIZE = 16
WORK = StepWork("decode, 8 rows at 512", 8, 511, 1)
BASE_STEPS = 250
"""About as many as pass while something moves: the first few of a burst are the fastest."""

ROWS_PER_TRANSFER = 64
NAMESPACE = b"bench.tier_decode".ljust(32, b".")
KINDS = (MoveKind.SPILL, MoveKind.LOAD, MoveKind.PERSIST, MoveKind.FETCH)


@dataclass(frozen=True)
class Phase:
    """Step times in seconds, and how long the bytes took; 0 where nothing moved."""

    steps_s: list[float]
    move_s: float


class Mover:
    """1 GiB of blocks between the end of a pool, a slab and a disk, through the executor."""

    def __init__(
        self, pool: torch.Tensor, first_block: int, num_blocks: int, limits: ExecutorLimits, directory: Path
    ) -> None:
        self._slab = HostSlab(num_blocks, pool.shape[1], CPU)
        cap_bytes = 2 * (num_blocks + 64) * slot_bytes(pool.shape[1]) * 9 // 8
        self._disk = DiskTier.open(directory, namespace=NAMESPACE, block_bytes=pool.shape[1], cap_bytes=cap_bytes)
        self.gauge = ComputeGauge()
        self._keys: list[bytes] = []
        self._first_block, self._num_blocks = first_block, num_blocks
        self._left = 0
        self._done = threading.Event()
        self._executor = TierExecutor(
            pool,
            self._slab,
            self._disk,
            on_result=self._on_result,
            on_events=lambda _: None,
            on_fault=lambda _: None,
            limits=limits,
            gauge=self.gauge,
        )

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def start(self, kind: MoveKind) -> None:
        """What is persisted is new to the disk, and what is fetched was persisted before."""
        if kind is MoveKind.PERSIST or not self._keys:
            self._keys = [os.urandom(32) for _ in range(self._num_blocks)]
        is_copy = kind in (MoveKind.SPILL, MoveKind.LOAD)
        starts = range(0, self._num_blocks, ROWS_PER_TRANSFER)
        self._left = len(starts)
        self._done.clear()
        for number, start in enumerate(starts):
            rows = list(range(start, min(start + ROWS_PER_TRANSFER, self._num_blocks)))
            self._executor.submit(
                Transfer(
                    transfer_id=number,
                    kind=kind,
                    keys=[self._keys[row] for row in rows],
                    block_ids=[self._first_block + row for row in rows] if is_copy else [],
                    host_slots=rows,
                    depths=[0] * len(rows),
                    tenant=NO_TENANT,
                    timeout_ns=10**12,
                )
            )

    def close(self) -> None:
        self._executor.close()
        self._disk.close()

    def _on_result(self, result: TransferResult) -> None:
        assert result.failure is None, result
        self._left -= 1
        if not self._left:
            self._done.set()


def measure(
    shape_name: str, kv_dtype: str, rounds: int, gib: float, limits: ExecutorLimits, directory: Path
) -> dict[str, list[Phase]]:
    """`rounds` phases of each kind, in turns."""
    loaded = load_model(checkpoint(SHAPES[shape_name]), device=CPU, max_model_tokens=1024)
    config, batch = loaded.config, batch_of(WORK)
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, KV_DTYPES[kv_dtype])
    own = WORK.num_rows * -(-(WORK.start + WORK.num_new) // BLOCK_SIZE)
    moved = int(gib * 2**30) // layout.block_bytes
    pool = layout.allocate(own + moved, CPU)
    attention = choose_attention(layout.pages(pool), config.windows, loaded.model.dtype)
    ids = torch.zeros(WORK.num_rows, dtype=torch.int32)
    mover = Mover(pool, own, moved, limits, directory)

    def step() -> float:
        started = time.perf_counter()
        with mover.gauge, torch.inference_mode():
            hidden = loaded.model.hidden(ids, batch.positions, None, attention, attention.plan(batch))
            loaded.model.logits(hidden)
        return time.perf_counter() - started

    def phase(kind: MoveKind | None) -> Phase:
        started = time.perf_counter()
        if kind is None:
            return Phase([step() for _ in range(BASE_STEPS)], 0.0)
        mover.start(kind)
        steps: list[float] = []
        while not mover.is_done:
            steps.append(step())
        return Phase(steps, time.perf_counter() - started)

    phase(None)
    kinds = {"nothing": None, **{kind.value: kind for kind in KINDS}}
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
@click.option(
    "--piece-mib",
    default=CPU_LIMITS.piece_bytes / 2**20,
    show_default=True,
    help="MiB that are copied without a pause.",
)
@click.option(
    "--urgent-share", default=CPU_LIMITS.urgent_share, show_default=True, help="Part of a core for loads and fetches."
)
@click.option(
    "--background-share", default=CPU_LIMITS.background_share, show_default=True, help="The same for spills, persists."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="On the disk to use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def main(
    shape_name: str,
    kv_dtype: str,
    rounds: int,
    gib: float,
    piece_mib: float,
    urgent_share: float,
    background_share: float,
    directory: Path,
    as_json: bool,
) -> None:
    """Print step times while nothing moves, and while blocks move in each of the four ways."""
    limits = ExecutorLimits(
        piece_bytes=int(piece_mib * 2**20), urgent_share=urgent_share, background_share=background_share
    )
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        phases = measure(shape_name, kv_dtype, rounds, gib, limits, Path(folder))
    if as_json:
        click.echo(json.dumps({name: [vars(phase) for phase in each] for name, each in phases.items()}))
        return
    plain = statistics.median(statistics.mean(phase.steps_s) for phase in phases["nothing"])
    table = Table("what moves", "mean step ms", "slower by", "median step ms", "steps meanwhile", "GB/s meanwhile")
    for name, each in phases.items():
        step = statistics.median(statistics.mean(phase.steps_s) for phase in each)
        middle = statistics.median(step for phase in each for step in phase.steps_s)
        count = statistics.median(len(phase.steps_s) for phase in each)
        move_s = statistics.median(phase.move_s for phase in each)
        rate = f"{gib * 2**30 / move_s / 1e9:.1f}" if move_s else ""
        table.add_row(
            name, f"{1e3 * step:.1f}", f"{100 * (step / plain - 1):.0f} %", f"{1e3 * middle:.1f}", f"{count:.0f}", rate
        )
    Console().print(f"{shape_name} shape, {WORK.name}, KV {kv_dtype}, {gib} GiB each way, {rounds} rounds")
    Console().print(table)


if __name__ == "__main__":
    main()
