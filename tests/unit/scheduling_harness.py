"""A scheduler, the fake worker, and the wire between them with results that come late."""

from collections import deque
from dataclasses import replace
from typing import Any

from engine.ids import StepId
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.request import Event, Finished, FinishReason, Refused, Request, Started, TokenEvent
from engine.scheduling.scheduler import Scheduler
from tests.fakes.fake_worker import FakeWorker, expected_output
from tests.unit.timelines import assert_accounted_for

NAMESPACE = bytes(32)
VOCAB_SIZE = 50_000
"""So large that tokens of a story do not repeat by chance."""

_SAMPLING_FIELDS = frozenset(SamplingParams.__dataclass_fields__)


def make_request(request_id: str, prompt: list[int] | int, **fields: Any) -> Request:
    """A greedy request. A number as prompt: that many ids that no other request id has."""
    if isinstance(prompt, int):
        base = sum(request_id.encode()) * 1000
        prompt = [base + i for i in range(prompt)]
    sampling = {name: fields.pop(name) for name in list(fields) if name in _SAMPLING_FIELDS}
    return Request(request_id, prompt, SamplingParams(**{"temperature": 0.0, "max_tokens": 4, **sampling}), **fields)


def expected(request: Request, max_model_tokens: int, vocab_size: int = VOCAB_SIZE, index: int = 0) -> list[int]:
    """The whole output of a choice, tokens that the client already has included."""
    sampling = replace(request.sampling, seed=(request.sampling.seed + index) % 2**64)
    return expected_output(request.prompt_token_ids, sampling, vocab_size, max_model_tokens)


class Harness:
    """Plans are executed at once; results wait until `apply`. Integrity is checked after every call."""

    def __init__(self, vocab_size: int = VOCAB_SIZE, **limits: Any) -> None:
        defaults = {"num_blocks": 64, "block_size": 4, "max_seqs": 8, "max_batched_tokens": 64, "max_model_tokens": 128}
        self.config = SchedulerConfig(**{**defaults, "namespace": NAMESPACE, **limits})
        self.scheduler = Scheduler(self.config)
        self.now_ns = 0
        self.events: list[Event] = []
        self.plans: list[StepPlan] = []
        self._vocab_size = vocab_size
        self.restart_worker()

    def restart_worker(self) -> None:
        config = self.config
        self.worker = FakeWorker(
            config.num_blocks, config.block_size, config.max_seqs, self._vocab_size, config.max_batched_tokens
        )
        self.results: deque[StepResult] = deque()

    def submit(self, request_id: str, prompt: list[int] | int, **fields: Any) -> Request:
        request = make_request(request_id, prompt, **fields)
        self.scheduler.submit(request, self.now_ns)
        self._look()
        return request

    def cancel(self, request_id: str, index: int | None = None, reason: FinishReason = FinishReason.CANCELLED) -> None:
        self.scheduler.cancel(request_id, self.now_ns, index, reason)
        self._look()

    def plan(self) -> StepPlan | None:
        plan = self.scheduler.plan(self.now_ns)
        if plan is not None:
            self.plans.append(plan)
            self.results.append(self.worker.execute(plan))
        self._look()
        return plan

    def apply(self) -> None:
        self.scheduler.apply(self.results.popleft(), self.now_ns)
        self._look()

    def step(self) -> StepPlan:
        """One plan, and its result before anything else. Nothing else is in flight."""
        assert not self.results
        plan = self.plan()
        assert plan is not None
        self.apply()
        return plan

    def run(self, max_steps: int = 2000) -> None:
        """As a service would: plan as far as allowed, apply one result, until nothing is left."""
        for _ in range(max_steps):
            if self.scheduler.is_idle:
                return
            self.now_ns += 1
            while self.plan() is not None:
                pass
            assert self.results or self.scheduler.is_idle, "live requests, but nothing to do"
            if self.results:
                self.apply()
        raise AssertionError(f"not done after {max_steps} steps")

    def tokens(self, request_id: str, index: int = 0) -> list[int]:
        return [
            event.token_id
            for event in self.events
            if isinstance(event, TokenEvent) and (event.request_id, event.index) == (request_id, index)
        ]

    def started(self, request_id: str) -> list[Started]:
        return [event for event in self.events if isinstance(event, Started) and event.request_id == request_id]

    def finished(self, request_id: str) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished) and event.request_id == request_id]

    def refused(self, request_id: str) -> list[Refused]:
        return [event for event in self.events if isinstance(event, Refused) and event.request_id == request_id]

    def events_of(self, request_id: str) -> list[Event]:
        return [event for event in self.events if event.request_id == request_id]

    def assert_as_undisturbed(self, *requests: Request) -> None:
        """Every choice gave the tokens of an undisturbed run, and finished once."""
        for request in requests:
            for index in range(request.n):
                whole = expected(request, self.config.max_model_tokens, self._vocab_size, index)
                assert request.resume_token_ids + self.tokens(request.request_id, index) == whole
            assert sorted(event.index for event in self.finished(request.request_id)) == list(range(request.n))
            assert not self.refused(request.request_id)

    def assert_empty(self) -> None:
        """Nothing is left of any request."""
        figures = self.scheduler.figures()
        assert self.scheduler.is_idle
        assert (figures.num_running, figures.num_waiting, figures.num_blocks_in_use) == (0, 0, 0)
        assert figures.num_waiting_prompt_tokens == 0
        assert self.scheduler.next_deadline_ns() is None

    def _look(self) -> None:
        self.scheduler.check_integrity()
        events = self.scheduler.take_events()
        self.events += events
        for event in events:
            if isinstance(event, Refused) or (isinstance(event, Finished) and event.times is not None):
                assert event.times is not None
                assert_accounted_for(event.times)


def step_id(number: int) -> StepId:
    return StepId(number)


def rows(plan: StepPlan) -> list[tuple[int, int, int, bool]]:
    """(slot, start, number of tokens, samples) of each row."""
    work = plan.work
    return list(zip(work.slots, work.starts, work.num_tokens, work.samples, strict=True))
