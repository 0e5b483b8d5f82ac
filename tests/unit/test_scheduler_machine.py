"""Random traffic over a cramped pool, against the fake worker that checks what every row reads.

Whatever happens to the others, a request that finishes has given exactly the tokens of an undisturbed run; every
request ends; and at the end no slot, reference, pin, queue entry or deadline is left.
"""

from collections import deque
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import DeadlinePassed, Overloaded, WorkerLost
from engine.ids import SeqSlot
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepPlan, StepResult
from engine.scheduling.request import Event, Finished, FinishReason, PromptScored, Refused, Request, Started, TokenEvent
from engine.scheduling.scheduler import Scheduler
from tests.fakes.fake_worker import FakeWorker, expected_output
from tests.unit.timelines import assert_accounted_for

VOCAB_SIZE = 24
STOP_TOKEN = 7
MAX_PROMPT_TOKENS = 20
MAX_OUTPUT_TOKENS = 20

RARELY = st.integers(0, 9).map(lambda number: number == 9)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    """One of two texts, cut somewhere, sometimes with an ending of its own: beginnings are often shared."""
    text = draw(st.integers(0, 1))
    prompt = [(text + i) % 5 for i in range(draw(st.integers(1, MAX_PROMPT_TOKENS)))]
    return [*prompt[:-1], draw(st.integers(0, 1))]


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    """Pools that a few sequences fill."""
    num_blocks, block_size = draw(st.integers(3, 9)), draw(st.integers(2, 4))
    pool_tokens = num_blocks * block_size
    return SchedulerConfig(
        num_blocks=num_blocks,
        block_size=block_size,
        max_seqs=draw(st.integers(1, 4)),
        max_batched_tokens=draw(st.integers(1, 16)),
        max_model_tokens=pool_tokens - draw(st.sampled_from([0, 0, 0, 1, 4])),
        namespace=bytes(32),
        max_waiting=draw(st.integers(1, 9)),
        prefix_cache=draw(st.sampled_from([True, True, False])),
        plans_in_flight=draw(st.integers(1, 3)),
        headroom_blocks_per_sequence=draw(st.sampled_from([0, 0, 1])),
        max_scan=draw(st.integers(1, 4)),
        max_skips=draw(st.integers(0, 3)),
    )


