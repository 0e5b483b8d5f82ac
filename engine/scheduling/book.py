"""The live requests of a scheduler, from acceptance to their last event."""

from collections.abc import Container

from engine.blocks.disk import DiskMirror
from engine.errors import InferError
from engine.ids import BlockKey
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.deadlines import Deadlines
from engine.scheduling.figures import CompletionRate, Counters
from engine.scheduling.live_request import LiveRequest
from engine.scheduling.queue import WaitingQueue
from engine.scheduling.rates import Rates
from engine.scheduling.request import (
    CachedTokens,
    Event,
    Finished,
    FinishReason,
    Refused,
    Request,
    Started,
    TokenEvent,
)
from engine.scheduling.running import RunningBatch
from engine.scheduling.sequence import Sequence
from engine.scheduling.timeline import Phase, Preemption


class RequestBook:
    """Owns every live request, and with it the queue, the running batch and the events not yet taken.

    Each choice of a live request is in one place: not spawned, in the queue, or in the batch.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        rates: Rates,
        disk: DiskMirror | None = None,
        kept: Container[BlockKey] = (),
    ) -> None:
        self._config = config
        self._rates = rates
        self._disk = disk
        self._kept = kept
        self.requests: dict[str, LiveRequest] = {}
        self.queue = WaitingQueue()
        self.batch = RunningBatch(config, rates, disk, kept)
        self.deadlines = Deadlines(self.requests)
        self.events: list[Event] = []
        self.counters = Counters()
        self.completion_rate = CompletionRate()
        self.num_unstarted = 0
        """Live requests of which nothing has been planned."""
        self._num_arrivals = 0

    def accept(self, request: Request, now_ns: int) -> Sequence:
        """Queue a request that `engine.scheduling.door` has let in. Returns the choice that leads."""
        live = LiveRequest(request, self._num_arrivals, now_ns)
        leader = live.spawn(self._config)
        self._num_arrivals += 1
        self.requests[request.request_id] = live
        self.num_unstarted += 1
        self.queue.push(leader, now_ns)
        self.deadlines.add(live)
        return leader

    def on_introduced(self, sequence: Sequence, now_ns: int) -> None:
        """A sequence that has moved from the queue to the batch is planned for the first time."""
        live = sequence.request
        if not live.has_started:
            cached = sequence.cached
            self.counters.num_lookup_tokens += len(sequence.token_ids)
            self.counters.num_hit_tokens += cached.total
            self.counters.num_host_hit_tokens += cached.host
            self.counters.num_disk_hit_tokens += cached.disk
            self._start(live, cached, now_ns)
        if sequence.stretch is None or sequence.stretch.phase is not Phase.PREFILL:
            sequence.enter(Phase.PREFILL, now_ns)
        self._settle_fork(live, sequence.index)

    def requeue(self, sequence: Sequence, now_ns: int) -> None:
        """Out of the batch and back to its place in the queue."""
        self.batch.vacate(sequence)
        self.queue.push(sequence, now_ns)

    def preempt(self, sequence: Sequence, now_ns: int) -> None:
        """Back to the queue. Its output is kept; what it had computed is computed again, or found in the cache."""
        live = sequence.request
        live.timeline.preemptions.append(Preemption(sequence.index, now_ns, sequence.num_computed))
        self.batch.note_preempted(sequence)
        self.requeue(sequence, now_ns)
        live.num_preemptions += 1
        self.counters.num_preemptions += 1

    def spawn_forks(self, leader: Sequence, now_ns: int) -> None:
        """The prompt is computed: the other choices may start from it."""
        live = leader.request
        if not live.unspawned:
            return
        live.unstarted_forks.update(live.unspawned)
        self.batch.share_prompt(leader)
        num_prompt_blocks = leader.num_prompt_tokens // self._config.block_size
        while live.unspawned:
            self.queue.push(live.spawn(self._config, leader.chain.fork(num_prompt_blocks)), now_ns)

    def end_choice(
        self, live: LiveRequest, index: int, reason: FinishReason, stop_token_id: int | None, now_ns: int
    ) -> None:
        """End one choice, wherever it is. CANCELLED leaves no event, anything else a Finished."""
        sequence = live.choices.pop(index, None)
        if sequence is not None:
            sequence.leave(now_ns)
            self._remove(sequence)
        elif index in live.unspawned:
            live.unspawned.remove(index)
        else:
            return
        self._settle_fork(live, index)
        if reason is FinishReason.CANCELLED:
            self.events = [event for event in self.events if not _is_of_choice(event, live, index)]
        else:
            if not live.has_started:
                self._start(live, CachedTokens(), now_ns)
            times = live.times(now_ns) if live.is_over else None
            self.events.append(Finished(live.request.request_id, index, reason, stop_token_id, times))
        if live.is_over:
            self._forget(live)
            if reason is FinishReason.CANCELLED:
                self.counters.num_cancelled += 1
            else:
                self.counters.num_completed += 1
                self.completion_rate.add(now_ns)
        elif not live.choices:
            # The leader ended before the prompt was computed, so the next choice leads.
            self.queue.push(live.spawn(self._config), now_ns)

    def refuse(self, live: LiveRequest, error: InferError, now_ns: int) -> None:
        """End the whole request with an error."""
        self._drop(live)
        self.counters.num_refused += 1
        self.events.append(Refused(live.request.request_id, error, live.times(now_ns)))

    def cancel(self, live: LiveRequest) -> None:
        """End the whole request without an event; those not yet taken are dropped."""
        self._drop(live)
        self.counters.num_cancelled += 1
        self.events = [event for event in self.events if event.request_id != live.request.request_id]

    def hand_back(self, live: LiveRequest) -> Request:
        """Give up a request that has not started, as if it had never come."""
        assert not live.has_started
        self._drop(live)
        return live.request

    def reset_batch(self) -> None:
        """All content of the pool is void. No sequence runs and no step is in flight any more."""
        assert not self.batch.sequences
        self.batch = RunningBatch(self._config, self._rates, self._disk, self._kept)
        for sequence in self.queue.first(len(self.queue)):
            sequence.retry_at = 0

    def _start(self, live: LiveRequest, cached: CachedTokens, now_ns: int) -> None:
        live.first_planned_ns = now_ns
        live.cached = cached
        self.num_unstarted -= 1
        self.events.append(Started(live.request.request_id, cached))

    def _remove(self, sequence: Sequence) -> None:
        if sequence.slot is None:
            self.queue.remove(sequence)
            if sequence.fetch is not None:
                sequence.fetch.leave()
        else:
            self.batch.vacate(sequence)

    def _settle_fork(self, live: LiveRequest, index: int) -> None:
        """The fork has started or ended; the last one needs the shared prompt no longer."""
        if index in live.unstarted_forks:
            live.unstarted_forks.remove(index)
            if not live.unstarted_forks:
                self.batch.stop_sharing(live)

    def _drop(self, live: LiveRequest) -> None:
        for sequence in live.choices.values():
            self._remove(sequence)
        live.choices.clear()
        live.unspawned.clear()
        live.unstarted_forks.clear()
        self.batch.stop_sharing(live)
        self._forget(live)

    def _forget(self, live: LiveRequest) -> None:
        del self.requests[live.request.request_id]
        if not live.has_started:
            self.num_unstarted -= 1


def _is_of_choice(event: Event, live: LiveRequest, index: int) -> bool:
    match event:
        case TokenEvent() | Finished():
            return event.request_id == live.request.request_id and event.index == index
        case _:
            return False
