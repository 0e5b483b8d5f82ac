"""The threads between host slots and the disk: one that persists in groups, and some that fetch.

A disk that fails, or does not answer, is told to people once. From then on its transfers are refused at once, until a
single one, now and then, is let through to see whether it is back. No error ends a thread.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from kvstore.breaker import Breaker, BreakerState
from kvstore.courtesy import Courtesy
from kvstore.disk_group import GROUP_ROWS
from kvstore.disk_store import DiskStore, StoreResult, StoreRow
from kvstore.errors import DiskTierError, FilesReplaced
from kvstore.lane import Job
from kvstore.slab import HostSlab
from kvstore.transfer import Failure, Tier, TierEvents, TierFault
from kvstore.transfer_desk import TransferDesk

T = TypeVar("T")

READ_AHEAD_ROWS = 16
_MAX_TURN_NS = 1_000_000_000
"""A fetch does not stand back for longer, whatever becomes of the one before it."""
_GLANCE_S = 0.005


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How patient to be with a disk."""

    num_readers: int = 3
    max_failures: int = 3
    """In a row, before the disk counts as failing."""
    hang_s: float = 10.0
    """Without an answer, before it does."""
    retry_after_s: float = 5.0
    flush_after_s: float = 2.0
    """Hits and dropped records are written back with the next group, or after as long without one."""


class _DiskRefused(Exception):
    """The disk failed, or is known to. People have been told."""


