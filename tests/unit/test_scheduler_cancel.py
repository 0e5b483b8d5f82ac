"""Cancelling, in each state that a request can be in; and losing the worker, wholly or in part."""

from collections.abc import Callable

import pytest

from engine.errors import InferError, WorkerLost
from engine.ids import SeqSlot
from engine.logprobs import Logprobs
from engine.scheduling.plan import StepResult
from engine.scheduling.request import FinishReason, Started
from tests.unit.scheduling_harness import Harness, make_request, step_id

CRAMPED = {"num_blocks": 8, "max_model_tokens": 32, "headroom_blocks_per_sequence": 0}


def waiting(harness: Harness) -> None:
    """Submitted, and nothing more."""


def in_prefill(harness: Harness) -> None:
    harness.plan()


def between_chunks(harness: Harness) -> None:
    harness.plan()
    harness.plan()
    harness.apply()


def decoding(harness: Harness) -> None:
    while not harness.tokens("a"):
        harness.plan()
        harness.apply()


def decoding_ahead(harness: Harness) -> None:
    decoding(harness)
    harness.plan()
    harness.plan()


def preempted(harness: Harness) -> None:
    while harness.scheduler.figures().num_preemptions == 0:
        while harness.plan() is not None:
            pass
        harness.apply()


STATES = [waiting, in_prefill, between_chunks, decoding, decoding_ahead, preempted]


@pytest.mark.parametrize("reach", STATES)
def test_a_cancelled_request_leaves_no_trace(reach: Callable[[Harness], None]) -> None:
    harness = Harness(max_batched_tokens=8, **CRAMPED)
    other = harness.submit("other", 12, max_tokens=16)
    harness.submit("a", 12, max_tokens=16)
    reach(harness)
    seen = len(harness.events_of("a"))
    harness.cancel("a")
    harness.run()
    assert len(harness.events_of("a")) == seen
    harness.assert_as_undisturbed(other)
    harness.assert_empty()
    assert harness.scheduler.figures().num_cancelled == 1


@pytest.mark.parametrize("reach", STATES)
def test_a_request_that_is_stopped_finishes_normally(reach: Callable[[Harness], None]) -> None:
    harness = Harness(max_batched_tokens=8, **CRAMPED)
    other = harness.submit("other", 12, max_tokens=16)
    harness.submit("a", 12, max_tokens=16)
    reach(harness)
    harness.cancel("a", index=0, reason=FinishReason.STOP)
    harness.run()
    (finish,) = harness.finished("a")
    assert (finish.reason, finish.stop_token_id) == (FinishReason.STOP, None)
    assert finish.times is not None
    assert harness.events_of("a")[-1] is finish
    assert len(harness.started("a")) == 1
    harness.assert_as_undisturbed(other)
    harness.assert_empty()


def test_events_of_a_cancelled_request_that_were_not_taken_are_dropped() -> None:
    harness = Harness()
    request = make_request("a", 5)
    harness.scheduler.submit(request, 0)
    plan = harness.scheduler.plan(0)
    assert plan is not None
    harness.scheduler.apply(harness.worker.execute(plan), 0)
    harness.scheduler.cancel("a", 0)
    assert harness.scheduler.take_events() == []


def test_cancelling_what_is_not_there_is_ignored() -> None:
    harness = Harness()
    request = harness.submit("a", 5)
    harness.cancel("b")
    harness.cancel("a", index=3)
    harness.cancel("a", index=3, reason=FinishReason.STOP)
    harness.run()
    harness.cancel("a")
    harness.assert_as_undisturbed(request)


def test_slots_void_on_the_worker_refuse_their_requests_and_no_others() -> None:
    harness = Harness()
    other = harness.submit("other", 5, max_tokens=9)
    harness.submit("a", 5, max_tokens=9, n=2)
    harness.submit("b", 5, max_tokens=9)
    plan = harness.plan()
    assert plan is not None
    slots = {new.request_id: new.slot for new in plan.new_sequences}
    error = InferError("the sampler broke")
    harness.scheduler.void_slots([slots["a"], slots["b"]], error, harness.now_ns)
    harness.run()
    assert [event.error for name in "ab" for event in harness.refused(name)] == [error, error]
    assert not harness.tokens("a")
    harness.assert_as_undisturbed(other)
    harness.assert_empty()


def test_a_fault_of_an_earlier_step_does_not_hit_the_slots_next_owner() -> None:
    harness = Harness(max_seqs=1)
    harness.submit("a", 5, max_tokens=9)
    harness.plan()
    harness.cancel("a")
    request = harness.submit("b", 5)
    harness.plan()
    harness.scheduler.void_slots([SeqSlot(0)], InferError("broken"), harness.now_ns, step_id(1))
    harness.run()
    harness.assert_as_undisturbed(request)
    harness.submit("c", 5)
    plan = harness.plan()
    assert plan is not None
    harness.scheduler.void_slots([SeqSlot(0)], InferError("broken"), harness.now_ns, plan.step_id)
    harness.run()
    assert len(harness.refused("c")) == 1


