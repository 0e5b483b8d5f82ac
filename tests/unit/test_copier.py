"""Spills and loads: runs, and that no copy begins before the compute that came first, on a simulated device."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvstore.copier import BlockCopier, contiguous_runs
from kvstore.courtesy import ComputeGauge
from kvstore.executor import ExecutorLimits
from kvstore.streams import Run
from kvstore.transfer import Failure, MoveKind, Tier
from tests.disk_rows import key_of, payload_of
from tests.tier_rig import TierRig

SPILL, LOAD = MoveKind.SPILL, MoveKind.LOAD


def rows_of(rows: slice) -> range:
    return range(rows.start, rows.stop)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_runs_cover_the_rows_in_order_and_are_as_long_as_can_be(rows: list[tuple[int, int]]) -> None:
    runs = list(contiguous_runs([block for block, _ in rows], [slot for _, slot in rows]))
    expanded = [pair for run in runs for pair in zip(rows_of(run.sources), rows_of(run.targets), strict=True)]
    assert expanded == rows
    for one, next_one in pairwise(runs):
        assert (one.sources.stop, one.targets.stop) != (next_one.source, next_one.target)


def test_contiguous_rows_become_one_copy() -> None:
    assert list(contiguous_runs([4, 5, 6, 9], [0, 1, 2, 3])) == [Run(4, 0, 3), Run(9, 3, 1)]


class SimulatedDevice:
    """Compute and copies in two queues that run on their own, as on CUDA: only a wait orders one after the other."""

    def __init__(self, keeps_fences: bool) -> None:
        self._keeps_fences = keeps_fences
        self._compute: list[Callable[[], object]] = []
        self._num_computed = 0
        self._copies: list[tuple[int, Callable[[], object]]] = []
        self._after = 0

    def launch(self, kernel: Callable[[], object]) -> None:
        """Hand compute over; it runs at some later time."""
        self._compute.append(kernel)

    def fence(self) -> object:
        return len(self._compute)

    def wait(self, fence: object) -> None:
        assert isinstance(fence, int)
        self._after = fence if self._keeps_fences else 0

    def copy(self, target: torch.Tensor, source: torch.Tensor, runs: Sequence[Run]) -> None:
        for run in runs:
            self._copies.append((self._after, partial(target[run.targets].copy_, source[run.sources])))

    def finish(self) -> None:
        """The copy queue runs as early as it may: compute only goes on where a copy waits for it."""
        for after, copy in self._copies:
            while self._num_computed < after:
                self._step()
            copy()
        self._copies.clear()
        while self._num_computed < len(self._compute):
            self._step()

    def _step(self) -> None:
        self._compute[self._num_computed]()
        self._num_computed += 1


@pytest.mark.parametrize("keeps_fences", [True, False])
def test_a_spill_takes_what_the_step_before_it_wrote(keeps_fences: bool) -> None:
    """Without the fence, the control, it takes what was there before: the fence is what makes the difference."""
    device = SimulatedDevice(keeps_fences)
    pool, slab = torch.zeros(4, 64, dtype=torch.uint8), torch.zeros(4, 64, dtype=torch.uint8)
    copier = BlockCopier(pool, slab, device)
    device.launch(lambda: pool[1].fill_(7))
    copier.copy(SPILL, [1], [2], device.fence())
    assert slab[2].eq(7).all() == keeps_fences
    assert pool[1].eq(7).all()


@pytest.mark.parametrize("keeps_fences", [True, False])
def test_a_load_leaves_a_block_alone_until_the_step_before_it_has_read_it(keeps_fences: bool) -> None:
    device = SimulatedDevice(keeps_fences)
    pool, slab = torch.full((4, 64), 3, dtype=torch.uint8), torch.full((4, 64), 9, dtype=torch.uint8)
    read = torch.zeros(64, dtype=torch.uint8)
    copier = BlockCopier(pool, slab, device)
    device.launch(lambda: read.copy_(pool[1]))
    copier.copy(LOAD, [1], [2], device.fence())
    assert read.eq(3).all() == keeps_fences
    assert pool[1].eq(9).all()


def test_a_later_step_is_not_waited_for() -> None:
    device = SimulatedDevice(keeps_fences=True)
    pool, slab = torch.zeros(4, 64, dtype=torch.uint8), torch.zeros(4, 64, dtype=torch.uint8)
    copier = BlockCopier(pool, slab, device)
    fence = device.fence()
    device.launch(lambda: pool[1].fill_(7))
    copier.copy(SPILL, [1], [2], fence)
    assert slab[2].eq(0).all()


def test_a_pool_of_other_records_is_refused() -> None:
    pool, slab = torch.zeros(4, 64, dtype=torch.uint8), torch.zeros(4, 128, dtype=torch.uint8)
    with pytest.raises(ValueError, match="a block has 64 bytes and a host slot 128"):
        BlockCopier(pool, slab, SimulatedDevice(keeps_fences=True))


class HeldStream:
    """Copies at once on the CPU, but the first one waits to be let go. Notes the order."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.entered = threading.Event()
        self.go = threading.Event()

    def fence(self) -> object:
        return None

    def wait(self, fence: object) -> None:
        assert fence is None
        self.entered.set()
        assert self.go.wait(60)

    def copy(self, target: torch.Tensor, source: torch.Tensor, runs: Sequence[Run]) -> None:
        for run in runs:
            target[run.targets] = source[run.sources]
            self.order.append(run.num_rows)

    def finish(self) -> None:
        pass


