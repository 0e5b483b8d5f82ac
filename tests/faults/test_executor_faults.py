"""The executor over a disk that is late, fails, is short or hangs: one result each, no slot given back too early."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvstore.breaker import BreakerState
from kvstore.courtesy import ComputeGauge
from kvstore.disk_store import DiskStore
from kvstore.disk_threads import DiskLimits
from kvstore.executor import ExecutorLimits
from kvstore.transfer import Failure, MoveKind, Tier, TierFault
from tests.disk_rows import BLOCK_BYTES, key_of, open_disk, payload_of
from tests.fakes.clock import FakeClock
from tests.fakes.flaky_disk import FlakyDisk
from tests.tier_rig import TierRig

FETCH, PERSIST, SPILL, LOAD = MoveKind.FETCH, MoveKind.PERSIST, MoveKind.SPILL, MoveKind.LOAD
NUMBERS = list(range(8))


@dataclass(frozen=True)
class Setting:
    rig: TierRig
    disk: FlakyDisk
    clock: FakeClock

    def persist_all(self) -> None:
        self.rig.fill_slots(NUMBERS)
        assert self.rig.move(PERSIST, NUMBERS).failure is None
        self.rig.slab.tensor.zero_()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    inner = open_disk(tmp_path)
    disk, clock = FlakyDisk(inner), FakeClock()
    limits = ExecutorLimits(disk=DiskLimits(num_readers=2, max_failures=2, hang_s=10, retry_after_s=5))
    rig = TierRig(disk, limits=limits, clock=clock)
    yield Setting(rig, disk, clock)
    disk.let_go()
    rig.close()
    inner.close()


def test_rows_that_come_late_count_as_not_done(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.on_call = lambda: setting.clock.advance_s(1)
    result = setting.rig.result(setting.rig.submit(FETCH, NUMBERS, timeout_ns=int(3.5e9)))
    assert (result.num_done, result.failure, result.num_bytes) == (3, Failure.TIMEOUT, 3 * BLOCK_BYTES)
    assert [setting.rig.slot(row) for row in range(3)] == [payload_of(key_of(number)) for number in range(3)]
    assert setting.disk.num_calls == 1 + 4


def test_a_group_that_comes_late_counts_as_not_done(setting: Setting) -> None:
    setting.rig.fill_slots(NUMBERS)
    setting.disk.on_call = lambda: setting.clock.advance_s(2)
    result = setting.rig.result(setting.rig.submit(PERSIST, NUMBERS, timeout_ns=10**9))
    assert (result.num_done, result.failure) == (0, Failure.TIMEOUT)
    setting.rig.wait_for(lambda: setting.rig.events)
    assert setting.rig.events[0].stored == [key_of(number) for number in NUMBERS], "but the records are there"


def test_a_slot_that_a_hanging_disk_may_write_is_given_back_only_when_it_ends(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.hang()
    hanging = setting.rig.submit(FETCH, NUMBERS, timeout_ns=10**9)
    assert setting.disk.entered.wait(60)
    setting.clock.advance_s(5)
    # Another transfer shows that the executor has seen the time: what waits ends, what hangs does not.
    setting.rig.move(SPILL, [1])
    assert hanging not in [result.transfer_id for result in setting.rig.results]
    setting.disk.let_go()
    result = setting.rig.result(hanging)
    assert (result.num_done, result.failure) == (0, Failure.TIMEOUT)


def test_what_waits_behind_a_hanging_disk_ends_at_its_deadline(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.hang()
    for _ in range(2):  # one for each reader
        setting.disk.entered.clear()
        setting.rig.submit(FETCH, [1], timeout_ns=10**12)
        assert setting.disk.entered.wait(60)
    waiting = setting.rig.submit(FETCH, [2], timeout_ns=10**9)
    setting.clock.advance_s(1.5)
    setting.rig.move(SPILL, [1])
    assert setting.rig.result(waiting).failure is Failure.TIMEOUT


def test_a_disk_that_hangs_is_told_once_and_what_waits_is_refused(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.hang()
    for _ in range(2):
        setting.disk.entered.clear()
        setting.rig.submit(FETCH, [1], timeout_ns=10**12)
        assert setting.disk.entered.wait(60)
    waiting = setting.rig.submit(FETCH, [2], timeout_ns=10**12)
    setting.clock.advance_s(11)
    setting.rig.move(SPILL, [1])
    assert setting.rig.result(waiting).failure is Failure.IO_ERROR
    assert setting.rig.move(PERSIST, [3]).failure is Failure.IO_ERROR
    setting.rig.wait_for(lambda: setting.rig.faults)
    assert len(setting.rig.faults) == 1
    assert "has not answered for 10 s" in setting.rig.faults[0].message
    setting.disk.let_go()
    assert setting.rig.executor.drain(60)
    assert setting.rig.move(FETCH, [1]).failure is None
    setting.rig.wait_for(lambda: len(setting.rig.faults) == 2)
    assert setting.rig.faults[1] == TierFault(Tier.DISK, "The disk tier works again", is_over=True)


def test_a_failing_disk_is_told_once_refused_fast_and_tried_again(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.error = OSError(5, "Input/output error")
    calls = setting.disk.num_calls
    results = [setting.rig.move(kind, [1]) for kind in (FETCH, PERSIST, FETCH, FETCH, PERSIST)]
    assert [result.failure for result in results] == [Failure.IO_ERROR] * 5
    assert setting.disk.num_calls == calls + 2, "after two failures nobody asks it"
    assert setting.rig.executor.disk_state is BreakerState.OPEN
    setting.clock.advance_s(6)
    assert setting.rig.move(FETCH, [1]).failure is Failure.IO_ERROR
    assert setting.rig.move(FETCH, [1]).failure is Failure.IO_ERROR
    setting.disk.error = None
    assert setting.rig.move(FETCH, [1]).failure is Failure.IO_ERROR, "the pause is not over"
    setting.clock.advance_s(6)
    assert setting.rig.move(FETCH, [1]).failure is None
    setting.rig.wait_for(lambda: len(setting.rig.faults) == 2)
    assert [(fault.tier, fault.is_over) for fault in setting.rig.faults] == [(Tier.DISK, False), (Tier.DISK, True)]
    assert "Input/output error" in setting.rig.faults[0].message


def test_one_failure_among_successes_is_only_that_transfers(setting: Setting) -> None:
    setting.persist_all()
    for _ in range(5):
        setting.disk.error = OSError(24, "Too many open files")
        assert setting.rig.move(FETCH, [1]).failure is Failure.IO_ERROR
        setting.disk.error = None
        assert setting.rig.move(FETCH, [1]).failure is None
    assert setting.rig.faults == []


def test_an_unexpected_error_ends_no_thread(setting: Setting) -> None:
    setting.persist_all()
    setting.disk.error = RuntimeError("a fault of ours")
    assert setting.rig.move(FETCH, [1]).failure is Failure.IO_ERROR
    setting.rig.wait_for(lambda: setting.rig.faults)
    assert "RuntimeError('a fault of ours')" in setting.rig.faults[0].message
    setting.disk.error = None
    setting.clock.advance_s(6)
    assert setting.rig.move(FETCH, NUMBERS).failure is None
    assert setting.rig.move(PERSIST, NUMBERS).failure is None


def test_a_short_disk_gives_the_rows_before_the_first_bad_one(setting: Setting) -> None:
    setting.rig.fill_slots(NUMBERS)
    setting.disk.is_short = True
    result = setting.rig.move(PERSIST, NUMBERS)
    assert (result.num_done, result.failure) == (4, Failure.FULL)
    assert setting.rig.move(FETCH, [0]).failure is Failure.CORRUPT
    setting.rig.wait_for(lambda: setting.rig.faults)
    assert setting.rig.faults == [TierFault(Tier.DISK, "it is short of space")]


def test_a_missing_record_ends_a_fetch_after_the_good_rows(setting: Setting) -> None:
    setting.persist_all()
    result = setting.rig.move(FETCH, [0, 1, 99, 3])
    assert (result.num_done, result.failure) == (2, Failure.MISSING)


def test_small_persists_share_a_group(setting: Setting) -> None:
    setting.rig.fill_slots(NUMBERS)
    setting.disk.hang()
    first = setting.rig.submit(PERSIST, [0])
    assert setting.disk.entered.wait(60)
    others = [setting.rig.submit(PERSIST, [number], slots=[number]) for number in NUMBERS[1:]]
    setting.disk.let_go()
    assert [setting.rig.result(number).failure for number in (first, *others)] == [None] * 8
    assert setting.disk.num_calls == 2


def test_a_hanging_disk_holds_up_neither_spills_nor_loads(setting: Setting) -> None:
    setting.disk.hang()
    setting.rig.submit(PERSIST, [1])
    assert setting.disk.entered.wait(60)
    assert setting.rig.move(SPILL, NUMBERS).failure is None
    assert setting.rig.move(LOAD, NUMBERS).failure is None


def test_without_a_disk_its_moves_are_refused() -> None:
    rig = TierRig(None)
    assert rig.move(FETCH, [1]).failure is Failure.IO_ERROR
    assert rig.move(SPILL, [1]).failure is None
    rig.close()


def test_a_lane_has_an_end(tmp_path: Path) -> None:
    inner = open_disk(tmp_path)
    disk = FlakyDisk(inner)
    rig = TierRig(disk, limits=ExecutorLimits(max_waiting=3))
    disk.hang()
    rig.submit(PERSIST, [1])
    assert disk.entered.wait(60)
    ids = [rig.submit(PERSIST, [1]) for _ in range(4)]
    assert rig.result(ids[3]).failure is Failure.CANCELLED
    disk.let_go()
    assert [rig.result(number).failure for number in ids[:3]] == [None] * 3
    rig.close()
    inner.close()


def test_hits_are_written_back_when_the_disk_rests(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    rig = TierRig(disk, limits=ExecutorLimits(disk=DiskLimits(flush_after_s=0.01)))
    rig.fill_slots([1])
    rig.move(PERSIST, [1])
    rig.move(FETCH, [1])
    rig.close()
    assert disk.care.stats().namespaces[0].num_hits == 1
    disk.close()


def test_a_corrupt_record_is_reported_and_only_it_is_dropped(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    rig = TierRig(disk)
    rig.fill_slots(NUMBERS)
    rig.move(PERSIST, NUMBERS)
    slab = next(tmp_path.glob("*.slab"))
    with slab.open("r+b") as file:
        file.seek(4096 + 2 * 16384 + 5000)
        file.write(b"rot")
    result = rig.move(FETCH, NUMBERS)
    assert (result.num_done, result.failure) == (2, Failure.CORRUPT)
    corrupt = rig.wait_for(lambda: [event for event in rig.events if event.corrupt])
    assert corrupt[0].corrupt == [key_of(2)]
    assert rig.move(FETCH, [2]).failure is Failure.MISSING
    assert rig.move(FETCH, [3]).failure is None
    rig.close()
    disk.close()


class RecordingDisk(FlakyDisk):
    """Notes which keys were fetched."""

    def __init__(self, inner: DiskStore) -> None:
        super().__init__(inner)
        self.fetched: list[bytes] = []

    def fetch(self, key: bytes, into: memoryview) -> Failure | None:
        self.fetched.append(key)
        return super().fetch(key, into)


def test_beside_somebody_who_computes_one_fetch_goes_after_the_other(tmp_path: Path) -> None:
    """With little time to move in, the first rows are there soonest if they do not share it with those behind them."""
    inner, gauge = open_disk(tmp_path), ComputeGauge()
    disk = RecordingDisk(inner)
    rig = TierRig(disk, gauge=gauge, limits=ExecutorLimits(urgent_share=0.05))
    numbers = list(range(24))
    rig.fill_slots(numbers)
    assert rig.move(PERSIST, numbers).failure is None
    with gauge:
        fetches = [rig.submit(FETCH, numbers[i : i + 8], slots=numbers[i : i + 8]) for i in (0, 8, 16)]
        assert all(rig.result(fetch).failure is None for fetch in fetches)
    assert disk.fetched == [key_of(number) for number in numbers]
    rig.close()
    inner.close()


def test_a_fetch_that_hangs_holds_up_those_behind_it_for_a_while_at_most(tmp_path: Path) -> None:
    inner, gauge = open_disk(tmp_path), ComputeGauge()
    disk, clock = RecordingDisk(inner), FakeClock()
    limits = ExecutorLimits(urgent_share=0.05, disk=DiskLimits(hang_s=1e9))
    rig = TierRig(disk, gauge=gauge, clock=clock, limits=limits)
    numbers = list(range(4))
    rig.fill_slots(numbers)
    assert rig.move(PERSIST, numbers).failure is None
    with gauge:
        disk.hang()
        rig.submit(FETCH, numbers[:2], slots=numbers[:2])
        assert disk.entered.wait(60)
        behind = rig.submit(FETCH, numbers[2:], slots=numbers[2:], timeout_ns=10**18)
        disk.entered.clear()
        # However late its reader begins to wait.
        while not disk.entered.wait(0.02):
            clock.advance_s(2)
    disk.let_go()
    assert rig.result(behind).failure is None
    rig.close()
    inner.close()
