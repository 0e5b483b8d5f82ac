"""What every pair of neighbouring tiers promises: bytes, order, one result, deadlines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvstore.transfer import Failure, MoveKind, TransferResult
from tests.disk_rows import BLOCK_BYTES, key_of, open_disk, payload_of
from tests.fakes.clock import FakeClock
from tests.fakes.flaky_disk import FlakyDisk
from tests.tier_rig import TierRig


@dataclass(frozen=True)
class Tiers:
    """A rig, and the two moves between the tiers under test."""

    rig: TierRig
    clock: FakeClock
    down: MoveKind
    up: MoveKind

    def fill_upper(self, numbers: list[int]) -> None:
        if self.down is MoveKind.SPILL:
            self.rig.fill_pool(numbers)
        else:
            self.rig.fill_slots(numbers)

    def wipe_upper(self) -> None:
        (self.rig.pool if self.down is MoveKind.SPILL else self.rig.slab.tensor).zero_()

    def upper(self, row: int) -> bytes:
        return self.rig.block(row) if self.down is MoveKind.SPILL else self.rig.slot(row)


@pytest.fixture(params=["device and host", "host and disk", "host and a wrapped disk"])
def tiers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tiers]:
    disk = open_disk(tmp_path)
    clock = FakeClock()
    rig = TierRig(FlakyDisk(disk) if request.param == "host and a wrapped disk" else disk, clock=clock)
    is_copy = request.param == "device and host"
    moves = (MoveKind.SPILL, MoveKind.LOAD) if is_copy else (MoveKind.PERSIST, MoveKind.FETCH)
    yield Tiers(rig, clock, *moves)
    rig.close()
    disk.close()


def test_what_goes_down_comes_up_byte_for_byte(tiers: Tiers) -> None:
    numbers = list(range(40))
    tiers.fill_upper(numbers)
    down = tiers.rig.move(tiers.down, numbers)
    assert (down.num_done, down.failure, down.num_bytes) == (40, None, 40 * BLOCK_BYTES)
    tiers.wipe_upper()
    up = tiers.rig.move(tiers.up, numbers)
    assert (up.num_done, up.failure, up.num_bytes) == (40, None, 40 * BLOCK_BYTES)
    assert [tiers.upper(row) for row in numbers] == [payload_of(key_of(number)) for number in numbers]


def test_every_transfer_has_exactly_one_result(tiers: Tiers) -> None:
    tiers.fill_upper(list(range(48)))
    ids = [tiers.rig.submit(kind, list(range(n))) for n in (0, 1, 7, 48) for kind in (tiers.down, tiers.up)]
    assert tiers.rig.executor.drain(60)
    assert sorted(result.transfer_id for result in tiers.rig.results) == ids


def test_an_empty_transfer_is_done(tiers: Tiers) -> None:
    assert tiers.rig.move(tiers.up, []) == TransferResult(1, 0, None, 0, 0, 0)


def test_a_transfer_past_its_deadline_moves_nothing(tiers: Tiers) -> None:
    tiers.fill_upper([1, 2])
    assert tiers.rig.move(tiers.down, [1, 2]).failure is None
    tiers.wipe_upper()
    result = tiers.rig.result(tiers.rig.submit(tiers.up, [1, 2], timeout_ns=0))
    assert (result.num_done, result.failure, result.num_bytes) == (0, Failure.TIMEOUT, 0)
    assert not any(tiers.upper(0))


def test_closing_ends_every_transfer_and_refuses_new_ones(tiers: Tiers) -> None:
    tiers.fill_upper(list(range(16)))
    ids = [tiers.rig.submit(tiers.down, list(range(16))) for _ in range(50)]
    tiers.rig.close()
    assert sorted(result.transfer_id for result in tiers.rig.results) == ids
    assert {result.failure for result in tiers.rig.results} <= {None, Failure.CANCELLED}
    with pytest.raises(RuntimeError, match="closing"):
        tiers.rig.submit(tiers.up, [1])
