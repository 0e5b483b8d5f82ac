"""LMDB with the records as its values, against records in a slab file with an LMDB index, under churn.

Both keep at most the cap in records; each group deletes as many as it puts once the cap is reached.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from kvstore.disk import DiskTier
from kvstore.disk_files import DiskOptions
from kvstore.disk_store import StoreRow
from kvstore.transfer import NO_TENANT

GROUP_ROWS = 16
_NUM_PAYLOADS = 64


@dataclass(frozen=True, slots=True)
class Churn:
    """What one way made of the same traffic."""

    way: str
    write_gb_per_s: float
    """Through the page cache; over everything that was written, commits and evictions included."""
    group_p50_ms: float
    group_max_ms: float
    file_bytes: int
    """On the disk at the end."""
    file_per_live: float
    """The same, over the bytes of the records that it holds."""
    read_warm_gb_per_s: float
    read_cold_gb_per_s: float
    """From the disk, one record after another."""


class LmdbValues:
    """The records are values in LMDB. Evicts at random."""

    def __init__(self, directory: Path, record_bytes: int, cap_bytes: int, sync: bool) -> None:
        self.way = f"LMDB values, {'synced' if sync else 'not synced'}"
        self.path = directory / "values.mdb"
        self._sync = sync
        self._cap_rows = cap_bytes // record_bytes
        self._live: list[bytes] = []
        self._random = random.Random(1)
        # Far above the cap, or fragmentation would end the run with a full map.
        self._map_bytes = 16 * cap_bytes
        self._open()

    def _open(self) -> None:
        self._env = lmdb.open(
            str(self.path), subdir=False, map_size=self._map_bytes, sync=self._sync, metasync=False, max_readers=8
        )

    def put(self, keys: list[bytes], payloads: list[memoryview]) -> None:
        with self._env.begin(write=True) as txn:
            for key, payload in zip(keys, payloads, strict=True):
                if len(self._live) >= self._cap_rows:
                    at = self._random.randrange(len(self._live))
                    self._live[at], self._live[-1] = self._live[-1], self._live[at]
                    txn.delete(self._live.pop())
                txn.put(key, payload)
                self._live.append(key)

    def keys(self) -> list[bytes]:
        return self._live

    def get(self, key: bytes, into: memoryview) -> None:
        with self._env.begin(buffers=True) as txn:
            value = txn.get(key)
            assert value is not None
            # Not a slice assignment, which would fault the pages in under the interpreter lock.
            np.copyto(np.frombuffer(into, np.uint8), np.frombuffer(value, np.uint8))

    def reopen(self) -> None:
        self._env.sync(True)
        self._env.close()
        drop_cached(self.path)
        self._open()

    def close(self) -> None:
        self._env.close()


class SlabAndIndex:
    """The disk tier as it is, checksums and all."""

    def __init__(self, directory: Path, record_bytes: int, cap_bytes: int) -> None:
        self.way = "slab file, LMDB index (synced)"
        self._directory = directory
        self._options = DiskOptions(directory, b"bench.churn".ljust(32, b"."), record_bytes, cap_bytes)
        self._random = random.Random(1)
        self._open()

    def _open(self) -> None:
        self._tier = DiskTier(self._options)

    @property
    def path(self) -> Path:
        return next(self._directory.glob("*.slab"))

    def put(self, keys: list[bytes], payloads: list[memoryview]) -> None:
        rows = [
            StoreRow(key, payload, self._random.randrange(128), NO_TENANT)
            for key, payload in zip(keys, payloads, strict=True)
        ]
        result = self._tier.store(rows)
        if any(result.failures):
            raise RuntimeError(f"the tier refused rows: {result}")

    def keys(self) -> list[bytes]:
        return [key for keys in self._tier.key_chunks() for key in keys]

    def get(self, key: bytes, into: memoryview) -> None:
        if failure := self._tier.fetch(key, into):
            raise RuntimeError(f"a record that was stored is {failure.value}")

    def reopen(self) -> None:
        self._tier.close()
        drop_cached(self.path)
        self._open()

    def close(self) -> None:
        self._tier.close()


Way = LmdbValues | SlabAndIndex


def drop_cached(path: Path) -> None:
    """Write the file out, and drop it from the page cache."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def measure_churn(
    way: Way, record_bytes: int, cap_bytes: int, times: float, on_progress: Callable[[float], None]
) -> Churn:
    """Write `times` the cap, then read everything that is there, warm and cold. Closes `way`."""
    source = np.random.default_rng(1).integers(0, 256, (_NUM_PAYLOADS, record_bytes), dtype=np.uint8)
    payloads = [memoryview(row).cast("B") for row in source]
    num_groups = int(times * cap_bytes / record_bytes / GROUP_ROWS)
    groups_s: list[float] = []
    for number in range(num_groups):
        keys = [os.urandom(32) for _ in range(GROUP_ROWS)]
        chosen = [payloads[(number * GROUP_ROWS + i) % _NUM_PAYLOADS] for i in range(GROUP_ROWS)]
        begin = time.perf_counter()
        way.put(keys, chosen)
        groups_s.append(time.perf_counter() - begin)
        on_progress((number + 1) / num_groups)
    keys = way.keys()
    warm = _read(way, keys, record_bytes)
    way.reopen()
    cold = _read(way, keys, record_bytes)
    file_bytes = way.path.stat().st_blocks * 512
    way.close()
    return Churn(
        way=way.way,
        write_gb_per_s=num_groups * GROUP_ROWS * record_bytes / sum(groups_s) / 1e9,
        group_p50_ms=statistics.median(groups_s) * 1e3,
        group_max_ms=max(groups_s) * 1e3,
        file_bytes=file_bytes,
        file_per_live=file_bytes / (len(keys) * record_bytes),
        read_warm_gb_per_s=warm,
        read_cold_gb_per_s=cold,
    )


def _read(way: Way, keys: list[bytes], record_bytes: int) -> float:
    into = memoryview(bytearray(record_bytes))
    begin = time.perf_counter()
    for key in keys:
        way.get(key, into)
    return len(keys) * record_bytes / (time.perf_counter() - begin) / 1e9
