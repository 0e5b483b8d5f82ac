"""Which worker a request is sent to."""

from engine.scheduling.router import Router
from tests.unit.scheduling_harness import Harness, make_request
from tests.unit.tiering_harness import TieringHarness

PROMPT = list(range(14))


def test_a_request_goes_where_its_prompt_is_cached() -> None:
    harnesses = [Harness() for _ in range(3)]
    harnesses[2].submit("a", PROMPT)
    harnesses[2].run()
    assert Router().choose(make_request("b", PROMPT), [each.scheduler for each in harnesses]) == 2


def test_the_longest_hit_wins() -> None:
    harnesses = [Harness() for _ in range(2)]
    harnesses[0].submit("a", PROMPT[:6])
    harnesses[1].submit("a", PROMPT)
    for harness in harnesses:
        harness.run()
    assert Router().choose(make_request("b", PROMPT), [each.scheduler for each in harnesses]) == 1


def test_without_hits_the_least_loaded_worker_is_chosen() -> None:
    harnesses = [Harness() for _ in range(3)]
    harnesses[0].submit("a", 5)
    harnesses[1].submit("b", 50)
    schedulers = [each.scheduler for each in harnesses]
    assert Router().choose(make_request("x", PROMPT), schedulers) == 2
    harnesses[2].submit("c", 50)
    assert Router().choose(make_request("x", PROMPT), schedulers) == 0, "as many requests, but fewer tokens"


def test_a_worker_that_is_much_busier_is_not_chosen_for_its_cache() -> None:
    harnesses = [Harness() for _ in range(2)]
    harnesses[0].submit("a", PROMPT)
    harnesses[0].run()
    schedulers = [each.scheduler for each in harnesses]
    router = Router(max_load_gap=2)
    for name in "bc":
        harnesses[0].submit(name, 5)
    assert router.choose(make_request("x", PROMPT), schedulers) == 0
    harnesses[0].submit("d", 5)
    assert router.choose(make_request("x", PROMPT), schedulers) == 1


def test_choosing_changes_nothing() -> None:
    harness = Harness()
    harness.submit("a", PROMPT)
    before = harness.scheduler.figures()
    Router().choose(make_request("b", PROMPT), [harness.scheduler])
    assert harness.scheduler.figures() == before


def test_a_near_tier_counts_for_more_than_a_far_one_and_a_far_one_for_more_than_nothing() -> None:
    near, far, empty = TieringHarness(), TieringHarness(), TieringHarness()
    near.serve("a", PROMPT)
    far.to_disk(PROMPT)
    schedulers = [each.scheduler for each in (empty, far, near)]
    request = make_request("b", PROMPT)
    assert Router().choose(request, schedulers) == 2
    assert Router().choose(request, schedulers[:2]) == 1
