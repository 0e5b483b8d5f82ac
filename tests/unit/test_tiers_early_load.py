"""While a request waits for the disk, what has come goes on to the device."""

from typing import Any

from engine.scheduling.plan import TransferFailure
from tests.unit.tiering_harness import FETCH, LOAD, MS, TieringHarness

PROMPT = list(range(100, 141))
"""Ten blocks of four, and one token: three chunks."""


def waiting(**limits: Any) -> TieringHarness:
    """`a` waits for the disk, and could be admitted but for that."""
    harness = TieringHarness(**limits)
    harness.to_disk(PROMPT)
    harness.submit("a", PROMPT)
    assert harness.plan() is None
    assert [len(transfer.keys) for transfer in harness.in_flight(FETCH)] == [4, 4, 2]
    return harness


def loaded(harness: TieringHarness) -> list[int]:
    """Depths of the blocks of the loads in flight."""
    harness.take()
    return [depth for transfer in harness.in_flight(LOAD) for depth in transfer.depths]


def test_each_chunk_is_loaded_as_it_comes() -> None:
    harness = waiting()
    first, second, third = harness.in_flight(FETCH)
    harness.finish(first)
    assert loaded(harness) == [0, 1, 2, 3]
    harness.finish(harness.in_flight(LOAD)[0])
    harness.finish(second)
    assert loaded(harness) == [4, 5, 6, 7]
    harness.finish(third)
    assert loaded(harness) == [4, 5, 6, 7, 8, 9]
    harness.run()
    assert harness.cached("a") == (0, 0, 40)


def test_a_chunk_that_comes_before_its_turn_waits_for_the_gap_to_close() -> None:
    harness = waiting()
    first, second, _ = harness.in_flight(FETCH)
    harness.finish(second)
    assert loaded(harness) == []
    harness.finish(first)
    assert loaded(harness) == list(range(8))


def test_the_request_is_planned_with_the_last_result_of_all() -> None:
    harness = waiting()
    for transfer in harness.in_flight(FETCH):
        harness.finish(transfer)
    harness.take()
    loads = harness.in_flight(LOAD)
    for transfer in loads[:-1]:
        harness.finish(transfer)
        assert harness.plan() is None
    harness.finish(loads[-1])
    assert harness.plan() is not None


def test_what_was_in_host_memory_is_loaded_at_once_and_counted_as_such() -> None:
    harness = TieringHarness(num_host_slots=256, assumed_transfer_latency_ns=1000)
    harness.to_disk(PROMPT)
    harness.serve("head", PROMPT[:17])
    harness.flush_device()
    harness.submit("a", PROMPT)
    assert harness.plan() is None
    assert loaded(harness) == [0, 1, 2, 3]
    harness.run()
    assert harness.cached("a") == (0, 16, 24)


def test_nothing_is_loaded_early_for_a_request_that_would_not_fit() -> None:
    harness = waiting(num_blocks=16, max_model_tokens=64)
    other = harness.submit("other", 30, max_tokens=2)
    assert harness.plan() is not None
    harness.finish(harness.in_flight(FETCH)[0])
    assert loaded(harness) == []
    harness.run()
    assert harness.finished("a")
    harness.assert_as_undisturbed(other)


def test_a_request_that_is_cancelled_leaves_what_has_come_for_the_next_one() -> None:
    harness = waiting()
    harness.finish(harness.in_flight(FETCH)[0])
    assert loaded(harness) == [0, 1, 2, 3]
    harness.scheduler.cancel("a", harness.now_ns)
    harness.settle()
    assert harness.scheduler.figures().num_blocks_in_use == 0
    harness.submit("b", PROMPT[:17])
    harness.run()
    assert harness.cached("b") == (16, 0, 0)


def test_a_load_that_fails_half_way_costs_the_rest_of_its_chunk() -> None:
    harness = waiting()
    fetches = harness.in_flight(FETCH)
    harness.finish(fetches[0])
    harness.take()
    harness.finish(harness.in_flight(LOAD)[0], 2, TransferFailure.IO_ERROR)
    for transfer in fetches[1:]:
        harness.finish(transfer)
    harness.run()
    assert harness.cached("a") == (0, 0, 8)


def test_a_load_that_does_not_come_is_not_waited_for() -> None:
    harness = waiting(min_load_wait_ns=MS)
    for transfer in harness.in_flight(FETCH):
        harness.finish(transfer)
    harness.take()
    late = harness.in_flight(LOAD)
    assert harness.plan() is None
    deadline_ns = harness.scheduler.next_deadline_ns()
    assert deadline_ns is not None
    harness.now_ns = max(deadline_ns, harness.now_ns + 1000 * MS)
    plan = harness.plan()
    assert plan is not None
    assert plan.work.starts == [0]
    assert harness.tiers.num_late_loads == len(late)
    for transfer in late:
        harness.finish(transfer)
    harness.run()
    assert harness.finished("a")


def test_a_worker_that_is_lost_meanwhile_leaves_nothing_behind() -> None:
    harness = waiting()
    harness.finish(harness.in_flight(FETCH)[0])
    harness.take()
    harness.lose_worker()
    harness.run()
    assert harness.finished("a")
    assert harness.cached("a") == (0, 0, 40)
