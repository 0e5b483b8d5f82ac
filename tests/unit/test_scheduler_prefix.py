"""Prefix hits: what is shared, when, and with whom."""

import pytest

from tests.unit.scheduling_harness import Harness, make_request, rows

PROMPT = list(range(100, 114))
"""Three and a half blocks of four."""


def test_a_second_request_computes_only_what_the_first_did_not() -> None:
    harness = Harness(plans_in_flight=1)
    first = harness.submit("a", PROMPT, max_tokens=1)
    harness.run()
    second = harness.submit("b", [*PROMPT[:12], 7, 8, 9])
    plan = harness.step()
    assert rows(plan)[0][1:3] == (12, 3)
    assert len(plan.new_sequences[0].block_ids) == 3
    assert harness.started("b")[0].cached.device == 12
    harness.run()
    harness.assert_as_undisturbed(first, second)


@pytest.mark.parametrize(("length", "num_hits"), [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (12, 2), (13, 3), (14, 3)])
def test_a_fully_cached_prompt_computes_at_least_its_last_token(length: int, num_hits: int) -> None:
    harness = Harness()
    harness.submit("a", PROMPT)
    harness.run()
    request = make_request("b", PROMPT[:length])
    assert harness.scheduler.prefix_hits(request).device == num_hits * 4
    harness.submit("b", PROMPT[:length])
    harness.run()
    assert harness.started("b")[0].cached.device == num_hits * 4
    harness.assert_as_undisturbed(request)


def test_blocks_can_be_hit_only_after_the_step_that_filled_them() -> None:
    harness = Harness(max_batched_tokens=8)
    harness.submit("a", PROMPT)
    request = make_request("b", PROMPT)
    harness.plan()
    assert harness.scheduler.prefix_hits(request).device == 0
    harness.apply()
    assert harness.scheduler.prefix_hits(request).device == 8


def test_generated_tokens_can_be_hit_as_well() -> None:
    harness = Harness()
    request = harness.submit("a", PROMPT, max_tokens=12)
    harness.run()
    conversation = [*PROMPT, *harness.tokens("a"), 1, 2, 3]
    # The last of 26 tokens was sampled but never computed.
    assert harness.scheduler.prefix_hits(make_request("b", conversation)).device == 24
    second = harness.submit("b", conversation)
    harness.run()
    harness.assert_as_undisturbed(request, second)


@pytest.mark.parametrize(("salt", "num_hit_tokens"), [("s", 12), ("", 0), ("t", 0)])
def test_a_salt_parts_the_cache(salt: str, num_hit_tokens: int) -> None:
    harness = Harness()
    harness.submit("a", PROMPT, cache_salt="s")
    harness.run()
    harness.submit("b", PROMPT, cache_salt=salt)
    harness.run()
    assert harness.started("b")[0].cached.device == num_hit_tokens


@pytest.mark.parametrize(("length", "num_hit_tokens"), [(8, 4), (9, 0), (14, 12), (13, 0)])
def test_long_prompts_share_only_with_their_own_length_where_rope_depends_on_it(
    length: int, num_hit_tokens: int
) -> None:
    harness = Harness(rope_length_dependent_from=8)
    harness.submit("short", PROMPT[:8])
    harness.submit("long", PROMPT)
    harness.run()
    assert harness.scheduler.prefix_hits(make_request("b", PROMPT[:length])).device == num_hit_tokens


def test_without_the_prefix_cache_nothing_is_shared() -> None:
    harness = Harness(prefix_cache=False)
    requests = [harness.submit("a", PROMPT)]
    harness.run()
    requests.append(harness.submit("b", PROMPT))
    harness.run()
    assert harness.started("b")[0].cached.device == 0
    assert harness.scheduler.figures().num_blocks_cached == 0
    harness.assert_as_undisturbed(*requests)


def test_two_requests_that_compute_the_same_prompt_at_once_keep_one_copy() -> None:
    harness = Harness()
    requests = [harness.submit(name, PROMPT, max_tokens=2) for name in "ab"]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    assert harness.scheduler.figures().num_blocks_cached == 3


def test_hits_survive_eviction_pressure_while_they_are_held() -> None:
    harness = Harness(num_blocks=12, max_model_tokens=40)
    requests = [harness.submit("a", PROMPT, max_tokens=2)]
    harness.run()
    requests += [harness.submit(name, [*PROMPT, i], max_tokens=9) for i, name in enumerate("bcd")]
    requests += [harness.submit(name, 20, max_tokens=9) for name in "ef"]
    harness.run()
    harness.assert_as_undisturbed(*requests)


def test_hit_rates_are_counted_once_per_request() -> None:
    harness = Harness()
    for name in "abc":
        harness.submit(name, PROMPT)
        harness.run()
    figures = harness.scheduler.figures()
    assert (figures.num_lookup_tokens, figures.num_hit_tokens) == (42, 24)


def test_asking_for_hits_changes_nothing() -> None:
    harness = Harness()
    harness.submit("a", PROMPT)
    harness.run()
    before = harness.scheduler.figures()
    harness.scheduler.prefix_hits(make_request("b", PROMPT))
    assert harness.scheduler.figures() == before
