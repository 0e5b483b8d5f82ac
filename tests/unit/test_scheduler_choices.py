"""Several choices of one prompt, and log probabilities of the prompt."""

import pytest

from engine.logprobs import Logprobs
from engine.scheduling.request import Finished, FinishReason, PromptScored, TokenEvent
from tests.fakes.fake_worker import fake_logprob
from tests.unit.scheduling_harness import Harness, expected

SAMPLED = {"temperature": 1.0, "seed": 2**64 - 2, "max_tokens": 6}


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("length", [1, 4, 5, 14])
def test_each_choice_gives_the_tokens_of_its_own_seed(length: int, prefix_cache: bool) -> None:
    harness = Harness(prefix_cache=prefix_cache, max_batched_tokens=6)
    request = harness.submit("a", length, n=4, **SAMPLED)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert len({tuple(harness.tokens("a", index)) for index in range(4)}) == 4
    assert [event.times is not None for event in harness.finished("a")] == [False, False, False, True]
    assert len(harness.started("a")) == 1
    harness.assert_empty()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_forks_share_the_full_blocks_of_the_prompt(prefix_cache: bool) -> None:
    harness = Harness(prefix_cache=prefix_cache, plans_in_flight=1)
    harness.submit("a", 14, n=3, **SAMPLED)
    first = harness.step()
    assert len(first.new_sequences) == 1, "the others wait for the prompt"
    second = harness.step()
    assert len(second.new_sequences) == 2
    blocks = first.work.new_block_ids[:3]
    assert [new.block_ids for new in second.new_sequences] == [blocks, blocks]
    assert second.work.starts[1:] == [12, 12]
    assert second.work.num_tokens[1:] == [2, 2]


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_forks_start_from_the_shared_prompt_when_the_first_choice_is_long_gone(prefix_cache: bool) -> None:
    harness = Harness(prefix_cache=prefix_cache, max_seqs=1, num_blocks=6, max_model_tokens=24)
    request = harness.submit("a", 14, n=3, temperature=1.0, max_tokens=1)
    harness.run()
    harness.assert_as_undisturbed(request)
    starts = [plan.work.starts[0] for plan in harness.plans]
    assert starts == [0, 12, 12]
    harness.assert_empty()


def test_when_the_first_choice_ends_before_the_prompt_is_computed_the_next_one_leads() -> None:
    harness = Harness(max_batched_tokens=4)
    request = harness.submit("a", 14, n=3, **SAMPLED)
    harness.plan()
    harness.cancel("a", index=0)
    harness.run()
    assert not harness.tokens("a", 0)
    assert sorted(event.index for event in harness.finished("a")) == [1, 2]
    for index in (1, 2):
        assert harness.tokens("a", index) == expected(request, 128, index=index)
    harness.assert_empty()


def test_a_choice_that_does_not_exist_yet_can_be_stopped() -> None:
    harness = Harness(max_batched_tokens=4)
    request = harness.submit("a", 14, n=3, **SAMPLED)
    harness.plan()
    harness.cancel("a", index=2, reason=FinishReason.STOP)
    harness.run()
    assert not harness.tokens("a", 2)
    assert sorted(event.index for event in harness.finished("a")) == [0, 1, 2]
    assert harness.tokens("a", 1) == expected(request, 128, index=1)
    harness.assert_empty()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_prompts_kept_for_forks_are_given_up_rather_than_block_everything(prefix_cache: bool) -> None:
    harness = Harness(
        prefix_cache=prefix_cache, num_blocks=8, max_model_tokens=32, max_seqs=2, headroom_blocks_per_sequence=0
    )
    requests = [harness.submit(name, 13, n=3, temperature=1.0, max_tokens=18) for name in "abc"]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    harness.assert_empty()


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_prompt_kept_for_forks_gives_way_to_a_request_that_nothing_may_pass(prefix_cache: bool) -> None:
    harness = Harness(prefix_cache=prefix_cache, num_blocks=8, max_model_tokens=32, max_seqs=1, max_scan=1)
    requests = [harness.submit("a", 13, n=2, temperature=1.0, max_tokens=1)]
    harness.step()
    requests.append(harness.submit("large", 30, max_tokens=1, priority=-1))
    harness.run()
    harness.assert_as_undisturbed(*requests)
    assert [event.request_id for event in harness.events if isinstance(event, Finished)] == ["a", "large", "a"]
    harness.assert_empty()


