"""What is refused at submit, deadlines, overload, and requests that come back with tokens."""

from typing import Any

import pytest

from engine.errors import DeadlinePassed, InvalidRequest, Overloaded, PromptTooLong
from engine.scheduling.deadlines import Deadlines
from engine.scheduling.live_request import LiveRequest
from engine.scheduling.request import Finished, FinishReason, Refused, Started
from tests.unit.scheduling_harness import Harness, expected, make_request

S = 1_000_000_000


@pytest.mark.parametrize(
    ("prompt", "fields", "error", "field", "message"),
    [
        ([], {}, InvalidRequest, "prompt", "no tokens"),
        ([1], {"n": 0}, InvalidRequest, "n", "n is 0"),
        ([1], {"n": 2, "resume_token_ids": [5]}, InvalidRequest, "resume_token_ids", "n = 1 only"),
        ([1], {"max_tokens": 0}, InvalidRequest, "max_tokens", "at least 1"),
        ([1] * 20, {}, PromptTooLong, "prompt", "20 tokens; with one token of output at most 19"),
        ([1, -1], {}, InvalidRequest, "prompt", "outside of 0"),
        ([1], {"resume_token_ids": [2**32]}, InvalidRequest, "resume_token_ids", "outside of 0"),
        ([1], {"request_id": "live"}, InvalidRequest, "request_id", "'live'"),
    ],
)
def test_what_can_never_succeed_is_refused_with_the_reason(
    prompt: list[int], fields: dict[str, Any], error: type[InvalidRequest], field: str, message: str
) -> None:
    harness = Harness(num_blocks=5, max_model_tokens=20)
    live = harness.submit("live", 5)
    name = fields.pop("request_id", "bad")
    with pytest.raises(error, match=message) as caught:
        harness.submit(name, prompt, **fields)
    assert caught.value.field == field
    harness.run()
    harness.assert_as_undisturbed(live)
    harness.assert_empty()


def test_the_longest_prompt_that_fits_gets_its_one_token() -> None:
    harness = Harness(num_blocks=5, max_model_tokens=20)
    request = harness.submit("a", 19, max_tokens=5)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert len(harness.tokens("a")) == 1


def test_an_id_may_be_used_again_when_its_request_is_over() -> None:
    harness = Harness()
    harness.submit("a", 5)
    harness.run()
    harness.events.clear()
    request = harness.submit("a", 6)
    harness.run()
    harness.assert_as_undisturbed(request)


def test_a_full_queue_refuses_and_keeps_what_it_has() -> None:
    harness = Harness(max_seqs=1, max_waiting=2)
    requests = [harness.submit("a", 5)]
    harness.plan()
    requests += [harness.submit(name, 5) for name in "bc"]
    with pytest.raises(Overloaded, match="2 requests are waiting and no more than 2 may") as caught:
        harness.submit("d", 5)
    assert caught.value.retry_after_s == 1.0, "nothing has been measured yet"
    harness.run()
    harness.assert_as_undisturbed(*requests)
    assert not harness.events_of("d")


def test_the_retry_hint_follows_the_measured_rate_of_completions() -> None:
    harness = Harness(max_seqs=1, max_waiting=1, plans_in_flight=1)
    for i in range(5):
        harness.submit(f"r{i}", 5, max_tokens=1)
        harness.now_ns += 2 * S
        harness.step()
    harness.submit("waiting", 5)
    with pytest.raises(Overloaded) as caught:
        harness.submit("refused", 5)
    assert caught.value.retry_after_s == pytest.approx(2.0)


def test_preempted_sequences_do_not_fill_the_queue() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32, max_waiting=1, headroom_blocks_per_sequence=0)
    harness.submit("a", 12, max_tokens=16)
    harness.plan()
    harness.submit("b", 12, max_tokens=16)
    while harness.scheduler.figures().num_preemptions == 0:
        harness.plan()
        harness.apply()
    harness.submit("c", 5)
    harness.run()
    assert harness.finished("c")


def test_a_deadline_that_has_passed_is_refused_at_submit() -> None:
    harness = Harness()
    harness.now_ns = 5 * S
    with pytest.raises(DeadlinePassed, match="by 1000 ms"):
        harness.submit("a", 5, deadline_ns=4 * S)
    harness.assert_empty()


def test_a_deadline_passes_in_the_queue() -> None:
    harness = Harness(max_seqs=1)
    request = harness.submit("a", 5)
    harness.plan()
    harness.submit("b", 5, deadline_ns=2 * S)
    harness.submit("c", 5, deadline_ns=9 * S)
    assert harness.scheduler.next_deadline_ns() == 2 * S
    harness.now_ns = 2 * S
    harness.plan()
    assert harness.scheduler.next_deadline_ns() == 9 * S
    (refused,) = harness.events_of("b")
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, DeadlinePassed)
    assert "waiting in the queue" in refused.error.message
    harness.run()
    harness.assert_as_undisturbed(request)
    harness.assert_empty()


def test_a_deadline_passes_while_running_even_when_plans_are_in_flight() -> None:
    harness = Harness()
    other = harness.submit("other", 6, max_tokens=20)
    harness.submit("a", 5, max_tokens=20, deadline_ns=2 * S)
    harness.plan()
    harness.plan()
    harness.now_ns = 3 * S
    assert harness.plan() is None, "two are in flight"
    assert "running" in harness.refused("a")[0].error.message
    num_events = len(harness.events_of("a"))
    harness.run()
    assert len(harness.events_of("a")) == num_events, "nothing comes after the refusal"
    harness.assert_as_undisturbed(other)
    harness.assert_empty()


def test_a_deadline_of_a_request_that_is_over_is_forgotten() -> None:
    harness = Harness()
    harness.submit("a", 5, deadline_ns=9 * S)
    harness.run()
    assert harness.scheduler.next_deadline_ns() is None
    harness.now_ns = 10 * S
    harness.plan()
    assert not harness.refused("a")


def test_deadlines_of_ended_requests_do_not_pile_up() -> None:
    live_requests: dict[str, LiveRequest] = {}
    deadlines = Deadlines(live_requests)
    for i in range(500):
        live = LiveRequest(make_request("a", 3, deadline_ns=9 * S + i), i, 0)
        live_requests["a"] = live
        deadlines.add(live)
        assert deadlines.next_ns() == 9 * S + i
        del live_requests["a"]
    assert len(deadlines) < 100


@pytest.mark.parametrize("num_resumed", [1, 3, 8])
def test_a_resumed_request_goes_on_with_the_same_tokens(num_resumed: int) -> None:
    harness = Harness()
    whole = expected(make_request("a", 6, max_tokens=9, temperature=1.0, seed=5), 128)
    request = harness.submit("a", 6, max_tokens=9, temperature=1.0, seed=5, resume_token_ids=whole[:num_resumed])
    harness.run()
    harness.assert_as_undisturbed(request)
    assert len(harness.tokens("a")) == 9 - num_resumed
    assert harness.plans[0].new_sequences[0].num_prompt_tokens == 6


@pytest.mark.parametrize(
    ("fields", "reason", "stop_token_id"),
    [
        ({"max_tokens": 2}, FinishReason.LENGTH, None),
        ({"max_tokens": 9, "stop_token_ids": (8,)}, FinishReason.STOP, 8),
        ({"max_tokens": 2, "stop_token_ids": (8,)}, FinishReason.STOP, 8),
        ({"max_tokens": 9, "prompt": 6}, FinishReason.LENGTH, None),
    ],
)
def test_a_resumed_request_that_was_whole_finishes_at_once(
    fields: dict[str, Any], reason: FinishReason, stop_token_id: int | None
) -> None:
    harness = Harness(num_blocks=2, max_model_tokens=8)
    prompt = fields.pop("prompt", 4)
    harness.submit("a", prompt, resume_token_ids=[7, 8], **fields)
    started, finished = harness.events
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.stop_token_id) == (reason, stop_token_id)
    assert finished.times is not None
    harness.assert_empty()
