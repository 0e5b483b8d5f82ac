"""Fetches that begin when a request could be admitted: what it found when it came has been evicted since."""

from typing import Any

from engine.scheduling.request import Request
from tests.unit.scheduling_harness import rows
from tests.unit.tiering_harness import FETCH, MS, TieringHarness

PROMPT = list(range(100, 141))
"""Ten blocks of four, and one token. Computing a token is assumed to take half a millisecond."""
PATIENCE_NS = int(0.1 * 41 * 0.5 * MS)


def queued_while_near(**limits: Any) -> tuple[TieringHarness, Request]:
    """A request that found its prompt in the host tier when it came, and waits for the one slot."""
    harness = TieringHarness(max_seqs=1, **limits)
    harness.to_host(PROMPT)
    harness.submit("busy", 9)
    harness.step()
    request = harness.submit("a", PROMPT)
    assert not any(transfer.kind is FETCH for transfer in harness.take())
    return harness, request


def test_what_left_the_host_tier_while_a_request_waited_is_fetched_when_its_turn_comes() -> None:
    harness, request = queued_while_near()
    harness.scheduler.clear_cached()
    harness.run()
    assert harness.cached("a") == (0, 0, 40)
    harness.assert_as_undisturbed(request)


def test_a_late_fetch_is_waited_for_no_longer_than_any() -> None:
    harness, request = queued_while_near()
    harness.scheduler.clear_cached()
    while not harness.finished("busy"):
        harness.step()
    assert harness.plan() is None
    assert harness.in_flight(FETCH)
    assert harness.scheduler.next_deadline_ns() == harness.now_ns + PATIENCE_NS
    harness.now_ns += PATIENCE_NS
    assert rows(harness.step())[0][1:3] == (0, 41)
    harness.run()
    harness.assert_as_undisturbed(request)


def test_a_late_fetch_is_tried_once() -> None:
    harness, request = queued_while_near()
    harness.scheduler.clear_cached()
    for key in harness.keys(PROMPT):
        harness.evict_from_disk(key, is_told=False)
    harness.run()
    assert len([transfer for transfer in harness.sent if transfer.kind is FETCH]) <= 3
    assert harness.cached("a") == (0, 0, 0)
    harness.assert_as_undisturbed(request)


def test_what_is_near_is_not_fetched_late() -> None:
    harness, request = queued_while_near()
    harness.run()
    assert harness.cached("a") == (0, 40, 0)
    assert not any(transfer.kind is FETCH for transfer in harness.sent)
    harness.assert_as_undisturbed(request)