def test_a_cancelled_request_takes_its_waiting_forks_with_it() -> None:
    harness = Harness(max_seqs=1)
    harness.submit("a", 14, n=3, **SAMPLED)
    while not harness.tokens("a"):
        harness.plan()
        harness.apply()
    harness.cancel("a")
    harness.run()
    harness.assert_empty()


def entries(logprobs: Logprobs) -> list[tuple[int, float]]:
    return list(zip(logprobs.token_ids, logprobs.logprobs, strict=True))


@pytest.mark.parametrize("budget", [1, 3, 64])
@pytest.mark.parametrize("n", [1, 2])
def test_a_prompt_is_scored_once_before_the_first_token(budget: int, n: int) -> None:
    harness = Harness(max_batched_tokens=budget)
    request = harness.submit("a", 11, prompt_logprobs=2, n=n)
    harness.run()
    scored = [event for event in harness.events if isinstance(event, PromptScored)]
    assert len(scored) == 1
    prompt = request.prompt_token_ids
    assert entries(scored[0].logprobs) == [(prompt[p], fake_logprob(prompt[p], p)) for p in range(1, 11)]
    assert len(scored[0].logprobs.top_token_ids) == 20
    first_token = next(i for i, event in enumerate(harness.events) if isinstance(event, TokenEvent))
    assert harness.events.index(scored[0]) < first_token
    harness.assert_as_undisturbed(request)


def test_a_prompt_that_is_scored_takes_no_prefix_hits() -> None:
    harness = Harness()
    harness.submit("a", list(range(14)))
    harness.run()
    request = harness.submit("b", list(range(14)), prompt_logprobs=0)
    assert harness.scheduler.prefix_hits(request).device == 0
    harness.run()
    assert harness.started("b")[0].cached.device == 0
    assert [event.logprobs.token_ids for event in harness.events if isinstance(event, PromptScored)] == [
        list(range(1, 14))
    ]


def test_a_prompt_of_one_token_has_no_scores_and_says_so() -> None:
    harness = Harness()
    harness.submit("a", 1, prompt_logprobs=0)
    harness.run()
    assert [len(event.logprobs) for event in harness.events if isinstance(event, PromptScored)] == [0]


def test_a_prompt_is_scored_once_though_it_is_preempted() -> None:
    harness = Harness(num_blocks=10, max_model_tokens=40, max_batched_tokens=4, headroom_blocks_per_sequence=0)
    first = harness.submit("a", 3, max_tokens=20)
    second = harness.submit("b", 30, max_tokens=3, prompt_logprobs=0, priority=1)
    harness.run()
    assert harness.scheduler.figures().num_preemptions >= 1
    scored = [event for event in harness.events if isinstance(event, PromptScored)]
    assert [event.logprobs.token_ids for event in scored] == [second.prompt_token_ids[1:]]
    harness.assert_as_undisturbed(first, second)


def test_sampled_tokens_carry_their_log_probabilities() -> None:
    harness = Harness()
    harness.submit("a", 5, logprobs=2)
    harness.submit("b", 6)
    harness.run()
    events = [event for event in harness.events if isinstance(event, TokenEvent)]
    for event in events:
        if event.request_id == "b":
            assert event.logprobs is None
    scored = [event for event in events if event.request_id == "a"]
    assert [event.logprobs.token_ids for event in scored if event.logprobs] == [[event.token_id] for event in scored]
    assert [event.logprobs.logprobs[0] for event in scored if event.logprobs] == [
        fake_logprob(event.token_id, 5 + i) for i, event in enumerate(scored)
    ]
    assert all(event.logprobs and len(event.logprobs.top_token_ids) == 2 for event in scored)
