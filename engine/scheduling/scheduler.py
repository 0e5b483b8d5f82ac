"""The scheduler of one worker: requests in, step plans out, results in, events out.

It has no clock, thread, socket or random number of its own: the caller passes the time, carries plans to the
worker and results back, and delivers the events. All calls come from one thread. After each call that takes
`now_ns`, `take_events` has whatever it led to.

    submit ──▶ queue ──plan──▶ batch ──apply──▶ events
                 ▲               │
                 └── preempted ──┘
"""

from collections import deque
from collections.abc import Collection
from collections.abc import Sequence as Keys

from engine.blocks.disk import DiskMirror
from engine.errors import InferError, WorkerLost
from engine.ids import BlockKey, SeqSlot, StepId
from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.deadlines import deadline_passed
from engine.scheduling.door import check_load, check_request, completed_by_resume
from engine.scheduling.figures import Cleared, SchedulerFigures
from engine.scheduling.integrity import check_integrity
from engine.scheduling.outcome import apply_outcome
from engine.scheduling.pin_desk import PinDesk
from engine.scheduling.pins import Pins
from engine.scheduling.plan import StepPlan, StepResult, TierEvents, Transfer, TransferResult
from engine.scheduling.planner import Planner
from engine.scheduling.prefix_lookup import block_keys, prefix_hits
from engine.scheduling.rates import Rates
from engine.scheduling.request import CachedTokens, Event, Finished, FinishReason, Request, RequestTimes, Started
from engine.scheduling.snapshot import take_snapshot
from engine.scheduling.step import StepInFlight
from engine.scheduling.tiers import Tiers