class Expectation:
    """What the events of one request have to look like."""

    def __init__(self, request: Request, config: SchedulerConfig) -> None:
        self.request = request
        sampling = request.sampling
        self.whole = [
            expected_output(
                request.prompt_token_ids,
                replace(sampling, seed=(sampling.seed + index) % 2**64),
                VOCAB_SIZE,
                config.max_model_tokens,
            )
            for index in range(request.n)
        ]
        self.given = [list(request.resume_token_ids) for _ in range(request.n)]
        self.open = set(range(request.n))
        self.stopped: set[int] = set()
        """Choices that the client has stopped and that have not been confirmed."""
        self.has_started = False
        self.has_scores = False
        self.is_over = False

    def is_late(self, now_ns: int) -> bool:
        deadline_ns = self.request.deadline_ns
        return deadline_ns is not None and deadline_ns <= now_ns

    def check(self, event: Started | TokenEvent | PromptScored | Finished | Refused) -> None:
        assert not self.is_over, "an event after the end"
        match event:
            case Started():
                assert not self.has_started
                self.has_started = True
            case PromptScored():
                assert not self.has_scores
                assert event.logprobs.token_ids == self.request.prompt_token_ids[1:]
                self.has_scores = True
            case TokenEvent():
                assert self.has_started
                assert event.index in self.open
                assert self.has_scores == (self.request.sampling.prompt_logprobs is not None)
                given = self.given[event.index]
                given.append(event.token_id)
                assert given == self.whole[event.index][: len(given)]
            case Finished():
                assert self.has_started
                self.open.remove(event.index)
                if event.index in self.stopped:
                    assert (event.reason, event.stop_token_id) == (FinishReason.STOP, None)
                else:
                    whole = self.whole[event.index]
                    assert self.given[event.index] == whole
                    is_stop = whole[-1] in self.request.sampling.stop_token_ids
                    assert event.reason is (FinishReason.STOP if is_stop else FinishReason.LENGTH)
                    assert event.stop_token_id == (whole[-1] if is_stop else None)
                assert (event.times is not None) == (not self.open)
                self.is_over = not self.open
                if event.times is not None:
                    assert_accounted_for(event.times)
            case Refused():
                self.is_over = True
                assert_accounted_for(event.times)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(config=configs())
    def start(self, config: SchedulerConfig) -> None:
        self.config = config
        self.scheduler = self.make_scheduler(config)
        self.expectations: dict[str, Expectation] = {}
        self.now_ns = 0
        self.num_submitted = 0
        self.restart_worker()

    def make_scheduler(self, config: SchedulerConfig) -> Scheduler:
        return Scheduler(config)

    def see(self, event: Event) -> None:
        """For machines that expect more of an event."""

    def do_something_else(self) -> bool:
        """Whatever else keeps the work going. False: there is nothing of that kind."""
        return False

    def come_to_rest(self) -> None:
        """All requests have ended."""

    def restart_worker(self) -> None:
        config = self.config
        self.worker = FakeWorker(
            config.num_blocks, config.block_size, config.max_seqs, VOCAB_SIZE, config.max_batched_tokens
        )
        self.plans: deque[StepPlan] = deque()
        self.results: deque[StepResult] = deque()

    def next_id(self) -> str:
        self.num_submitted += 1
        return f"r{self.num_submitted}"

    def send(self, request: Request, num_resumed: int) -> None:
        request = replace(request, prompt_token_ids=request.prompt_token_ids[: self.config.max_model_tokens - 1])
        expectation = Expectation(request, self.config)
        if request.n == 1 and num_resumed:
            request = replace(request, resume_token_ids=expectation.whole[0][:num_resumed])
            expectation = Expectation(request, self.config)
        live = [self.expectations[name] for name in self.live()]
        num_unstarted = sum(not each.has_started and not each.is_late(self.now_ns) for each in live)
        is_whole = request.resume_token_ids == expectation.whole[0]
        try:
            self.scheduler.submit(request, self.now_ns)
        except Overloaded:
            assert num_unstarted >= self.config.max_waiting
        else:
            assert num_unstarted < self.config.max_waiting or is_whole
            self.expectations[request.request_id] = expectation

    def live(self) -> list[str]:
        return [name for name, expectation in self.expectations.items() if not expectation.is_over]

    @rule(
        prompt=prompts(),
        max_tokens=st.integers(1, MAX_OUTPUT_TOKENS),
        temperature=st.sampled_from([0.0, 1.0]),
        seed=st.sampled_from([0, 2**64 - 1]),
        min_tokens=st.integers(0, 3),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        num_resumed=st.sampled_from([0, 0, 1, 3]),
        priority=st.integers(0, 2),
        timeout_ns=st.sampled_from([None, None, None, 1, 10, 30]),
        prompt_logprobs=st.sampled_from([None, None, 0]),
    )
    def submit(
        self,
        prompt: list[int],
        max_tokens: int,
        temperature: float,
        seed: int,
        min_tokens: int,
        n: int,
        num_resumed: int,
        priority: int,
        timeout_ns: int | None,
        prompt_logprobs: int | None,
    ) -> None:
        sampling = SamplingParams(
            temperature=temperature,
            seed=seed,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            stop_token_ids=(STOP_TOKEN,),
            prompt_logprobs=prompt_logprobs,
        )
        deadline_ns = None if timeout_ns is None else self.now_ns + timeout_ns
        self.send(
            Request(self.next_id(), prompt, sampling, n=n, priority=priority, deadline_ns=deadline_ns), num_resumed
        )

    @rule(prompt=prompts(), max_tokens=st.integers(1, MAX_OUTPUT_TOKENS), count=st.integers(2, 4))
    def submit_several(self, prompt: list[int], max_tokens: int, count: int) -> None:
        for seed in range(count):
            sampling = SamplingParams(seed=seed, max_tokens=max_tokens, stop_token_ids=(STOP_TOKEN,))
            self.send(Request(self.next_id(), prompt, sampling), 0)

    @precondition(lambda self: self.live())
    @rule(data=st.data(), whole=st.booleans(), reason=st.sampled_from([FinishReason.CANCELLED, FinishReason.STOP]))
    def cancel(self, data: st.DataObject, whole: bool, reason: FinishReason) -> None:
        name = data.draw(st.sampled_from(self.live()))
        expectation = self.expectations[name]
        index = None if whole else data.draw(st.sampled_from(sorted(expectation.open)))
        indices = set(expectation.open) if index is None else {index}
        if reason is FinishReason.STOP:
            expectation.stopped |= indices
        else:
            expectation.open -= indices
            expectation.is_over = not expectation.open
        self.scheduler.cancel(name, self.now_ns, index, reason)

    @rule()
    def plan(self) -> None:
        plan = self.scheduler.plan(self.now_ns)
        if plan is not None:
            self.plans.append(plan)
            self.results.append(self.worker.execute(plan))

    @precondition(lambda self: self.results)
    @rule()
    def apply(self) -> None:
        self.plans.popleft()
        self.scheduler.apply(self.results.popleft(), self.now_ns)

    @rule(count=st.integers(1, 12))
    def go_on(self, count: int) -> None:
        """What happens most: plan as far as allowed, then one result."""
        for _ in range(count):
            for _ in range(self.config.plans_in_flight):
                self.plan()
            self.nothing_is_out_of_order()
            if self.results:
                self.apply()
            self.nothing_is_out_of_order()

    @rule(passed_ns=st.integers(1, 10))
    def wait(self, passed_ns: int) -> None:
        self.now_ns += passed_ns

    @precondition(lambda self: self.plans)
    @rule(data=st.data(), is_so=RARELY)
    def void_slot(self, data: st.DataObject, is_so: bool) -> None:
        """The worker gives up one row of the oldest step; the answer leaves it out."""
        if not is_so:
            return
        plan = self.plans[0]
        slot: SeqSlot = data.draw(st.sampled_from(plan.work.slots))
        self.scheduler.void_slots([slot], WorkerLost("this row failed"), self.now_ns, plan.step_id)
        result = self.results[0]
        if slot in result.slots:
            row = result.slots.index(slot)
            del result.slots[row], result.token_ids[row]

    @rule(is_so=RARELY)
    def lose_worker(self, is_so: bool) -> None:
        if not is_so:
            return
        self.scheduler.fail_all(WorkerLost("gone"), self.now_ns)
        self.restart_worker()

    @invariant()
    def nothing_is_out_of_order(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.scheduler.check_integrity()
        for event in self.scheduler.take_events():
            if isinstance(event, Refused) and isinstance(event.error, DeadlinePassed):
                assert self.expectations[event.request_id].is_late(self.now_ns)
            self.expectations[event.request_id].check(event)
            self.see(event)
        assert len(self.live()) == self.scheduler.num_live

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        num_tokens = sum(MAX_PROMPT_TOKENS + MAX_OUTPUT_TOKENS * each.request.n for each in self.expectations.values())
        for _ in range(40 * num_tokens + 10):
            if self.scheduler.is_idle:
                break
            num_plans = -1
            while len(self.plans) != num_plans:
                num_plans = len(self.plans)
                self.plan()
            self.nothing_is_out_of_order()
            has_result = bool(self.results)
            if has_result:
                self.apply()
            has_more = self.do_something_else()
            assert has_result or has_more or self.scheduler.is_idle, "live requests, but nothing to do"
            self.nothing_is_out_of_order()
        assert self.scheduler.is_idle, "the work does not end"
        assert not self.live()
        self.come_to_rest()
        figures = self.scheduler.figures()
        assert (figures.num_running, figures.num_waiting, figures.num_blocks_in_use) == (0, 0, 0)
        assert self.scheduler.next_deadline_ns() is None


SchedulerMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase
