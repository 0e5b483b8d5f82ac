"""Admission and preemption: who gets blocks when there are not enough."""

import pytest

from engine.errors import ConfigError
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.request import Finished, Started
from tests.unit.scheduling_harness import NAMESPACE, Harness


def running(harness: Harness) -> int:
    return harness.scheduler.figures().num_running


def test_a_prompt_is_admitted_only_when_all_of_it_fits() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, max_batched_tokens=4, plans_in_flight=1)
    first = harness.submit("a", 20, max_tokens=2)
    second = harness.submit("b", 16, max_tokens=2)
    harness.step()
    assert running(harness) == 1, "5 of 8 blocks are promised to the first prompt, though one is computed"
    harness.run()
    harness.assert_as_undisturbed(first, second)
    harness.assert_empty()


def test_a_running_prefill_never_lacks_room() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, max_batched_tokens=5)
    requests = [harness.submit(name, 15, max_tokens=10) for name in "abcd"]
    harness.run()
    harness.assert_as_undisturbed(*requests)


def test_a_request_that_fits_passes_a_blocked_one() -> None:
    harness = Harness(num_blocks=10, max_model_tokens=40, plans_in_flight=1)
    harness.submit("a", 16, max_tokens=8)
    harness.submit("large", 30, max_tokens=2)
    harness.submit("small", 4, max_tokens=2)
    harness.step()
    assert harness.started("small")
    assert not harness.started("large")
    harness.run()
    assert harness.finished("large")


def test_a_blocked_request_is_passed_a_bounded_number_of_times() -> None:
    harness = Harness(num_blocks=10, max_model_tokens=40, max_seqs=3, plans_in_flight=1, max_skips=3)
    harness.submit("a", 4, max_tokens=8)
    harness.submit("large", 36, max_tokens=1)
    for i in range(12):
        harness.submit(f"small{i}", 4, max_tokens=2)
    harness.run()
    started = [event.request_id for event in harness.events if isinstance(event, Started)]
    assert started.index("large") == 4, "the first request and three that passed"


def test_a_blocked_request_is_passed_only_by_what_one_plan_looks_at() -> None:
    harness = Harness(num_blocks=10, max_model_tokens=40, plans_in_flight=1, max_scan=2)
    harness.submit("a", 4, max_tokens=8)
    harness.submit("large", 36, max_tokens=1)
    harness.submit("larger", 37, max_tokens=1)
    harness.submit("small", 4, max_tokens=2)
    harness.step()
    assert not harness.started("small")
    harness.run()
    harness.assert_empty()


def test_the_latest_arrival_is_preempted_and_still_gives_the_same_tokens() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, headroom_blocks_per_sequence=0)
    first = harness.submit("a", 12, max_tokens=16)
    second = harness.submit("b", 12, max_tokens=16)
    harness.run()
    harness.assert_as_undisturbed(first, second)
    a, b = (harness.finished(name)[0].times for name in "ab")
    assert a is not None
    assert b is not None
    assert a.preemptions == 0
    assert b.preemptions >= 1
    assert harness.scheduler.figures().num_preemptions == b.preemptions
    assert len(harness.started("b")) == 1, "a request starts once, whatever happens to it"


def test_the_lowest_priority_is_preempted_even_if_it_came_first() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, headroom_blocks_per_sequence=0)
    low = harness.submit("low", 12, max_tokens=16, priority=1)
    harness.plan()
    high = harness.submit("high", 12, max_tokens=16, priority=0)
    harness.run()
    harness.assert_as_undisturbed(low, high)
    finish_low, finish_high = harness.finished("low")[0].times, harness.finished("high")[0].times
    assert finish_low is not None
    assert finish_high is not None
    assert finish_low.preemptions >= 1
    assert finish_high.preemptions == 0


