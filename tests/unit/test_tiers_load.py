"""From host to device: loads at admission, and what becomes of those that fail or are late."""

from typing import Any

import pytest

from engine.scheduling.plan import TransferFailure
from tests.unit.scheduling_harness import make_request, rows
from tests.unit.tiering_harness import LOAD, MS, SPILL, TieringHarness

PROMPT = list(range(100, 141))


def with_prompt_on_host(**limits: Any) -> TieringHarness:
    harness = TieringHarness(
        **{"num_blocks": 32, "num_host_slots": 128, "has_disk": False, "spill_ahead_fraction": 0.0, **limits}
    )
    harness.to_host(PROMPT)
    hits = harness.scheduler.prefix_hits(make_request("x", PROMPT))
    assert (hits.device, hits.host, hits.disk) == (0, 40, 0)
    return harness


def test_a_host_hit_is_loaded_and_only_the_rest_is_computed() -> None:
    harness = with_prompt_on_host()
    request = harness.submit("a", PROMPT)
    assert harness.plan() is None
    (load,) = harness.in_flight(LOAD)
    assert load.keys == harness.keys(PROMPT)
    assert load.depths == list(range(10))
    harness.now_ns += 3 * MS
    harness.finish(load)
    plan = harness.step()
    assert rows(plan)[0][1:] == (40, 1, True)
    assert plan.new_sequences[0].block_ids == load.block_ids
    assert harness.cached("a") == (0, 40, 0)
    harness.run()
    harness.assert_as_undisturbed(request)
    times = harness.finished("a")[0].times
    assert times is not None
    assert times.load_ns == 3 * MS


def test_other_slots_go_on_while_a_load_is_under_way() -> None:
    harness = with_prompt_on_host()
    other = harness.submit("other", 5, max_tokens=8)
    harness.step()
    harness.submit("a", PROMPT)
    while not harness.finished("other"):
        harness.step()
    assert not harness.started("a")
    harness.assert_as_undisturbed(other)
    harness.run()
    assert harness.cached("a") == (0, 40, 0)


@pytest.mark.parametrize("num_done", [0, 1, 9])
def test_after_a_failed_load_the_sequence_goes_on_from_the_first_failed_block(num_done: int) -> None:
    harness = with_prompt_on_host()
    request = harness.submit("a", PROMPT)
    harness.plan()
    (load,) = harness.in_flight(LOAD)
    harness.finish(load, num_done, TransferFailure.IO_ERROR)
    plan = harness.step()
    assert rows(plan)[0][1:3] == (num_done * 4, 41 - num_done * 4)
    assert harness.cached("a") == (0, num_done * 4, 0)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert sum(transfer.kind is LOAD for transfer in harness.sent) == 1


def test_what_could_not_be_loaded_counts_as_absent() -> None:
    harness = with_prompt_on_host()
    harness.submit("a", PROMPT)
    harness.plan()
    harness.cancel("a")
    harness.finish(harness.in_flight(LOAD)[0], 0, TransferFailure.CORRUPT)
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).total == 0


def test_a_late_load_is_a_miss_and_its_result_still_frees_its_blocks() -> None:
    harness = with_prompt_on_host()
    request = harness.submit("a", PROMPT)
    harness.plan()
    (load,) = harness.in_flight(LOAD)
    deadline_ns = harness.scheduler.next_deadline_ns()
    assert deadline_ns is not None
    assert deadline_ns - harness.now_ns == load.timeout_ns
    harness.now_ns = deadline_ns
    plan = harness.step()
    assert rows(plan)[0][1:3] == (0, 41)
    assert not set(plan.work.new_block_ids) & set(load.block_ids), "they may still be written"
    assert harness.tiers.num_late_loads == 1
    while not harness.finished("a"):
        harness.step()
    harness.assert_as_undisturbed(request)
    assert harness.scheduler.figures().num_blocks_in_use == len(load.block_ids)
    harness.finish(load)
    harness.settle()
    harness.assert_empty()
    assert sum(transfer.kind is LOAD for transfer in harness.sent) == 1


def test_a_cancelled_request_gives_its_blocks_back_when_the_load_ends() -> None:
    harness = with_prompt_on_host()
    harness.submit("a", PROMPT)
    harness.plan()
    harness.cancel("a")
    assert harness.scheduler.figures().num_blocks_in_use == 10
    harness.settle()
    harness.assert_empty()
    hits = harness.scheduler.prefix_hits(make_request("x", PROMPT))
    assert hits.device == 40, "what arrived is there for the next one"