def test_a_step_may_leave_out_the_slots_that_were_void() -> None:
    harness = Harness()
    other = harness.submit("other", 5)
    harness.submit("a", 5)
    harness.plan()
    harness.scheduler.void_slots([SeqSlot(1)], InferError("broken"), harness.now_ns)
    result = harness.results.popleft()
    harness.results.append(StepResult(result.step_id, result.slots[:1], result.token_ids[:1]))
    harness.run()
    harness.assert_as_undisturbed(other)


def test_a_lost_worker_refuses_what_had_started_and_keeps_what_had_not() -> None:
    harness = Harness(max_seqs=2)
    for name in "ab":
        harness.submit(name, 5, max_tokens=9)
    harness.plan()
    harness.apply()
    harness.plan()
    waiting = [harness.submit(name, 5) for name in "cd"]
    error = WorkerLost("gone")
    harness.scheduler.fail_all(error, harness.now_ns)
    harness.restart_worker()
    harness.scheduler.check_integrity()
    harness.events += harness.scheduler.take_events()
    assert [event.error for name in "ab" for event in harness.refused(name)] == [error, error]
    assert harness.scheduler.prefix_hits(make_request("x", 5)).device == 0
    harness.run()
    harness.assert_as_undisturbed(*waiting)
    harness.assert_empty()


def test_a_request_that_did_not_fit_is_tried_at_once_on_the_new_worker() -> None:
    harness = Harness(num_blocks=16, max_model_tokens=64)
    harness.submit("a", 40, max_tokens=9)
    large = harness.submit("large", 60, max_tokens=2)
    harness.plan()
    assert not harness.started("large")
    harness.scheduler.fail_all(WorkerLost("gone"), harness.now_ns)
    harness.restart_worker()
    assert harness.plan() is not None
    harness.run()
    harness.assert_as_undisturbed(large)


def test_requests_that_have_not_started_can_be_handed_to_another_scheduler() -> None:
    harness, other = Harness(max_seqs=1), Harness()
    harness.submit("a", 5)
    harness.plan()
    waiting = [harness.submit("b", 5, priority=3), harness.submit("c", 5, n=2, deadline_ns=99)]
    assert harness.scheduler.take_waiting() == waiting
    assert not harness.events_of("b")
    assert harness.scheduler.next_deadline_ns() is None
    for request in waiting:
        other.scheduler.submit(request, 0)
    other.run()
    other.assert_as_undisturbed(*waiting)
    harness.run()
    harness.assert_empty()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (StepResult(step_id(2)), "answered step 2, but step 1 was due"),
        (StepResult(step_id(1)), "no token for slot 0"),
        (StepResult(step_id(1), [SeqSlot(0)]), "1 slots but 0 tokens"),
        (
            StepResult(step_id(1), [SeqSlot(0)], [5], [SeqSlot(0)], [2], Logprobs([1], [-1.0], [1], [0])),
            "has 0 prompt log probabilities for a prompt of 5 tokens",
        ),
    ],
)
def test_an_answer_that_does_not_fit_its_plan_means_that_the_worker_is_lost(result: StepResult, message: str) -> None:
    harness = Harness()
    harness.submit("a", 5, prompt_logprobs=0)
    harness.plan()
    with pytest.raises(WorkerLost, match=message) as caught:
        harness.scheduler.apply(result, 0)
    harness.scheduler.fail_all(caught.value, 0)
    harness.scheduler.check_integrity()
    harness.events += harness.scheduler.take_events()
    assert harness.refused("a")
    harness.assert_empty()


def test_an_answer_without_a_plan_means_that_the_worker_is_lost() -> None:
    with pytest.raises(WorkerLost, match="no step was due"):
        Harness().scheduler.apply(StepResult(step_id(1)), 0)


def test_a_request_stopped_in_the_queue_says_so_and_no_more() -> None:
    harness = Harness(max_seqs=1)
    harness.submit("a", 5)
    harness.plan()
    harness.now_ns = 7
    harness.submit("b", 5, n=3)
    harness.now_ns = 9
    harness.cancel("b", reason=FinishReason.STOP)
    events = harness.events_of("b")
    assert isinstance(events[0], Started)
    assert sorted(event.index for event in harness.finished("b")) == [0, 1, 2]
    assert [event.times is not None for event in harness.finished("b")] == [False, False, True]
    harness.run()
    harness.assert_empty()
