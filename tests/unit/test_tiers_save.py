"""Downwards: what is spilled and persisted, when, and what happens when that fails."""

from typing import Any

import pytest

from engine.errors import ConfigError, TierFull
from engine.scheduling.plan import TransferFailure
from tests.unit.scheduling_harness import Harness, make_request
from tests.unit.tiering_harness import BLOCK_BYTES, FETCH, LOAD, PERSIST, SPILL, TieringHarness

PROMPT = list(range(100, 141))


def prompts(count: int, length: int = 41) -> list[list[int]]:
    return [list(range(base, base + length)) for base in range(10_000, 10_000 + 1000 * count, 1000)]


def test_nothing_is_spilled_while_there_is_room() -> None:
    harness = TieringHarness()
    harness.serve("a", PROMPT)
    assert not harness.sent


def test_blocks_near_eviction_are_spilled_ahead_of_need() -> None:
    harness = TieringHarness(num_blocks=40, num_host_slots=200, has_disk=False)
    for number, prompt in enumerate(prompts(12)):
        harness.serve(f"r{number}", prompt)
    device = harness.tiers.device
    assert device.num_evictions > 40
    assert device.num_lost == 0, "eviction only drops"
    assert harness.tiers.host.num_used >= device.num_evictions
    assert harness.scheduler.prefix_hits(make_request("x", prompts(1)[0])).total == 40


def test_the_front_of_the_host_tier_is_persisted_ahead_of_need() -> None:
    harness = TieringHarness(num_blocks=40, num_host_slots=40)
    for number, prompt in enumerate(prompts(20)):
        harness.serve(f"r{number}", prompt)
    host = harness.tiers.host
    assert host.num_evictions > 40
    assert host.num_lost == 0
    hits = harness.scheduler.prefix_hits(make_request("x", prompts(1)[0]))
    assert (hits.device, hits.host, hits.disk) == (0, 0, 40)


def test_spills_keep_to_their_budget_and_leave_blocks_to_hand_out() -> None:
    harness = TieringHarness(num_blocks=32, spill_ahead_fraction=1.0, spill_budget_bytes=3 * BLOCK_BYTES)
    harness.submit("a", PROMPT, max_tokens=1)
    harness.run()
    harness.take()
    assert sum(len(transfer.keys) for transfer in harness.in_flight(SPILL)) <= 3
    assert harness.scheduler.figures().num_blocks_in_use <= 3


def test_allocation_never_waits_for_a_spill() -> None:
    harness = TieringHarness(num_blocks=32, num_host_slots=64, has_disk=False)
    for number, prompt in enumerate(prompts(6)):
        request = harness.submit(f"r{number}", prompt, max_tokens=2)
        while not harness.scheduler.is_idle:
            harness.step()  # no transfer is ever answered
        harness.assert_as_undisturbed(request)
    assert harness.tiers.device.num_lost > 0


def test_a_sequence_that_cannot_grow_does_not_wait_for_a_spill() -> None:
    harness = TieringHarness(num_blocks=20, max_model_tokens=40, headroom_blocks_per_sequence=0, has_disk=False)
    request = harness.submit("a", 13, max_tokens=27)
    for name in "bc":
        harness.submit(name, 13, max_tokens=27)
    while not harness.finished("a"):
        harness.step()  # no transfer is ever answered
    harness.assert_as_undisturbed(request)
    assert harness.scheduler.figures().num_preemptions
    assert harness.in_flight(SPILL)
    harness.run()
    assert harness.finished("b")
    assert harness.finished("c")


def test_a_prompt_kept_for_forks_may_be_given_up_while_it_is_spilled() -> None:
    harness = TieringHarness(num_blocks=4, max_model_tokens=16, max_seqs=1, has_disk=False)
    harness.submit("forked", PROMPT[:9], n=2, max_tokens=1)
    harness.step()
    harness.scheduler.write_through(harness.keys(PROMPT[:9]))
    request = harness.submit("whole pool", 15, max_tokens=1, priority=-1)
    harness.plan()
    assert harness.in_flight(SPILL)
    if harness.results:
        harness.apply()
    harness.run()
    harness.assert_as_undisturbed(request)
    assert len(harness.finished("forked")) == 2


def test_a_failed_spill_is_not_tried_again_at_every_step() -> None:
    harness = TieringHarness(num_blocks=40, spill_ahead_fraction=1.0)
    harness.submit("a", PROMPT, max_tokens=1)
    harness.run()
    num_rows = 0
    for _ in range(20):
        harness.take()
        for transfer in harness.in_flight(SPILL):
            num_rows += len(transfer.keys)
            harness.finish(transfer, 0, TransferFailure.FULL)
    assert num_rows == 10
    assert not harness.take()
    assert harness.tiers.moves[SPILL].failures == {TransferFailure.FULL: harness.tiers.moves[SPILL].num_transfers}


