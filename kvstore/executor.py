"""Carries out transfers beside the compute: what the worker hands to it, and what it hears back.

    spill, load    the copier's thread (on CUDA a stream), loads first, in pieces: a load waits for one piece at most
    persist        the disk writer, in groups
    fetch          the disk readers

`submit` is called on the thread that computes, in the order of the scheduler's messages: whatever it has computed
before is what a spill reads. Results, events and faults are pushed from the executor's threads.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from kvstore.breaker import BreakerState
from kvstore.copier import BlockCopier
from kvstore.courtesy import ComputeGauge, Courtesy
from kvstore.disk_store import DiskStore
from kvstore.disk_threads import DiskLimits, DiskThreads
from kvstore.lane import Job
from kvstore.slab import HostSlab
from kvstore.streams import CopyStream, copy_stream
from kvstore.transfer import Failure, MoveKind, Tier, TierEvents, TierFault, Transfer
from kvstore.transfer_desk import OnResult, TransferDesk


@dataclass(frozen=True, slots=True)
class ExecutorLimits:
    """What bounds the executor."""

    max_waiting: int = 4096
    """Transfers per lane; beyond, they are refused with CANCELLED."""
    piece_bytes: int = 32 << 20
    """Of a spill or load between two looks at what else waits."""
    urgent_share: float = 1.0
    """Part of a core's time that loads and fetches together may take while somebody computes, in (0, 1]; below 1
    where they take it from those who compute."""
    background_share: float = 1.0
    """The same for spills, and once more for persists, for which nobody waits."""
    disk: DiskLimits = field(default_factory=DiskLimits)


CPU_LIMITS = ExecutorLimits(piece_bytes=2 << 20, urgent_share=0.035, background_share=0.02)
"""Where the model computes on all cores, and one of its threads held up holds them all up: short pieces, and pauses."""


class TierExecutor:
    """Every submitted transfer gets exactly one result. Blocks and slots are the caller's again with it, not earlier.

    Owns its threads; not the pool, the slab or the disk, which must live until `close` has returned True.
    """

    def __init__(
        self,
        pool: torch.Tensor,
        slab: HostSlab,
        disk: DiskStore | None,
        *,
        on_result: OnResult,
        on_events: Callable[[TierEvents], None],
        on_fault: Callable[[TierFault], None],
        limits: ExecutorLimits | None = None,
        gauge: ComputeGauge | None = None,
        stream: CopyStream | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`pool` is `uint8[num_blocks, block_bytes]` on any device; `stream` defaults to that of its device.

        `gauge` says whether somebody computes; without it nobody ever does.
        """
        limits = limits or ExecutorLimits()
        gauge = gauge or ComputeGauge(clock)
        self._urgent = Courtesy(gauge, limits.urgent_share, clock)
        # Each has its own: a group of persists, which takes milliseconds, would hold up spills of microseconds.
        self._spills = Courtesy(gauge, limits.background_share, clock)
        persists = Courtesy(gauge, limits.background_share, clock)
        self._copier = BlockCopier(pool, slab.tensor, stream or copy_stream(pool.device))
        self._piece_rows = max(1, limits.piece_bytes // self._copier.block_bytes)
        self._on_fault = on_fault
        self._desk = TransferDesk(on_result, self._copier.block_bytes, limits.max_waiting, clock)
        self._disk: DiskThreads | None = None
        bodies: list[tuple[str, Callable[[], None]]] = [("tier-copier", self._copy), ("tier-herald", self._herald)]
        if disk is not None:
            self._disk = DiskThreads(disk, slab, self._desk, on_events, on_fault, limits.disk, self._urgent, persists)
            bodies += self._disk.bodies()
        self._threads = [threading.Thread(target=body, name=name, daemon=True) for name, body in bodies]
        for thread in self._threads:
            thread.start()

    @property
    def disk_state(self) -> BreakerState | None:
        """For health and metrics; None without a disk."""
        return None if self._disk is None else self._disk.breaker.state

    def submit(self, transfer: Transfer) -> None:
        """Take a transfer over. Never blocks. Raises RuntimeError once `close` was called."""
        desk, is_copy = self._desk, transfer.kind in (MoveKind.SPILL, MoveKind.LOAD)
        fence = self._copier.stream.fence() if is_copy else None
        job = Job(transfer, desk.clock(), fence)
        if is_copy:
            desk.accept(job, desk.copies, None)
        elif self._disk is None or self._disk.breaker.is_refusing(job.received_ns):
            desk.accept(job, None, Failure.IO_ERROR)
        else:
            desk.accept(job, desk.persists if transfer.kind is MoveKind.PERSIST else desk.fetches, None)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything submitted has its result; False if the time was too short. Submitting goes on."""
        return self._desk.wait_until_idle(timeout_s)

    def close(self, timeout_s: float = 30.0) -> bool:
        """Cancel what waits, let what is under way end, write back what the disk has pending, end the threads.

        False where a thread still hangs in a call after the time; its slots must then not be reused or freed.
        """
        self._desk.close()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _copy(self) -> None:
        desk = self._desk
        while (job := desk.take(desk.copies)) is not None:
            transfer, taken_ns = job.transfer, desk.clock()
            is_load = transfer.kind is MoveKind.LOAD
            courtesy = self._urgent if is_load else self._spills
            # A load does not wait behind the pause of a spill.
            may_go = desk.rest(courtesy, give_way_in=None if is_load else desk.copies)
            begin_ns = desk.clock()
            job.copy_ns += begin_ns - taken_ns
            if not may_go:
                desk.put_back(desk.copies, job)
                continue
            stop = min(job.next_row + self._piece_rows, transfer.num_rows)
            rows = slice(job.next_row, stop)
            if job.deadline_ns <= begin_ns:
                desk.finish(job, Failure.TIMEOUT)
                continue
            try:
                with courtesy.charged():
                    self._copier.copy(transfer.kind, transfer.block_ids[rows], transfer.host_slots[rows], job.fence)
            except Exception as error:  # of this transfer; the next one has its own chance
                desk.announce(self._copy_fault(transfer, error))
                desk.finish(job, Failure.IO_ERROR)
                continue
            end_ns = desk.clock()
            job.copy_ns += end_ns - begin_ns
            if job.deadline_ns < end_ns:
                desk.finish(job, Failure.TIMEOUT)
                continue
            job.next_row = stop
            if job.rows_left:
                desk.put_back(desk.copies, job)
            else:
                desk.finish(job, None)

    def _copy_fault(self, transfer: Transfer, error: Exception) -> Callable[[], None]:
        fault = TierFault(Tier.HOST, f"A {transfer.kind.value} of {transfer.num_rows} blocks failed: {error!r}")
        return lambda: self._on_fault(fault)

    def _herald(self) -> None:
        self._desk.herald(self._watch)

    def _watch(self, now_ns: int) -> int | None:
        return None if self._disk is None else self._disk.watch(now_ns)
