"""Transfers that wait for one kind of thread: first in, first out, loads before spills, bounded, with deadlines."""

import threading
from collections import deque
from dataclasses import dataclass

from kvstore.transfer import MoveKind, Transfer


@dataclass(slots=True, eq=False)
class Job:
    """A transfer under way. Touched by the one thread that has taken it, or under the lane's lock while it waits."""

    transfer: Transfer
    received_ns: int
    fence: object
    """Where compute stood at hand-over; `kvstore.streams`."""
    started_ns: int | None = None
    next_row: int = 0
    """Rows before it are done, in time."""
    copy_ns: int = 0

    @property
    def deadline_ns(self) -> int:
        return self.received_ns + self.transfer.timeout_ns

    @property
    def rows_left(self) -> int:
        return self.transfer.num_rows - self.next_row


class Lane:
    """A queue whose waiting jobs can be withdrawn. `condition` is notified whenever a job is there to take."""

    def __init__(self, condition: threading.Condition, max_jobs: int) -> None:
        """`condition` is shared with whoever else must see one state with this lane; all calls are made under it."""
        self._condition = condition
        self._max_jobs = max_jobs
        self._urgent: deque[Job] = deque()
        self._others: deque[Job] = deque()

    @property
    def has_urgent(self) -> bool:
        """Whether a job waits that goes before all others."""
        return bool(self._urgent)

    def __len__(self) -> int:
        return len(self._urgent) + len(self._others)

    def put(self, job: Job) -> bool:
        """False: the lane is full, and the job is still the caller's."""
        if len(self) >= self._max_jobs:
            return False
        self._queue(job).append(job)
        self._condition.notify_all()
        return True

    def put_back(self, job: Job) -> None:
        """A job of which only a piece was done goes on before those behind it."""
        self._queue(job).appendleft(job)
        self._condition.notify_all()

    def take(self) -> Job | None:
        for jobs in (self._urgent, self._others):
            if jobs:
                return jobs.popleft()
        return None

    def withdraw(self, deadline_ns: int | None = None) -> list[Job]:
        """Take out the jobs whose deadline is not after `deadline_ns`, or all."""
        gone = []
        for jobs in (self._urgent, self._others):
            late = [job for job in jobs if deadline_ns is None or job.deadline_ns <= deadline_ns]
            for job in late:
                jobs.remove(job)
            gone += late
        return gone

    def next_deadline_ns(self) -> int | None:
        return min((job.deadline_ns for jobs in (self._urgent, self._others) for job in jobs), default=None)

    def _queue(self, job: Job) -> deque[Job]:
        return self._urgent if job.transfer.kind is MoveKind.LOAD else self._others
