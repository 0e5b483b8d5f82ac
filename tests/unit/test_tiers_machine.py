"""Random traffic over device, host and disk, with transfers that are late, fail, end half-way, or never come.

The fake worker reads every block that a row attends to: a wrong byte is a PlanViolation in the step that would
have used it. As long as results keep coming, every request ends, with the tokens of an undisturbed run.
"""

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from engine.blocks.disk import DiskMirror
from engine.errors import TierFull, WorkerLost
from engine.ids import BlockKey
from engine.sampling import SamplingParams
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.plan import StepTimings, TierEvents, TransferFailure
from engine.scheduling.request import Event, Request, Started
from engine.scheduling.scheduler import Scheduler
from tests.fakes.fake_tiers import FakeDisk, FakeTiers
from tests.unit.test_scheduler_machine import (
    MAX_PROMPT_TOKENS,
    RARELY,
    STOP_TOKEN,
    SchedulerMachine,
    configs,
    prompts,
)

BLOCK_BYTES = 1000

Ending = tuple[int, TransferFailure, int, int]
"""Done rows in quarters, why not all, how long the copy took, and how much time passes before."""
ENDINGS: st.SearchStrategy[Ending] = st.tuples(
    st.sampled_from([4, 4, 4, 2, 0]),
    st.sampled_from(TransferFailure),
    st.sampled_from([0, 10, 10, 10, 10_000]),
    st.sampled_from([0, 0, 0, 0, 0, 100_000, 100_000_000]),
)


@st.composite
def tiered_configs(draw: st.DrawFn) -> SchedulerConfig:
    """Host tiers from hardly anything to more than the device."""
    config = replace(draw(configs()), prefix_cache=True)
    return replace(
        config,
        num_host_slots=draw(st.integers(1, 16)),
        block_bytes=BLOCK_BYTES,
        has_disk=draw(st.sampled_from([True, True, False])),
        host_tenant_cap_bytes=draw(st.sampled_from([0, 0, 2 * BLOCK_BYTES])),
        spill_ahead_fraction=draw(st.sampled_from([0.0, 0.25, 1.0])),
        persist_ahead_fraction=draw(st.sampled_from([0.0, 0.25, 1.0])),
        spill_budget_bytes=draw(st.integers(1, 8)) * BLOCK_BYTES,
        persist_budget_bytes=draw(st.integers(1, 8)) * BLOCK_BYTES,
        fetch_budget_bytes=draw(st.integers(1, 8)) * BLOCK_BYTES,
        max_transfer_blocks=draw(st.integers(1, 6)),
        min_fetch_blocks=draw(st.integers(1, 2)),
        max_fetch_loss=draw(st.sampled_from([0.1, 10.0])),
        assumed_transfer_latency_ns=draw(st.sampled_from([0, 1000])),
    )


