"""An executor with ears, over a small pool and slab."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from kvstore.courtesy import ComputeGauge
from kvstore.disk_store import DiskStore
from kvstore.executor import ExecutorLimits, TierExecutor
from kvstore.slab import HostSlab
from kvstore.streams import CopyStream
from kvstore.transfer import NO_TENANT, MoveKind, TierEvents, TierFault, Transfer, TransferResult
from tests.disk_rows import BLOCK_BYTES, key_of, payload_of

T = TypeVar("T")

TIMEOUT_NS = 60 * 10**9


class TierRig:
    """An executor over a small pool and slab, and all that it said. To be closed."""

    def __init__(
        self,
        disk: DiskStore | None,
        *,
        limits: ExecutorLimits | None = None,
        stream: CopyStream | None = None,
        clock: Callable[[], int] | None = None,
        gauge: ComputeGauge | None = None,
        num_rows: int = 48,
    ) -> None:
        self.pool = torch.zeros(num_rows, BLOCK_BYTES, dtype=torch.uint8)
        self.slab = HostSlab(num_rows, BLOCK_BYTES, torch.device("cpu"))
        self.results: list[TransferResult] = []
        self.events: list[TierEvents] = []
        self.faults: list[TierFault] = []
        self._changed = threading.Condition()
        self._next_id = 0
        self.executor = TierExecutor(
            self.pool,
            self.slab,
            disk,
            on_result=self._note(self.results),
            on_events=self._note(self.events),
            on_fault=self._note(self.faults),
            limits=limits,
            stream=stream,
            clock=clock or time.monotonic_ns,
            gauge=gauge,
        )

    def submit(
        self,
        kind: MoveKind,
        numbers: Sequence[int],
        *,
        blocks: Sequence[int] | None = None,
        slots: Sequence[int] | None = None,
        timeout_ns: int = TIMEOUT_NS,
        tenant: bytes = NO_TENANT,
    ) -> int:
        """Rows of the keys of `numbers`; blocks and slots count from 0 where they are not given."""
        self._next_id += 1
        rows = list(range(len(numbers)))
        is_copy = kind in (MoveKind.SPILL, MoveKind.LOAD)
        self.executor.submit(
            Transfer(
                transfer_id=self._next_id,
                kind=kind,
                keys=[key_of(number) for number in numbers],
                block_ids=list(blocks if blocks is not None else rows) if is_copy else [],
                host_slots=list(slots if slots is not None else rows),
                depths=rows,
                tenant=tenant,
                timeout_ns=timeout_ns,
            )
        )
        return self._next_id

    def move(self, kind: MoveKind, numbers: Sequence[int], slots: Sequence[int] | None = None) -> TransferResult:
        """Submit, and wait for the result."""
        return self.result(self.submit(kind, numbers, slots=slots))

    def result(self, transfer_id: int) -> TransferResult:
        found = self.wait_for(lambda: [result for result in self.results if result.transfer_id == transfer_id])
        return found[0]

    def wait_for(self, look: Callable[[], T]) -> T:
        """What `look` returns once that is true."""
        with self._changed:
            value = look()
            while not value:
                assert self._changed.wait(60), "what the test waits for does not happen"
                value = look()
        return value

    def fill_pool(self, numbers: Sequence[int]) -> None:
        """Block i gets the payload of the i-th number."""
        for block, number in enumerate(numbers):
            self.pool[block] = torch.frombuffer(bytearray(payload_of(key_of(number))), dtype=torch.uint8)

    def fill_slots(self, numbers: Sequence[int]) -> None:
        for slot, number in enumerate(numbers):
            self.slab.slot(slot)[:] = payload_of(key_of(number))

    def slot(self, number: int) -> bytes:
        return bytes(self.slab.slot(number))

    def block(self, number: int) -> bytes:
        return self.pool[number].numpy().tobytes()

    def close(self) -> None:
        assert self.executor.close(timeout_s=60)

    def _note(self, log: list[T]) -> Callable[[T], None]:
        def note(entry: T) -> None:
            with self._changed:
                log.append(entry)
                self._changed.notify_all()

        return note
