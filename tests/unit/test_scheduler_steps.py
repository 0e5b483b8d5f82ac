"""Budgets, chunks, and two plans in flight."""

import pytest

from engine.scheduling.request import Finished, FinishReason, Started, TokenEvent
from tests.unit.scheduling_harness import Harness, expected, rows


@pytest.mark.parametrize("budget", [1, 3, 4, 7, 13, 64])
@pytest.mark.parametrize("plans_in_flight", [1, 2, 3])
def test_output_does_not_depend_on_the_budget_or_on_the_pipeline(budget: int, plans_in_flight: int) -> None:
    harness = Harness(max_batched_tokens=budget, plans_in_flight=plans_in_flight)
    requests = [harness.submit(name, length, max_tokens=9) for name, length in (("a", 1), ("b", 10), ("c", 23))]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    harness.assert_empty()


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    harness = Harness(max_batched_tokens=5, plans_in_flight=1)
    harness.submit("a", 12, max_tokens=1)
    plans = [harness.step() for _ in range(3)]
    assert [rows(plan) for plan in plans] == [[(0, 0, 5, False)], [(0, 5, 5, False)], [(0, 10, 2, True)]]
    assert [plan.work.num_new_blocks for plan in plans] == [[2], [1], [0]]
    assert [len(plan.new_sequences) for plan in plans] == [1, 0, 0]


def test_decodes_come_before_prefills_and_prompts_share_the_rest() -> None:
    harness = Harness(max_batched_tokens=6, plans_in_flight=1)
    harness.submit("a", 3, max_tokens=5)
    harness.step()
    harness.submit("b", 8)
    harness.submit("c", 8)
    assert rows(harness.step()) == [(0, 3, 1, True), (1, 0, 5, False)]
    assert rows(harness.step()) == [(0, 4, 1, True), (1, 5, 3, True), (2, 0, 2, False)]


def test_a_better_priority_takes_the_budget_from_a_prompt_that_is_underway() -> None:
    harness = Harness(max_batched_tokens=4, plans_in_flight=1)
    harness.submit("slow", 20, priority=5)
    assert rows(harness.step()) == [(0, 0, 4, False)]
    harness.submit("fast", 4, priority=1)
    assert rows(harness.step()) == [(1, 0, 4, True)]


def test_the_next_step_is_planned_before_the_last_token_is_known() -> None:
    harness = Harness(plans_in_flight=2)
    harness.submit("a", 3, max_tokens=3)
    first, second = harness.plan(), harness.plan()
    assert first is not None
    assert second is not None
    assert rows(first) == [(0, 0, 3, True)]
    assert rows(second) == [(0, 3, 1, True)]
    assert harness.plan() is None, "two are in flight"
    harness.apply()
    third = harness.plan()
    assert third is not None
    assert rows(third) == [(0, 4, 1, True)]
    harness.apply()
    assert harness.plan() is None, "the third token is the last, and it is in flight"


def test_no_token_is_planned_past_max_tokens() -> None:
    harness = Harness(plans_in_flight=4)
    harness.submit("a", 3, max_tokens=2)
    assert harness.plan() is not None
    assert harness.plan() is not None
    assert harness.plan() is None
    harness.run()
    assert [event.reason for event in harness.finished("a")] == [FinishReason.LENGTH]


def test_no_token_is_planned_past_the_models_context() -> None:
    harness = Harness(max_model_tokens=10)
    request = harness.submit("a", 7, max_tokens=50)
    harness.run()
    assert harness.tokens("a") == expected(request, 10)
    assert len(harness.tokens("a")) == 3
    assert harness.finished("a")[0].reason is FinishReason.LENGTH


@pytest.mark.parametrize("plans_in_flight", [1, 2, 3])
def test_tokens_past_a_stop_are_dropped(plans_in_flight: int) -> None:
    harness = Harness(plans_in_flight=plans_in_flight)
    stop = expected(harness.submit("probe", [5, 6, 7], max_tokens=9), 128)[3]
    harness.cancel("probe")
    harness.submit("a", [5, 6, 7], max_tokens=9, stop_token_ids=(stop,))
    other = harness.submit("b", 6, max_tokens=12)
    harness.run()
    assert len(harness.tokens("a")) == 4
    assert harness.tokens("a")[-1] == stop
    finish = harness.finished("a")
    assert [(event.reason, event.stop_token_id) for event in finish] == [(FinishReason.STOP, stop)]
    harness.assert_as_undisturbed(other)
    harness.assert_empty()


def test_a_slot_is_released_and_taken_again_in_one_plan() -> None:
    harness = Harness(max_seqs=1)
    first = harness.submit("a", 5, max_tokens=1)
    second = harness.submit("b", 5, max_tokens=1)
    harness.step()
    plan = harness.step()
    assert plan.released_slots == [0]
    assert [new.slot for new in plan.new_sequences] == [0]
    harness.assert_as_undisturbed(first, second)


def test_slots_wait_for_the_next_work_to_be_released_and_are_not_lost() -> None:
    harness = Harness(max_seqs=3)
    harness.submit("a", 5, max_tokens=1)
    harness.submit("b", 5, max_tokens=1)
    harness.run()
    assert harness.plan() is None, "a release alone is no reason for a step"
    assert harness.worker.busy_slots == {0, 1}
    harness.submit("c", 5)
    plan = harness.step()
    assert sorted(plan.released_slots) == [0, 1]
    assert len(harness.worker.busy_slots) == 1


def test_events_of_a_request_come_in_order() -> None:
    harness = Harness()
    harness.submit("a", 5, max_tokens=3)
    harness.run()
    kinds = [type(event) for event in harness.events]
    assert kinds == [Started, TokenEvent, TokenEvent, TokenEvent, Finished]


def test_the_last_event_tells_where_the_time_went() -> None:
    harness = Harness(max_batched_tokens=4, plans_in_flight=1)
    harness.now_ns = 100
    harness.submit("a", 7, max_tokens=3)
    harness.now_ns = 130
    harness.plan()
    harness.now_ns = 150
    harness.apply()
    harness.plan()
    harness.now_ns = 170
    harness.apply()
    harness.step()
    harness.now_ns = 255
    harness.step()
    times = harness.finished("a")[0].times
    assert times is not None
    assert (times.queue_ns, times.prefill_ns, times.decode_ns) == (30, 40, 85)
    assert (times.prefill_chunks, times.preemptions) == (2, 0)


def test_with_nothing_to_do_there_is_no_plan() -> None:
    harness = Harness()
    assert harness.plan() is None
    assert harness.scheduler.is_idle