class TieredMachine(SchedulerMachine):
    """What the scheduler machine does, and what can happen to transfers."""

    @initialize(config=tiered_configs(), num_ns_per_step=st.sampled_from([0, 0, 10_000, 10_000_000]))
    def start(self, config: SchedulerConfig, num_ns_per_step: int = 0) -> None:
        self.num_ns_per_step = num_ns_per_step
        self.disk = FakeDisk.empty()
        self.mirror = DiskMirror()
        self.introduced: dict[str, int] = {}
        super().start(config)

    def make_scheduler(self, config: SchedulerConfig) -> Scheduler:
        return Scheduler(config, self.mirror)

    def restart_worker(self) -> None:
        super().restart_worker()
        self.tiers = FakeTiers(self.worker, self.config.num_host_slots, BLOCK_BYTES, self.disk)

    @rule()
    def plan(self) -> None:
        """Transfers lie on the same stream as plans."""
        self.take()
        num_plans = len(self.plans)
        super().plan()
        for plan in list(self.plans)[num_plans:]:
            for new in plan.new_sequences:
                self.introduced.setdefault(new.request_id, len(new.block_ids) * self.config.block_size)
            self.results[-1].timings = StepTimings(0, self.now_ns, self.now_ns + self.num_ns_per_step)
        self.take()

    @rule()
    def take(self) -> None:
        for transfer in self.scheduler.take_transfers(self.now_ns):
            self.tiers.send(transfer)

    @precondition(lambda self: self.tiers.in_flight)
    @rule(data=st.data(), ending=ENDINGS)
    def finish_transfer(self, data: st.DataObject, ending: Ending) -> None:
        """Any of them, in any order."""
        index = data.draw(st.integers(0, len(self.tiers.in_flight) - 1))
        self.finish(index, ending)

    @rule(endings=st.lists(ENDINGS, min_size=1, max_size=12))
    def go_on_with_transfers(self, endings: list[Ending]) -> None:
        """What happens most: steps and transfers come to an end in turn."""
        for ending in endings:
            self.go_on(1)
            if ending[3]:
                self.now_ns += ending[3]
                self.plan()
            if self.tiers.in_flight:
                self.finish(0, ending)
            self.nothing_is_out_of_order()

    @rule(
        prompt=prompts(),
        counts=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        is_lost=st.booleans(),
        endings=st.lists(ENDINGS, min_size=1, max_size=8),
    )
    def come_again(self, prompt: list[int], counts: list[int], is_lost: bool, endings: list[Ending]) -> None:
        """A text is computed and goes down as far as it can, the worker may die, and it is asked for several times."""
        prompt = [*prompt, *range(5), *prompt][:MAX_PROMPT_TOKENS]
        for number, count in enumerate([1, *counts]):
            for seed in range(count):
                sampling = SamplingParams(seed=seed, max_tokens=2, stop_token_ids=(STOP_TOKEN,))
                request = Request(self.next_id(), prompt, sampling, tenant="t" if seed else "")
                self.send(request, 0)
            self.go_on_with_transfers(endings if number else [(4, TransferFailure.FULL, 0, 0)] * 6)
            if number:
                continue
            self.scheduler.write_through(self.scheduler.block_keys(request))
            self.take()
            while self.finish_oldest():
                self.take()
            if is_lost:
                self.lose_worker(True)

    @rule(passed_ns=st.sampled_from([10_000, 1_000_000, 100_000_000, 20_000_000_000]))
    def wait_long(self, passed_ns: int) -> None:
        """Long enough for waits to end. Deadlines of requests are far shorter, and pass as well."""
        self.now_ns += passed_ns

    @precondition(lambda self: self.disk.contents)
    @rule(data=st.data(), is_told=st.booleans(), is_corrupt=st.booleans())
    def drop_from_disk(self, data: st.DataObject, is_told: bool, is_corrupt: bool) -> None:
        """What the scheduler is not told of leaves its mirror wrong."""
        key = data.draw(st.sampled_from(sorted(self.disk.contents)))
        events = self.disk.evict(key)
        if is_told:
            self.scheduler.apply_tier_events(TierEvents(corrupt=[key]) if is_corrupt else events)

    @precondition(lambda self: self.disk.contents)
    @rule()
    def repeat_what_is_stored(self) -> None:
        self.scheduler.apply_tier_events(TierEvents(stored=sorted(self.disk.contents)))

    @precondition(lambda self: self.disk.meanings)
    @rule(data=st.data(), name=st.sampled_from("ab"))
    def pin(self, data: st.DataObject, name: str) -> None:
        known: list[BlockKey] = sorted(self.disk.meanings)
        keys = data.draw(st.lists(st.sampled_from(known), max_size=4, unique=True))
        try:
            self.scheduler.pins.pin(name, keys)
        except TierFull:
            assert len(keys) > 0

    @rule(name=st.sampled_from("ab"))
    def unpin(self, name: str) -> None:
        self.scheduler.pins.unpin(name)

    @rule(is_so=RARELY, timeout_ns=st.sampled_from([100, 1_000_000_000]))
    def begin_drain(self, is_so: bool, timeout_ns: int) -> None:
        if is_so:
            self.scheduler.begin_drain(self.now_ns, timeout_ns)

    @rule(is_so=RARELY)
    def lose_worker(self, is_so: bool) -> None:
        """Everything but the disk is gone, and with it all results that have not come."""
        if not is_so:
            return
        self.scheduler.fail_all(WorkerLost("gone"), self.now_ns)
        self.restart_worker()

    def see(self, event: Event) -> None:
        if isinstance(event, Started):
            assert event.cached.total == self.introduced.get(event.request_id, 0)
            assert min(event.cached.device, event.cached.host, event.cached.disk) >= 0

    def finish(self, index: int, ending: Ending) -> None:
        """One transfer in flight ends so."""
        quarters, failure, copy_ns, _ = ending
        transfer = self.tiers.in_flight[index]
        num_done = len(transfer.keys) * quarters // 4
        if num_done == len(transfer.keys):
            result = self.tiers.finish_all(transfer.transfer_id, copy_ns)
        else:
            result = self.tiers.finish(transfer.transfer_id, num_done, failure, copy_ns)
        self.scheduler.apply_transfer(result, self.now_ns)

    def finish_oldest(self) -> bool:
        in_flight = self.tiers.in_flight
        if in_flight:
            result = self.tiers.finish_all(in_flight[0].transfer_id, copy_ns=10)
            self.scheduler.apply_transfer(result, self.now_ns)
        return bool(in_flight)

    def do_something_else(self) -> bool:
        """Results of transfers keep coming; when there is nothing else to wait for, time passes."""
        self.take()
        if self.finish_oldest():
            return True
        if self.results:
            return False
        deadline_ns = self.scheduler.next_deadline_ns()
        if deadline_ns is None:
            return False
        self.now_ns = max(self.now_ns, deadline_ns)
        return True

    def come_to_rest(self) -> None:
        for _ in range(10_000):
            self.take()
            if not self.finish_oldest():
                break
            self.nothing_is_out_of_order()
        assert not self.tiers.in_flight, "transfers do not end"
        for name in "ab":
            self.scheduler.pins.unpin(name)
        self.scheduler.check_integrity()
        deadline_ns = self.scheduler.next_deadline_ns()
        if deadline_ns is not None:
            self.now_ns = deadline_ns  # the end of a drain
            self.scheduler.plan(self.now_ns)
            assert self.scheduler.is_drained
        figures = self.scheduler.figures().tiers
        assert figures is not None
        assert figures.num_in_flight == 0
        assert figures.host.num_pinned == 0


TieredMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTieredMachine = TieredMachine.TestCase
