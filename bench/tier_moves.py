"""Bandwidth of the four moves, through the executor, beside what the machine gives for the same bytes without it."""

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from kvstore.disk import DiskTier
from kvstore.executor import TierExecutor
from kvstore.slab import HostSlab
from kvstore.slab_file import slot_bytes
from kvstore.transfer import NO_TENANT, MoveKind, TierFault, Transfer, TransferResult

ROWS_PER_TRANSFER = 64
NAMESPACE = b"bench.tiers".ljust(32, b".")

Rates = dict[str, list[float]]
"""GB/s of each round, by what was measured."""


class Moves:
    """`num_rows` blocks of random bytes on the CPU, and tiers for them in `directory`."""

    def __init__(self, directory: Path, block_bytes: int, num_rows: int) -> None:
        self._rows = num_rows
        self._block_bytes = block_bytes
        generator = torch.Generator().manual_seed(1)
        self._pool = torch.randint(0, 256, (num_rows, block_bytes), dtype=torch.uint8, generator=generator)
        self._slab = HostSlab(num_rows, block_bytes, torch.device("cpu"))
        # Room for the last two rounds: from the third on, slots are recycled.
        cap_bytes = 2 * (num_rows + 64) * slot_bytes(block_bytes) * 9 // 8
        self._disk = DiskTier.open(directory, namespace=NAMESPACE, block_bytes=block_bytes, cap_bytes=cap_bytes)
        self._results: list[TransferResult] = []
        self._faults: list[TierFault] = []
        self._executor = TierExecutor(
            self._pool,
            self._slab,
            self._disk,
            on_result=self._results.append,
            on_events=lambda _: None,
            on_fault=self._faults.append,
        )
        self._raw_path = directory / "raw"
        self._raw = os.open(self._raw_path, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self._raw, 0, 2 * num_rows * block_bytes)
        self._keys: list[bytes] = []

    def round(self, number: int, rates: Rates) -> None:
        """Everything once, the ceiling next to what it bounds."""
        rows = list(range(self._rows))
        scattered = random.Random(number).sample(rows, self._rows)
        self._keys = [os.urandom(32) for _ in rows]
        pool, slab = self._pool.numpy(), self._slab.tensor.numpy()
        with self._timed(rates, "memcpy, one block at a time"):
            for block, slot in zip(scattered, rows, strict=True):
                np.copyto(slab[slot], pool[block])
        with self._timed(rates, "spill, scattered"):
            self._move(MoveKind.SPILL, scattered)
        with self._timed(rates, "load, scattered"):
            self._move(MoveKind.LOAD, scattered)
        with self._timed(rates, "memcpy, in one piece"):
            np.copyto(slab, pool)
        with self._timed(rates, "spill, contiguous"):
            self._move(MoveKind.SPILL, rows)
        with self._timed(rates, "load, contiguous"):
            self._move(MoveKind.LOAD, rows)
        base = number % 2 * self._rows * self._block_bytes
        with self._timed(rates, "raw file, write"):
            for slot in rows:
                os.pwrite(self._raw, self._slab.slot(slot), base + slot * self._block_bytes)
        with self._timed(rates, "persist"):
            self._move(MoveKind.PERSIST, rows)
        self._read(rates, "warm", base)
        self._drop_cached()
        self._read(rates, "cold", base)
        if self._faults:
            raise RuntimeError(f"the tiers failed: {self._faults}")
        if not torch.equal(self._slab.tensor, self._pool):
            raise RuntimeError("what came up is not what went down")

    def close(self) -> None:
        self._executor.close()
        self._disk.close()
        os.close(self._raw)

    def _read(self, rates: Rates, state: str, base: int) -> None:
        with self._timed(rates, f"raw file, read {state}"):
            for slot in range(self._rows):
                os.preadv(self._raw, [self._slab.slot(slot)], base + slot * self._block_bytes)
        self._slab.tensor.zero_()
        with self._timed(rates, f"fetch, {state}"):
            self._move(MoveKind.FETCH, list(range(self._rows)))

    def _move(self, kind: MoveKind, block_ids: list[int]) -> None:
        """All rows, `block_ids[i]` to or from slot i."""
        is_copy = kind in (MoveKind.SPILL, MoveKind.LOAD)
        self._results.clear()
        for start in range(0, self._rows, ROWS_PER_TRANSFER):
            slots = list(range(start, min(start + ROWS_PER_TRANSFER, self._rows)))
            self._executor.submit(
                Transfer(
                    transfer_id=start,
                    kind=kind,
                    keys=[self._keys[slot] for slot in slots],
                    block_ids=[block_ids[slot] for slot in slots] if is_copy else [],
                    host_slots=slots,
                    depths=slots,
                    tenant=NO_TENANT,
                    timeout_ns=10**12,
                )
            )
        if not self._executor.drain(600) or any(result.failure for result in self._results):
            raise RuntimeError(f"a {kind.value} failed: {self._results}")

    def _drop_cached(self) -> None:
        """The files out of the page cache, as after a restart of the machine."""
        for path in self._raw_path.parent.iterdir():
            fd = os.open(path, os.O_RDWR)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    @contextmanager
    def _timed(self, rates: Rates, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        rates[name].append(self._rows * self._block_bytes / (time.perf_counter() - begin) / 1e9)


def measure_moves(
    directory: Path, block_bytes: int, num_rows: int, rounds: int, on_round: Callable[[int], None]
) -> Rates:
    """Rates of `rounds` rounds, after two that are not counted: they fill the files for the first time."""
    rates: Rates = defaultdict(list)
    moves = Moves(directory, block_bytes, num_rows)
    try:
        for number in range(rounds + 2):
            on_round(number)
            moves.round(number, rates if number >= 2 else defaultdict(list))
    finally:
        moves.close()
    return rates