def test_a_failed_persist_is_not_tried_again_at_every_step() -> None:
    harness = TieringHarness(num_blocks=40, num_host_slots=40, spill_ahead_fraction=1.0, persist_ahead_fraction=1.0)
    harness.submit("a", PROMPT, max_tokens=1)
    harness.run()
    num_rows = 0
    for _ in range(20):
        harness.take()
        for transfer in harness.fake.in_flight:
            if transfer.kind is PERSIST:
                num_rows += len(transfer.keys)
                harness.finish(transfer, 0, TransferFailure.FULL)
            else:
                harness.finish(transfer)
    assert num_rows == 10
    assert harness.tiers.disk.num_used == 0
    assert harness.tiers.host.num_used == 10


def test_what_a_second_request_hits_goes_down_at_once() -> None:
    harness = TieringHarness()
    harness.serve("a", PROMPT)
    assert not harness.sent
    harness.serve("b", [*PROMPT[:20], 7, 8, 9])
    assert [key for transfer in harness.sent if transfer.kind is SPILL for key in transfer.keys] == harness.keys(
        PROMPT
    )[:5]
    assert len(harness.mirror) == 5
    harness.sent.clear()
    harness.serve("c", [*PROMPT[:20], 4, 5])
    assert not harness.sent, "once is enough"


def test_what_several_choices_of_one_request_share_is_not_shared() -> None:
    harness = TieringHarness()
    harness.submit("a", PROMPT, n=3)
    harness.run()
    harness.settle()
    assert not harness.sent


def test_rows_come_in_the_order_of_the_chain_and_tails_are_evicted_first() -> None:
    harness = TieringHarness(num_blocks=32, num_host_slots=10, has_disk=False, spill_ahead_fraction=0.0)
    harness.serve("a", PROMPT)
    harness.scheduler.write_through(harness.keys(PROMPT))
    harness.settle()
    assert all(transfer.depths == sorted(transfer.depths) for transfer in harness.sent)
    harness.flush_device()
    other = prompts(1, 17)[0]
    harness.serve("b", other)
    harness.scheduler.write_through(harness.keys(other))
    harness.settle()
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).host == 24


def test_with_no_host_tier_nothing_ever_moves() -> None:
    harness = Harness(num_blocks=8, max_model_tokens=32)
    requests = [harness.submit(f"r{i}", prompt) for i, prompt in enumerate(prompts(4, 20))]
    while not harness.scheduler.is_idle:
        harness.step()
        assert harness.scheduler.take_transfers(harness.now_ns) == []
    harness.assert_as_undisturbed(*requests)
    assert harness.scheduler.figures().tiers is None
    harness.scheduler.begin_drain(0, 10)
    assert harness.scheduler.is_drained


def test_without_the_prefix_cache_the_host_tier_is_not_used() -> None:
    harness = Harness(prefix_cache=False, num_host_slots=8, block_bytes=1, has_disk=True)
    harness.submit("a", PROMPT)
    harness.run()
    assert harness.scheduler.take_transfers(0) == []


@pytest.mark.parametrize("has_disk", [True, False])
def test_draining_brings_everything_to_disk(has_disk: bool) -> None:
    harness = TieringHarness(has_disk=has_disk, num_host_slots=5, spill_budget_bytes=2 * BLOCK_BYTES)
    harness.serve("a", PROMPT)
    harness.submit("b", prompts(1)[0], max_tokens=8)
    harness.step()
    assert not harness.is_drained()
    harness.scheduler.begin_drain(harness.now_ns, 1000)
    assert not harness.is_drained(), "a request is running"
    harness.run()
    harness.settle()
    assert harness.is_drained()
    assert len(harness.mirror) == (10 + 12 if has_disk else 0)
    assert harness.tiers.num_in_flight == 0


def test_draining_takes_the_heads_of_chains_first_and_ends_at_its_deadline() -> None:
    harness = TieringHarness(spill_budget_bytes=3 * BLOCK_BYTES)
    harness.serve("a", PROMPT)
    harness.scheduler.begin_drain(harness.now_ns, 1000)
    harness.take()
    assert harness.in_flight(SPILL)[0].depths == [0, 1, 2]
    assert harness.scheduler.next_deadline_ns() == harness.now_ns + 1000
    assert not harness.is_drained()
    harness.now_ns += 1000
    harness.plan()
    assert harness.is_drained()
    harness.settle()
    assert len(harness.sent) == 1, "nothing is begun after the deadline"


def test_a_drain_survives_a_disk_that_takes_nothing() -> None:
    harness = TieringHarness(num_host_slots=4)
    harness.serve("a", PROMPT)
    harness.scheduler.begin_drain(harness.now_ns, 10**12)
    for _ in range(100):
        harness.take()
        for transfer in harness.fake.in_flight:
            is_persist = transfer.kind is PERSIST
            harness.finish(transfer, 0 if is_persist else None, TransferFailure.IO_ERROR if is_persist else None)
    harness.take()
    assert harness.is_drained()