def test_a_slot_that_the_worker_never_heard_of_is_not_released_there() -> None:
    harness = with_prompt_on_host()
    harness.submit("a", PROMPT)
    harness.plan()
    harness.cancel("a")
    other = harness.submit("other", 5)
    plan = harness.step()
    assert harness.worker.busy_slots == set(plan.work.slots), "the fake refuses to release what it does not have"
    harness.run()
    harness.assert_as_undisturbed(other)


def test_a_second_request_waits_for_the_load_of_the_first() -> None:
    harness = with_prompt_on_host()
    requests = [harness.submit(name, PROMPT) for name in "ab"]
    harness.plan()
    assert len(harness.in_flight(LOAD)) == 1
    harness.run()
    harness.assert_as_undisturbed(*requests)
    assert harness.cached("a") == (0, 40, 0)
    assert harness.cached("b") == (40, 0, 0)


def test_what_is_on_the_device_is_not_loaded() -> None:
    harness = with_prompt_on_host()
    harness.submit("short", PROMPT[:17])
    harness.run()
    harness.submit("long", PROMPT)
    harness.run()
    assert harness.cached("long") == (16, 24, 0)


def test_a_load_that_takes_longer_than_computing_is_not_made() -> None:
    harness = with_prompt_on_host()
    harness.submit("a", PROMPT)
    harness.plan()
    harness.finish(harness.in_flight(LOAD)[0], copy_ns=1000 * MS)
    harness.run()
    harness.flush_device()
    harness.sent.clear()
    request = harness.submit("b", PROMPT)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert harness.cached("b") == (0, 0, 0)


def test_large_loads_come_in_several_transfers_and_are_awaited_together() -> None:
    harness = with_prompt_on_host(max_transfer_blocks=4)
    request = harness.submit("a", PROMPT)
    harness.plan()
    loads = harness.in_flight(LOAD)
    assert [len(load.keys) for load in loads] == [4, 4, 2]
    harness.finish(loads[2])
    harness.finish(loads[1], 1, TransferFailure.TIMEOUT)
    assert harness.plan() is None
    harness.finish(loads[0])
    assert rows(harness.step())[0][1] == 20
    harness.run()
    harness.assert_as_undisturbed(request)


def test_blocks_of_others_behind_a_gap_are_not_written() -> None:
    harness = with_prompt_on_host(max_transfer_blocks=4)
    harness.submit("makes room", 100)
    harness.plan()
    harness.cancel("makes room")
    harness.apply()
    harness.submit("cancelled", PROMPT)
    harness.plan()
    loads = harness.in_flight(LOAD)
    harness.finish(loads[0])
    harness.finish(loads[1], 0, TransferFailure.IO_ERROR)
    harness.finish(loads[2])
    harness.cancel("cancelled")
    harness.serve("short", PROMPT[:21])
    request = harness.submit("a", PROMPT)
    harness.plan()
    (load,) = harness.in_flight(LOAD)
    assert load.depths == [5, 6, 7], "the device has what lies before and behind"
    harness.finish(load, 1, TransferFailure.IO_ERROR)
    plan = harness.step()
    assert rows(plan)[0][1] == 24
    assert not set(plan.work.new_block_ids) & set(loads[2].block_ids)
    harness.run()
    harness.assert_as_undisturbed(request)


def test_a_lost_session_forgets_the_host_tier_and_keeps_the_request_that_loads() -> None:
    harness = with_prompt_on_host()
    request = harness.submit("a", PROMPT)
    harness.plan()
    harness.lose_worker()
    assert harness.tiers.host.num_used == 0
    harness.run()
    harness.assert_as_undisturbed(request)
    assert harness.cached("a") == (0, 0, 0)


def test_a_preempted_sequence_is_spilled_and_loaded_back() -> None:
    harness = TieringHarness(
        num_blocks=10, max_model_tokens=40, headroom_blocks_per_sequence=0, has_disk=False, spill_ahead_fraction=0.0
    )
    first = harness.submit("a", 13, max_tokens=27)
    second = harness.submit("b", 13, max_tokens=20)
    while not harness.scheduler.figures().num_preemptions:
        harness.step()
    while not harness.in_flight(SPILL):
        harness.step()
    harness.settle()
    harness.run()
    harness.assert_as_undisturbed(first, second)
    assert any(transfer.kind is LOAD for transfer in harness.sent)