class DiskThreads:
    """Moves rows between `slab` and `disk`, for the jobs of `desk`. Owns none of them."""

    def __init__(
        self,
        disk: DiskStore,
        slab: HostSlab,
        desk: TransferDesk,
        on_events: Callable[[TierEvents], None],
        on_fault: Callable[[TierFault], None],
        limits: DiskLimits,
        urgent: Courtesy,
        background: Courtesy,
    ) -> None:
        self._disk = disk
        self._slab = slab
        self._desk = desk
        self._on_events = on_events
        self._on_fault = on_fault
        self._limits = limits
        self._urgent = urgent
        self._background = background
        # Under the desk's condition: fetches that a reader has taken, in that order.
        self._fetching: list[Job] = []
        self._hang_ns = int(limits.hang_s * 1e9)
        self.breaker = Breaker(Tier.DISK, limits.max_failures, int(limits.retry_after_s * 1e9))
        """Under the desk's condition."""
        self._busy_since_ns: dict[int, int] = {}
        self._hanging: set[int] = set()
        self._said: str | None = None
        self._flush_at_ns: int | None = None

    def bodies(self) -> list[tuple[str, Callable[[], None]]]:
        """Name and body of each thread."""
        readers = [(f"disk-reader-{number}", self._read) for number in range(self._limits.num_readers)]
        return [("disk-writer", self._write), *readers]

    def watch(self, now_ns: int) -> int | None:
        """For the herald: notice a disk that hangs. Returns when to look again. Under the desk's condition."""
        upcoming = []
        for thread, since_ns in self._busy_since_ns.items():
            if thread in self._hanging:
                continue
            if since_ns + self._hang_ns > now_ns:
                upcoming.append(since_ns + self._hang_ns)
                continue
            self._hanging.add(thread)
            self._fail(f"The disk has not answered for {self._limits.hang_s:g} s; look at it", at_once=True)
        # A call that begins now notifies nobody: look again in time for it.
        return min(upcoming, default=now_ns + self._hang_ns) if self._desk.has_open else None

    def _write(self) -> None:
        desk, lane = self._desk, self._desk.persists
        while True:
            with desk.condition:
                while not len(lane) and not desk.is_closing and (pause_s := self._until_flush_s()) != 0:
                    desk.condition.wait(pause_s)
                jobs: list[Job] = []
                while sum(job.rows_left for job in jobs) < GROUP_ROWS and (job := desk.take_more(lane)) is not None:
                    jobs.append(job)
            if jobs:
                self._persist(jobs)
                continue
            self._flush()
            if desk.is_closing:
                return

    def _until_flush_s(self) -> float | None:
        """0 when it is time to write back what readers noted, None when there is nothing. Under the condition."""
        if not self._disk.has_pending:
            self._flush_at_ns = None
            return None
        now_ns = self._desk.clock()
        if self._flush_at_ns is None:
            self._flush_at_ns = now_ns + int(self._limits.flush_after_s * 1e9)
        return max(0, self._flush_at_ns - now_ns) / 1e9

    def _flush(self) -> None:
        self._flush_at_ns = None
        if self._disk.has_pending:
            try:
                self._call(self._disk.flush)
            except _DiskRefused:
                # Hits are lost, corrupt records are found again; nothing worth another try at once.
                self._flush_at_ns = self._desk.clock() + int(self._limits.flush_after_s * 1e9)
        self._tell_events()

    def _persist(self, jobs: list[Job]) -> None:
        """One group: as many rows of the jobs as it takes, the rest goes back."""
        desk, taken_ns = self._desk, self._desk.clock()
        desk.rest(self._background)
        begin_ns = desk.clock()
        group: list[tuple[Job, StoreRow]] = []
        for job in jobs:
            transfer = job.transfer
            for row in range(job.next_row, transfer.num_rows):
                if len(group) == GROUP_ROWS or job.deadline_ns <= begin_ns:
                    break
                payload = self._slab.slot(transfer.host_slots[row])
                group.append((job, StoreRow(transfer.keys[row], payload, transfer.depths[row], transfer.tenant)))
        failures: list[Failure | None] = []
        if group:
            try:
                with self._background.charged():
                    result = self._call(partial(self._disk.store, [row for _, row in group]))
                failures = result.failures
                self._tell_notice(result)
            except _DiskRefused:
                failures = [Failure.IO_ERROR] * len(group)
        end_ns = desk.clock()
        self._tell_events()
        first_failure: dict[int, Failure] = {}
        for (job, _), failure in zip(group, failures, strict=True):
            number = id(job)
            if failure is None and job.deadline_ns < end_ns:
                failure = Failure.TIMEOUT
            if number in first_failure:
                continue
            if failure is None:
                job.next_row += 1
            else:
                first_failure[number] = failure
        waiting = []
        for job in jobs:
            job.copy_ns += end_ns - taken_ns
            failure = first_failure.get(id(job))
            if failure is None and job.deadline_ns <= end_ns:
                failure = Failure.TIMEOUT
            if failure is not None or not job.rows_left:
                desk.finish(job, failure)
            else:
                waiting.append(job)
        for job in reversed(waiting):
            desk.put_back(desk.persists, job)

    def _read(self) -> None:
        desk = self._desk
        while True:
            with desk.condition:
                job = desk.take(desk.fetches)
                if job is None:
                    return
                self._fetching.append(job)
            try:
                failure = self._fetch(job)
            finally:
                with desk.condition:
                    self._fetching.remove(job)
                    desk.condition.notify_all()
            desk.finish(job, failure)

    def _wait_for_turn(self, job: Job) -> None:
        """While there is little time to move in, one fetch after the other gets it, so that the first is soon there."""
        desk = self._desk
        until_ns = (job.started_ns or job.received_ns) + _MAX_TURN_NS
        with desk.condition:
            while (
                self._fetching[0] is not job
                and self._urgent.is_due
                and not desk.is_closing
                and desk.clock() < min(until_ns, job.deadline_ns)
            ):
                desk.condition.wait(_GLANCE_S)

    def _fetch(self, job: Job) -> Failure | None:
        """Bring rows until one fails or comes late; `job.next_row` counts those that are good."""
        desk, transfer = self._desk, job.transfer
        while job.rows_left:
            self._wait_for_turn(job)
            row, taken_ns = job.next_row, desk.clock()
            desk.rest(self._urgent)
            begin_ns = desk.clock()
            job.copy_ns += begin_ns - taken_ns
            if job.deadline_ns <= begin_ns:
                return Failure.TIMEOUT
            if desk.is_closing:
                return Failure.CANCELLED
            into = self._slab.slot(transfer.host_slots[row])
            try:
                with self._urgent.charged():
                    if row % READ_AHEAD_ROWS == 0:
                        # The first time this window and the next, then always one window ahead.
                        start = row + READ_AHEAD_ROWS if row else 0
                        ahead = transfer.keys[start : row + 2 * READ_AHEAD_ROWS]
                        if len(ahead) > 1:
                            self._call(partial(self._disk.read_ahead, ahead))
                    failure = self._call(partial(self._disk.fetch, transfer.keys[row], into))
            except _DiskRefused:
                failure = Failure.IO_ERROR
            end_ns = desk.clock()
            job.copy_ns += end_ns - begin_ns
            if failure is Failure.CORRUPT:
                self._tell_events()
            if failure is not None:
                return failure
            if job.deadline_ns < end_ns:
                return Failure.TIMEOUT
            job.next_row += 1
        return None

    def _call(self, call: Callable[[], T]) -> T:
        """Ask the disk. Whatever it raises becomes `_DiskRefused`, after people were told."""
        thread, desk = threading.get_ident(), self._desk
        with desk.condition:
            now_ns = desk.clock()
            if not self.breaker.may_try(now_ns):
                raise _DiskRefused
            is_trial = self.breaker.state is BreakerState.TRYING
            self._busy_since_ns[thread] = now_ns
        message, at_once = "", False
        try:
            if is_trial:
                self._disk.revive()
            value = call()
        except (OSError, DiskTierError) as error:
            message, at_once = str(error), isinstance(error, FilesReplaced)
        except Exception as error:  # a fault of ours: it must not take the thread with it
            message, at_once = f"The disk tier failed unexpectedly: {error!r}", True
        with desk.condition:
            del self._busy_since_ns[thread]
            self._hanging.discard(thread)
            if message:
                self._fail(message, at_once=at_once)
                raise _DiskRefused
            fault = self.breaker.succeed()
            if fault is not None:
                desk.announce(partial(self._on_fault, fault))
        return value

    def _fail(self, message: str, *, at_once: bool) -> None:
        """Under the desk's condition."""
        desk = self._desk
        fault = self.breaker.fail(message, desk.clock(), at_once=at_once)
        if fault is not None:
            desk.withdraw(desk.persists, Failure.IO_ERROR)
            desk.withdraw(desk.fetches, Failure.IO_ERROR)
            desk.announce(partial(self._on_fault, fault))

    def _tell_events(self) -> None:
        events = self._disk.take_events()
        if events:
            self._desk.shield(partial(self._on_events, events))

    def _tell_notice(self, result: StoreResult) -> None:
        """Each new one once, and that it holds no longer."""
        if result.notice == self._said:
            return
        fault = TierFault(
            Tier.DISK, result.notice or "There is room for the disk tier again", is_over=not result.notice
        )
        self._desk.announce(partial(self._on_fault, fault))
        self._said = result.notice