def test_a_pinned_prefix_stays_in_the_host_tier() -> None:
    harness = TieringHarness(num_blocks=32, num_host_slots=30, has_disk=False)
    harness.scheduler.pins.pin("system", harness.keys(PROMPT))
    harness.serve("a", PROMPT)
    assert harness.tiers.host.num_pinned == 10, "it goes down as soon as it is computed"
    for number, prompt in enumerate(prompts(12)):
        harness.serve(f"r{number}", prompt)
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).total == 40
    harness.scheduler.pins.unpin("system")
    for number, prompt in enumerate(prompts(24)[12:]):
        harness.serve(f"s{number}", prompt)
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).total == 0


def test_what_is_pinned_after_it_was_computed_goes_to_disk_at_once() -> None:
    harness = TieringHarness()
    harness.serve("a", PROMPT)
    harness.scheduler.pins.pin("system", harness.keys(PROMPT))
    harness.settle()
    assert len(harness.mirror) == 10
    assert harness.tiers.disk.num_pinned == harness.tiers.host.num_pinned == harness.tiers.device.num_pinned == 10


def test_there_is_room_for_so_many_pinned_blocks_only() -> None:
    harness = TieringHarness(num_host_slots=30)
    harness.scheduler.pins.pin("a", harness.keys(PROMPT))
    with pytest.raises(TierFull, match=r"takes 10 blocks, but 10 of the 15 .* Unpin one, pin a shorter"):
        harness.scheduler.pins.pin("b", harness.keys(prompts(1)[0]))
    assert harness.scheduler.pins.names == ["a"]
    harness.scheduler.pins.pin("c", harness.keys(PROMPT[:20]))
    harness.scheduler.pins.pin("a", harness.keys(prompts(1)[0]))
    assert harness.scheduler.pins.names == ["c", "a"]
    with pytest.raises(TierFull, match="there is no host tier"):
        Harness().scheduler.pins.pin("a", [])


def test_a_tenant_over_its_cap_evicts_only_its_own() -> None:
    harness = TieringHarness(num_blocks=32, num_host_slots=60, has_disk=False, host_tenant_cap_bytes=12 * BLOCK_BYTES)
    harness.serve("quiet", PROMPT, tenant="quiet")
    harness.scheduler.write_through(harness.keys(PROMPT))
    harness.settle()
    for number, prompt in enumerate(prompts(8)):
        harness.serve(f"r{number}", prompt, tenant="loud")
        harness.scheduler.write_through(harness.keys(prompt))
        harness.settle()
    assert harness.tiers.host.num_used == 10 + 12
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).total == 40


def test_persists_say_whose_blocks_they_are() -> None:
    harness = TieringHarness()
    for tenant, prompt in zip("ab", prompts(2), strict=True):
        harness.serve(tenant, prompt, tenant=tenant)
        harness.scheduler.write_through(harness.keys(prompt))
    harness.settle()
    assert sorted(transfer.tenant for transfer in harness.sent if transfer.kind is PERSIST) == ["a", "b"]


def test_what_waits_for_a_load_is_sent_before_what_nobody_waits_for() -> None:
    harness = TieringHarness()
    other = prompts(1)[0]
    harness.to_disk(PROMPT)
    harness.serve("other", other)
    harness.scheduler.write_through(harness.keys(other))
    harness.submit("a", PROMPT)
    kinds = [transfer.kind for transfer in harness.take()]
    assert kinds.index(SPILL) > max(i for i, kind in enumerate(kinds) if kind is FETCH)
    for transfer in harness.in_flight(FETCH):
        harness.finish(transfer)
    for transfer in harness.in_flight(SPILL):
        harness.finish(transfer)
    harness.scheduler.plan(harness.now_ns)
    assert [transfer.kind for transfer in harness.take()] == [LOAD, PERSIST]


def test_figures_tell_what_has_moved() -> None:
    harness = TieringHarness()
    harness.to_disk(PROMPT)
    harness.submit("a", PROMPT)
    for transfer in harness.take():
        harness.finish(transfer, copy_ns=5)
    harness.run()
    tiers = harness.tiers
    assert tiers.block_bytes == BLOCK_BYTES
    assert tiers.moves[FETCH].num_bytes == 10 * BLOCK_BYTES
    assert tiers.moves[FETCH].copy_ns == 15
    assert (tiers.device.num_hit_tokens, tiers.host.num_hit_tokens, tiers.disk.num_hit_tokens) == (0, 0, 40)
    assert harness.scheduler.figures().num_hit_tokens == 40


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_host_slots": 4, "block_bytes": 0}, "say how large a block is"),
        ({"num_host_slots": 0, "has_disk": True}, "blocks reach the disk through host slots only"),
        ({"spill_ahead_fraction": 1.5}, "spill_ahead_fraction is 1.5; it must be from 0 to 1"),
        ({"max_transfer_blocks": 0}, "max_transfer_blocks is 0; it must be at least 1"),
    ],
)
def test_tiers_that_cannot_work_say_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Harness(**fields)