class Scheduler:
    """Decides for one worker session what runs next. See `engine.scheduling.planner` for the policy."""

    def __init__(self, config: SchedulerConfig, disk: DiskMirror | None = None) -> None:
        """`disk` is shared by the schedulers of workers that share one; with `has_disk` and none given, it is made."""
        self.config = config
        self._rates = Rates(config)
        pins = Pins(config.max_pinned_blocks, "disk" if config.is_disk_limit_of_pins else "host")
        if not config.has_disk:
            disk = None
        elif disk is None:
            disk = DiskMirror()
        self._book = RequestBook(config, self._rates, disk, pins.num_names)
        self._tiers = Tiers(config, self._rates, self._book, pins) if config.has_host else None
        self.pins = PinDesk(config, pins, self._tiers)
        self._planner = Planner(config, self._book, self._tiers)
        self._in_flight: deque[StepInFlight] = deque()
        self._num_steps = 0

    def submit(self, request: Request, now_ns: int) -> None:
        """Accept a request. From now on it ends in Finished or Refused events, unless it is cancelled.

        Raises InvalidRequest, PromptTooLong, DeadlinePassed, Overloaded or, where it is to be pinned, TierFull; then
        nothing of it is kept.
        """
        self._sweep(now_ns)
        check_request(request, self.config, self._book, now_ns)
        completed = completed_by_resume(request, self.config)
        if completed is not None:
            reason, stop_token_id = completed
            self._book.events += (
                Started(request.request_id, CachedTokens()),
                Finished(request.request_id, 0, reason, stop_token_id, RequestTimes(end_ns=now_ns)),
            )
            return
        check_load(self.config, self._book, now_ns)
        if request.pin_name:
            self.pins.pin_prompt(request)
        leader = self._book.accept(request, now_ns)
        if self._tiers is not None:
            self._tiers.on_queued(leader, now_ns)

    def cancel(
        self,
        request_id: str,
        now_ns: int,
        index: int | None = None,
        reason: FinishReason = FinishReason.CANCELLED,
    ) -> RequestTimes | None:
        """End a choice, or all of them. What is not live is ignored: the request may have ended by itself.

        With STOP the choice ends normally and a Finished event confirms it. With CANCELLED no event comes, and those
        of it that have not been taken are dropped. Returns the times of a request that has ended without an event.
        """
        live = self._book.requests.get(request_id)
        if live is None:
            return None
        if index is not None:
            self._book.end_choice(live, index, reason, None, now_ns)
        elif reason is FinishReason.CANCELLED:
            self._book.cancel(live)
        else:
            for open_index in sorted([*live.choices, *live.unspawned], reverse=True):
                self._book.end_choice(live, open_index, reason, None, now_ns)
        is_silent = reason is FinishReason.CANCELLED and request_id not in self._book.requests
        return live.times(now_ns) if is_silent else None

    def plan(self, now_ns: int) -> StepPlan | None:
        """The next plan for the worker. The caller sends it, and passes its result to `apply`.

        None: nothing can be computed now, or `plans_in_flight` results are outstanding. Ask again after the next
        `apply`, `submit` or `cancel`.
        """
        self._sweep(now_ns)
        if len(self._in_flight) >= self.config.plans_in_flight:
            return None
        step = self._planner.plan(StepId(self._num_steps + 1), now_ns)
        if step is None:
            return None
        self._num_steps += 1
        self._in_flight.append(step)
        self._rates.is_beside_steps = True
        return step.plan

    def apply(self, result: StepResult, now_ns: int) -> None:
        """Take in the result of the oldest plan in flight.

        Raises WorkerLost when it does not answer that plan. The session is useless then: call `fail_all`.
        """
        if not self._in_flight:
            raise WorkerLost(f"The worker answered step {result.step_id}, but no step was due")
        step_id = self._in_flight[0].plan.step_id
        if result.step_id != step_id:
            raise WorkerLost(f"The worker answered step {result.step_id}, but step {step_id} was due")
        apply_outcome(self._book, self._rates, self._in_flight.popleft(), result, now_ns)
        self._rates.is_beside_steps = bool(self._in_flight)
        self._sweep(now_ns)

    def take_events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._book.events = self._book.events, []
        return events

    def void_slots(
        self, slots: Collection[SeqSlot], error: InferError, now_ns: int, step_id: StepId | None = None
    ) -> None:
        """The worker has given up these slots, in this step if it says so: their requests are refused.

        The slots are released with the next plan all the same. Until then the worker ignores rows that name them.
        """
        wanted = frozenset(slots)
        step = next((step for step in self._in_flight if step.plan.step_id == step_id), None)
        if step is None:
            running = self._book.batch.sequences
            hit = [sequence for sequence in running if sequence.slot in wanted and sequence.is_introduced]
        else:
            rows = zip(step.sequences, step.epochs, step.plan.work.slots, strict=True)
            hit = [sequence for sequence, epoch, slot in rows if slot in wanted and sequence.epoch == epoch]
        for live in dict.fromkeys(sequence.request for sequence in hit):
            self._book.refuse(live, error, now_ns)

    def fail_all(self, error: InferError, now_ns: int) -> None:
        """The worker session is over: every request that has started is refused, every block and host slot is void,
        and no transfer is in flight. What is on disk stays.

        Requests that have not started stay in the queue: take them with `take_waiting`, or go on with a new session
        of the same shape, whose steps count from 1 again.
        """
        for live in [live for live in self._book.requests.values() if live.has_started]:
            self._book.refuse(live, error, now_ns)
        self._in_flight.clear()
        self._rates.is_beside_steps = False
        self._num_steps = 0
        if self._tiers is not None:
            for sequence in tuple(self._book.batch.sequences):
                self._book.requeue(sequence, now_ns)
            self._tiers.void_session()
        self._book.reset_batch()
        if self._tiers is not None:
            self._tiers.begin_session(now_ns)
        self._sweep(now_ns)

    def take_waiting(self) -> list[Request]:
        """Give up the requests that have not started, in the order in which they came, for another scheduler."""
        waiting = [live for live in self._book.requests.values() if not live.has_started]
        return [self._book.hand_back(live) for live in waiting]

    def next_deadline_ns(self) -> int | None:
        """When to call `plan` even if nothing else happens."""
        deadline_ns = self._book.deadlines.next_ns()
        tier_ns = None if self._tiers is None else self._tiers.next_deadline_ns()
        if deadline_ns is None or tier_ns is None:
            return tier_ns if deadline_ns is None else deadline_ns
        return min(deadline_ns, tier_ns)

    def prefix_hits(self, request: Request) -> CachedTokens:
        """How many of the request's first tokens are in some tier now, each in its nearest. Changes nothing."""
        return prefix_hits(request, self.config, self._book.batch.residency)

    def block_keys(self, request: Request) -> list[BlockKey]:
        """The keys of the request's full blocks, for `pin` and `write_through`."""
        return block_keys(request, self.config)

    def take_transfers(self, now_ns: int) -> list[Transfer]:
        """What is to be moved between the tiers now. The caller sends it in order, on the same stream as plans, and
        passes each result to `apply_transfer`.

        To be called before each plan is sent, and after a `plan` that gave None, before waiting for anything.
        """
        return [] if self._tiers is None else self._tiers.take_transfers(not self._book.requests, now_ns)

    def apply_transfer(self, result: TransferResult, now_ns: int) -> None:
        """Take in the result of a transfer, in any order.

        Raises WorkerLost when it answers none in flight. The session is useless then: call `fail_all`.
        """
        if self._tiers is None:
            raise WorkerLost(f"The worker answered transfer {result.transfer_id}, but there are no tiers")
        self._tiers.apply_transfer(result, now_ns)
        self._sweep(now_ns)

    def apply_tier_events(self, events: TierEvents) -> None:
        """What the worker says of its disk. The mirror follows; nothing else does."""
        if self._tiers is not None:
            self._tiers.apply_events(events)

    def write_through(self, keys: Keys[BlockKey]) -> None:
        """Bring copies of these to the tiers below at once, as far as they are anywhere."""
        if self._tiers is not None:
            self._tiers.write_through(keys)

    def clear_cached(self) -> Cleared:
        """Forget what device and host hold of blocks that no request and no transfer uses now, and nobody has pinned.

        What the worker has of them stays in its memory, and is never read again.
        """
        pool, host = self._book.batch.residency.pool, self._book.batch.residency.host
        if self._tiers is not None:
            self._tiers.forget_wishes()
        num_device = pool.drop_cached()
        num_host = 0 if host is None else host.drop_idle()
        return Cleared(num_device, num_host, pool.num_named + (0 if host is None else host.num_ready))

    def begin_drain(self, now_ns: int, timeout_ns: int) -> None:
        """The worker is about to leave: bring what is worth keeping to disk, while running requests go on."""
        if self._tiers is not None:
            self._tiers.begin_drain(now_ns + timeout_ns)

    @property
    def is_saving(self) -> bool:
        """Whether blocks that shall go down at once are on their way. To be asked after `take_transfers`."""
        return self._tiers is not None and self._tiers.is_saving

    @property
    def is_drained(self) -> bool:
        """After `begin_drain`: nothing runs, and all that could be saved is, or the time for it is over."""
        return self.is_idle and (self._tiers is None or self._tiers.is_drained)

    @property
    def is_idle(self) -> bool:
        """No request is live and no step is outstanding. Transfers may be under way."""
        return not self._book.requests and not self._in_flight

    @property
    def num_live(self) -> int:
        """Requests that were accepted and have not ended."""
        return len(self._book.requests)

    @property
    def num_in_flight(self) -> int:
        """Plans whose results are outstanding."""
        return len(self._in_flight)

    @property
    def load(self) -> tuple[int, int]:
        """(sequences running and waiting, tokens that the waiting ones will have to compute)."""
        book = self._book
        return len(book.batch.sequences) + len(book.queue), book.queue.num_tokens

    def figures(self) -> SchedulerFigures:
        return take_snapshot(self._book, self._tiers)

    def check_integrity(self) -> None:
        """Assert the invariants that tie everything together. For tests; O(everything)."""
        check_integrity(self.config, self._book, self._tiers, len(self._in_flight))

    def _sweep(self, now_ns: int) -> None:
        for live in self._book.deadlines.take_passed(now_ns):
            self._book.refuse(live, deadline_passed(live, now_ns), now_ns)
        if self._tiers is not None:
            self._tiers.sweep(now_ns)