def test_a_load_overtakes_the_spills_that_wait_and_the_rest_of_one_under_way() -> None:
    stream = HeldStream()
    rig = TierRig(None, stream=stream, limits=ExecutorLimits(piece_bytes=4 * 12352))
    first = rig.submit(SPILL, list(range(8)))
    assert stream.entered.wait(60)
    second = rig.submit(SPILL, [0, 1, 2])
    load = rig.submit(LOAD, [0, 1], slots=[20, 21])
    stream.go.set()
    assert rig.executor.drain(60)
    assert [result.transfer_id for result in rig.results] == [load, first, second]
    assert stream.order == [4, 2, 4, 3]
    rig.close()


def test_a_row_outside_of_the_pool_fails_its_transfer_and_is_told() -> None:
    rig = TierRig(None)
    rig.fill_pool([1, 2])
    bad = rig.submit(SPILL, [1, 2], blocks=[0, 48])
    assert rig.result(bad).failure is Failure.IO_ERROR
    rig.wait_for(lambda: rig.faults)
    assert rig.faults[0].tier is Tier.HOST
    assert rig.move(SPILL, [1, 2]).failure is None
    assert rig.slot(1) == payload_of(key_of(2))
    rig.close()


def test_a_mover_that_pauses_for_those_who_compute_moves_the_same_bytes() -> None:
    gauge = ComputeGauge()
    rig = TierRig(None, gauge=gauge, limits=ExecutorLimits(piece_bytes=12352, urgent_share=0.5, background_share=0.2))
    numbers = list(range(1, 13))
    rig.fill_pool(numbers)
    with gauge:
        assert rig.move(SPILL, numbers).failure is None
        rig.pool.zero_()
        assert rig.move(LOAD, numbers).failure is None
    assert [rig.block(i) for i in range(12)] == [payload_of(key_of(number)) for number in numbers]
    rig.close()


def test_a_load_does_not_wait_behind_the_pause_of_a_spill() -> None:
    """The share is so small that the second spill would wait for hours."""
    gauge = ComputeGauge()
    rig = TierRig(None, gauge=gauge, limits=ExecutorLimits(background_share=1e-9))
    rig.fill_pool([1, 2, 3, 4])
    with gauge:
        assert rig.move(SPILL, [1, 2]).failure is None
        spill = rig.submit(SPILL, [1, 2])
        load = rig.submit(LOAD, [3, 4], blocks=[20, 21], slots=[20, 21])
        assert rig.result(load).failure is None
        assert spill not in [result.transfer_id for result in rig.results]
    # Nobody computes any more.
    assert rig.result(spill).failure is None
    rig.close()


def test_closing_does_not_wait_for_pauses() -> None:
    gauge = ComputeGauge()
    rig = TierRig(None, gauge=gauge, limits=ExecutorLimits(piece_bytes=12352, background_share=1e-9))
    with gauge:
        spill = rig.submit(SPILL, [1, 2])
        assert rig.executor.close(60)
    assert rig.result(spill).failure in (None, Failure.CANCELLED)
