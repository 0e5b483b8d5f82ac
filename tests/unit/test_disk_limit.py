"""A read limit: records come at its pace, whoever asks, and everything else passes through."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvstore.disk import DiskTier
from kvstore.disk_limit import ReadLimit
from kvstore.disk_store import StoreRow
from kvstore.transfer import NO_TENANT, Failure

BLOCK_BYTES = 4096


class ManualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def disk(tmp_path: Path) -> DiskTier:
    return DiskTier.open(tmp_path, namespace=bytes(32), block_bytes=BLOCK_BYTES, cap_bytes=1 << 20)


def test_records_come_at_the_limits_pace(disk: DiskTier) -> None:
    time = ManualTime()
    limited = ReadLimit(disk, BLOCK_BYTES, 4 * BLOCK_BYTES, time.clock, time.sleep)
    keys = [bytes([i]) * 32 for i in range(8)]
    payloads = {key: bytes([i + 1]) * BLOCK_BYTES for i, key in enumerate(keys)}
    stored = limited.store([StoreRow(key, memoryview(payloads[key]), 0, NO_TENANT) for key in keys])
    assert stored.failures == [None] * 8
    into = memoryview(bytearray(BLOCK_BYTES))
    for key in keys:
        assert limited.fetch(key, into) is None
        assert bytes(into) == payloads[key]
    assert time.now_s == pytest.approx(102.0)
    assert limited.fetch(b"?" * 32, into) is Failure.MISSING
    disk.close()


def test_time_that_passed_unused_is_not_saved_up(disk: DiskTier) -> None:
    time = ManualTime()
    limited = ReadLimit(disk, BLOCK_BYTES, BLOCK_BYTES, time.clock, time.sleep)
    into = memoryview(bytearray(BLOCK_BYTES))
    limited.fetch(bytes(32), into)
    time.now_s += 50
    started_s = time.now_s
    limited.fetch(bytes(32), into)
    limited.fetch(bytes(32), into)
    assert time.now_s - started_s == pytest.approx(2.0)
    disk.close()
