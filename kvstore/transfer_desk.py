"""Where transfers wait, and where every one of them ends: with exactly one result, whatever happens.

    submit ──▶ waiting ──take──▶ with a thread ──finish──▶ result
                │  ▲──put_back──────┘
                └──deadline, closing, a broken tier──▶ herald ──▶ result

A waiting job touches no slot, so the herald, a thread of its own, ends it the moment its deadline passes. A job that
a thread has taken ends only when that thread lets go of it, late or not: until then its slots may still be written.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from kvstore.courtesy import Courtesy
from kvstore.lane import Job, Lane
from kvstore.transfer import Failure, TransferResult

_log = logging.getLogger(__name__)

_GLANCE_S = 0.005
"""Between two looks at whether somebody still computes."""

OnResult = Callable[[TransferResult], None]


class TransferDesk:
    """Shared by the threads of one executor; every method is safe from any of them."""

    def __init__(self, on_result: OnResult, block_bytes: int, max_waiting: int, clock: Callable[[], int]) -> None:
        """`max_waiting` transfers may wait in each lane. `clock` counts monotonic nanoseconds."""
        self.condition = threading.Condition()
        """Guards all state of the desk, and of whoever else must change together with it."""
        self.copies = Lane(self.condition, max_waiting)
        self.persists = Lane(self.condition, max_waiting)
        self.fetches = Lane(self.condition, max_waiting)
        self.is_closing = False
        self.clock = clock
        self._on_result = on_result
        self._block_bytes = block_bytes
        self._ended: deque[tuple[Job, Failure | None]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._num_open = 0

    @property
    def has_open(self) -> bool:
        """Whether a transfer waits for its result."""
        return self._num_open > 0

    def accept(self, job: Job, lane: Lane | None, refusal: Failure | None) -> None:
        """Take a job into `lane`, or let the herald end it with `refusal`."""
        with self.condition:
            if self.is_closing:
                raise RuntimeError("a transfer was submitted to an executor that is closing; its session must be void")
            self._num_open += 1
            if lane is None or refusal is not None or not job.rows_left:
                self._end(job, refusal)
            elif not lane.put(job):
                self._end(job, Failure.CANCELLED)

    def take(self, lane: Lane) -> Job | None:
        """The next job of the lane, marked as started; None when the desk closes."""
        with self.condition:
            self.condition.wait_for(lambda: len(lane) or self.is_closing)
            return self.take_more(lane)

    def take_more(self, lane: Lane) -> Job | None:
        """As `take`, without waiting."""
        with self.condition:
            job = lane.take()
            if job is not None and job.started_ns is None:
                job.started_ns = self.clock()
            return job

    def rest(self, courtesy: Courtesy, give_way_in: Lane | None = None) -> bool:
        """Wait as long as courtesy asks, at most until the desk closes. False: a more urgent job came into the lane."""
        pause_ns = courtesy.pause_ns()
        until_ns = self.clock() + pause_ns
        while pause_ns > 0 and courtesy.is_due:
            with self.condition:
                if self.is_closing:
                    return True
                if give_way_in is not None and give_way_in.has_urgent:
                    return False
                self.condition.wait(min(pause_ns / 1e9, _GLANCE_S))
            pause_ns = until_ns - self.clock()
        return True

    def put_back(self, lane: Lane, job: Job) -> None:
        """A piece of the job is done. It goes on when its turn comes, unless the desk closes."""
        with self.condition:
            if self.is_closing:
                self._end(job, Failure.CANCELLED)
            else:
                lane.put_back(job)

    def withdraw(self, lane: Lane, failure: Failure) -> None:
        """End what waits in the lane."""
        with self.condition:
            for job in lane.withdraw():
                self._end(job, failure)

    def finish(self, job: Job, failure: Failure | None) -> None:
        """Say the result. The caller touches the job and its slots no more."""
        if not job.rows_left:
            failure = None
        assert failure is not None or not job.rows_left, f"{job.transfer} ends early without a reason"
        started_ns = self.clock() if job.started_ns is None else job.started_ns
        result = TransferResult(
            transfer_id=job.transfer.transfer_id,
            num_done=job.next_row,
            failure=failure,
            num_bytes=job.next_row * self._block_bytes,
            wait_ns=started_ns - job.received_ns,
            copy_ns=job.copy_ns,
            finished_ns=self.clock(),
        )
        self.shield(lambda: self._on_result(result))
        with self.condition:
            self._num_open -= 1
            self.condition.notify_all()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether every transfer has had its result before the timeout."""
        with self.condition:
            return self.condition.wait_for(lambda: self._num_open == 0, timeout_s)

    def close(self) -> None:
        """Accept nothing more, end what waits, let the threads leave."""
        with self.condition:
            self.is_closing = True
            for lane in (self.copies, self.persists, self.fetches):
                self.withdraw(lane, Failure.CANCELLED)
            self.condition.notify_all()

    def announce(self, call: Callable[[], None]) -> None:
        """Let the herald make a call that must not be made under a lock."""
        with self.condition:
            self._calls.append(call)
            self.condition.notify_all()

    def herald(self, watch: Callable[[int], int | None]) -> None:
        """Body of the herald's thread: ends waiting jobs in time until the desk is closed and all have ended.

        `watch(now_ns)` is called now and then, and returns when to call it again; None: when something changes.
        """
        while True:
            with self.condition:
                now_ns = self.clock()
                for lane in (self.copies, self.persists, self.fetches):
                    for job in lane.withdraw(now_ns):
                        self._end(job, Failure.TIMEOUT)
                watch_at_ns = watch(now_ns)
                ended, calls = list(self._ended), list(self._calls)
                self._ended.clear()
                self._calls.clear()
                if not ended and not calls:
                    if self.is_closing and not self._num_open:
                        return
                    self.condition.wait(self._pause_s(now_ns, watch_at_ns))
            for call in calls:
                self.shield(call)
            for job, failure in ended:
                self.finish(job, failure)

    @staticmethod
    def shield(call: Callable[[], None]) -> None:
        """A receiver that fails must not take a thread of ours with it."""
        try:
            call()
        except Exception:
            _log.exception("a receiver of what the tiers report failed")

    def _end(self, job: Job, failure: Failure | None) -> None:
        self._ended.append((job, failure))
        self.condition.notify_all()

    def _pause_s(self, now_ns: int, watch_at_ns: int | None) -> float | None:
        times = [lane.next_deadline_ns() for lane in (self.copies, self.persists, self.fetches)]
        known = [time for time in (*times, watch_at_ns) if time is not None]
        return max(0, min(known) - now_ns) / 1e9 if known else None