def test_a_preempted_sequence_finds_its_computed_blocks_again() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, headroom_blocks_per_sequence=0, plans_in_flight=1)
    harness.submit("a", 13, max_tokens=12)
    harness.submit("b", 13, max_tokens=16)
    while harness.scheduler.figures().num_preemptions == 0:
        harness.step()
    harness.cancel("a")
    plan = harness.step()
    new = plan.new_sequences[0]
    assert new.request_id == "b"
    assert len(new.token_ids) == 13 + len(harness.tokens("b")) - 1
    assert len(new.block_ids) >= 3
    harness.run()
    harness.assert_empty()


def test_a_preempted_sequence_goes_ahead_of_those_that_came_later() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, headroom_blocks_per_sequence=0)
    requests = [harness.submit(name, 12, max_tokens=16) for name in "abcd"]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    assert [event.request_id for event in harness.events if isinstance(event, Finished)] == list("abcd")


def test_rows_of_before_a_preemption_are_void_even_when_the_sequence_runs_again() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, headroom_blocks_per_sequence=0, plans_in_flight=4)
    harness.submit("a", 12, max_tokens=16)
    request = harness.submit("b", 12, max_tokens=16)
    while harness.scheduler.figures().num_preemptions == 0:
        if len(harness.results) == 3:
            harness.apply()
        harness.plan()
    assert len(harness.results) == 3
    rows_in_flight = [plan.work.slots for plan in harness.plans[-len(harness.results) :]]
    assert len(rows_in_flight[0]) == 2, "a row of the preempted sequence is in flight"
    harness.cancel("a")
    plan = harness.plan()
    assert plan is not None
    assert [new.request_id for new in plan.new_sequences] == ["b"]
    harness.run()
    harness.assert_as_undisturbed(request)


@pytest.mark.parametrize("plans_in_flight", [1, 2, 3])
@pytest.mark.parametrize("headroom", [0, 1, 3])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_outputs_are_right_under_pressure(plans_in_flight: int, headroom: int, prefix_cache: bool) -> None:
    harness = Harness(
        num_blocks=9,
        max_model_tokens=36,
        max_batched_tokens=9,
        plans_in_flight=plans_in_flight,
        headroom_blocks_per_sequence=headroom,
        prefix_cache=prefix_cache,
    )
    requests = [harness.submit(f"r{i}", 3 + 5 * i % 17, max_tokens=4 + 7 * i % 13, priority=i % 2) for i in range(14)]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    harness.assert_empty()


def test_one_sequence_may_fill_the_whole_pool() -> None:
    harness = Harness(num_blocks=4, max_model_tokens=16)
    request = harness.submit("a", 3, max_tokens=99)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert len(harness.tokens("a")) == 13


def test_a_block_that_a_step_writes_is_not_reused_before_its_result() -> None:
    harness = Harness(num_blocks=4, max_model_tokens=16, plans_in_flight=2)
    harness.submit("a", 16 - 1, max_tokens=1)
    harness.plan()
    harness.cancel("a")
    request = harness.submit("b", 13, max_tokens=2)
    assert harness.plan() is None, "all blocks are being written"
    assert harness.scheduler.figures().num_blocks_in_use == 4
    harness.apply()
    assert harness.plan() is not None
    harness.run()
    harness.assert_as_undisturbed(request)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is 0; it must be at least 1"),
        ({"max_seqs": -1}, "max_seqs is -1"),
        ({"max_batched_tokens": 0}, "max_batched_tokens is 0"),
        ({"max_skips": -1}, "must not be negative"),
        ({"max_model_tokens": 65}, "65, but the pool holds 16 blocks of 4 tokens = 64"),
        ({"max_model_tokens": 1}, "at least 2"),
        ({"namespace": b"short"}, "namespace has 5 bytes; it must have 32"),
    ],
)
def test_a_configuration_that_cannot_work_says_why(fields: dict[str, object], message: str) -> None:
    good = {"num_blocks": 16, "block_size": 4, "max_seqs": 4, "max_batched_tokens": 8, "max_model_tokens": 64}
    with pytest.raises(ConfigError, match=message):
        SchedulerConfig(**{"namespace": NAMESPACE, **good, **fields})  # type: ignore[arg-type]
