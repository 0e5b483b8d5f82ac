"""Host slots, the order of eviction, and which tier has what, one rule at a time."""

import pytest

from engine.blocks.disk import DiskMirror
from engine.blocks.host import HostPool
from engine.blocks.order import EvictionOrder
from engine.blocks.residency import Residency, Run, Tier
from engine.blocks.tickets import TicketOutcome, TicketRegistry
from engine.ids import BlockId, BlockKey, HostSlot


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "little"))


def store(host: HostPool, *numbers: int, tenant: str = "") -> list[HostSlot]:
    """Slots that have been filled with the content that the numbers name, in the order of a chain."""
    slots: list[HostSlot] = []
    for depth, number in enumerate(numbers):
        slot = host.reserve(key(number), depth, tenant, may_lose=True)
        assert slot is not None
        host.pin([slot])
        host.fill(slot)
        slots.append(slot)
    host.unpin(slots)
    host.check_integrity()
    return slots


def held(host: HostPool, *numbers: int) -> list[bool]:
    return [host.lookup(key(number)) is not None for number in numbers]


def test_settled_records_go_first_and_unsaved_ones_last() -> None:
    order: EvictionOrder[BlockId] = EvictionOrder()
    for number, is_settled in enumerate([False, True, False, True]):
        order.add(BlockId(number), is_settled)
    assert [order.pop() for _ in range(4)] == [(1, True), (3, True), (0, False), (2, False)]


def test_a_record_that_was_saved_goes_in_the_order_of_its_last_use() -> None:
    order: EvictionOrder[BlockId] = EvictionOrder()
    for number, is_settled in enumerate([False, False, True, False, True]):
        order.add(BlockId(number), is_settled)
    assert order.first_unsaved(2) == [0, 1]
    assert order.last_unsaved(2) == [3, 1]
    order.settle(BlockId(0))
    order.restore(BlockId(1), order.remove(BlockId(1)), is_settled=True)
    assert [order.pop()[0] for _ in range(5)] == [0, 1, 2, 4, 3]


def test_a_record_that_was_moved_in_vain_keeps_its_place() -> None:
    order: EvictionOrder[BlockId] = EvictionOrder()
    for number in range(3):
        order.add(BlockId(number), is_settled=False)
    order.restore(BlockId(0), order.remove(BlockId(0)), is_settled=False)
    assert order.first_unsaved(3) == [0, 1, 2]


def test_a_slot_is_found_only_when_it_is_filled() -> None:
    host = HostPool(1)
    slot = host.reserve(key(1), 0, "", may_lose=True)
    assert slot is not None
    host.pin([slot])
    assert host.holds(key(1))
    assert host.lookup(key(1)) is None
    host.fill(slot)
    assert host.lookup(key(1)) == slot
    host.unpin([slot])
    host.check_integrity()


def test_a_slot_that_was_not_filled_is_free_again() -> None:
    host = HostPool(1)
    slot = host.reserve(key(1), 0, "", may_lose=True)
    assert slot is not None
    host.pin([slot])
    host.unpin([slot])
    assert (host.num_free, host.holds(key(1))) == (1, False)
    host.check_integrity()


def test_the_tail_of_the_least_recently_used_chain_is_evicted_first() -> None:
    host = HostPool(4)
    store(host, 1, 2)
    store(host, 3, 4)
    host.touch(key(2))
    store(host, 5, 6)
    assert held(host, 1, 2, 3, 4) == [False, True, True, False]


def test_slots_in_motion_are_not_handed_out() -> None:
    host = HostPool(2)
    slots = store(host, 1, 2)
    host.pin(slots)
    assert host.reserve(key(3), 0, "", may_lose=True) is None
    host.unpin(slots)
    assert host.reserve(key(3), 0, "", may_lose=True) is not None


def test_dropped_content_is_gone_at_once_and_its_slot_when_the_ticket_closes() -> None:
    host = HostPool(2)
    slots = store(host, 1, 2)
    host.pin(slots[:1])
    host.drop(key(1))
    host.drop(key(2))
    assert held(host, 1, 2) == [False, False]
    assert host.num_free == 1
    host.unpin(slots[:1])
    assert host.num_free == 2
    host.check_integrity()


def test_what_is_not_on_disk_is_lost_only_where_that_is_allowed() -> None:
    disk = DiskMirror([key(2)])
    host = HostPool(2, disk.__contains__)
    store(host, 1, 2)
    assert host.num_clean == 1
    store(host, 3)
    assert held(host, 1, 2, 3) == [True, False, True]
    assert host.reserve(key(4), 0, "", may_lose=False) is None
    assert host.reserve(key(4), 0, "", may_lose=True) is not None
    assert (host.num_evictions, host.num_lost) == (2, 1)


def test_what_could_not_be_saved_counts_as_clean_until_it_is_used_again() -> None:
    host = HostPool(1, DiskMirror().__contains__)
    (slot,) = store(host, 1)
    assert host.num_clean == 0
    host.give_up(slot)
    assert host.num_clean == 1
    host.pin([slot])
    host.unpin([slot])
    assert host.num_clean == 0


def test_kept_keys_are_not_evicted() -> None:
    kept = {key(1)}
    host = HostPool(2, kept=kept)
    store(host, 1, 2)
    store(host, 3)
    assert held(host, 1, 2, 3) == [True, False, True]
    kept.clear()
    host.reconsider([key(1)])
    store(host, 4, 5)
    assert held(host, 1) == [False]


def test_a_tenant_over_its_cap_makes_room_among_its_own() -> None:
    host = HostPool(4, max_slots_per_tenant=2)
    store(host, 1, tenant="a")
    store(host, 2, 3, tenant="b")
    store(host, 4, tenant="b")
    assert held(host, 1, 2, 3, 4) == [True, True, False, True]
    store(host, 5, 6, 7)
    assert host.num_of_tenant("") == 3, "nobody in particular has no cap"


def test_the_longest_prefix_takes_each_key_from_its_nearest_tier() -> None:
    disk = DiskMirror([key(number) for number in (1, 2, 3, 4, 6)])
    residency = Residency(4, 4, disk)
    blocks = residency.pool.allocate(2)
    residency.pool.publish(blocks[0], key(1))
    residency.pool.publish(blocks[1], key(4))
    assert residency.host is not None
    store(residency.host, 1, 3)
    keys = [key(number) for number in range(1, 8)]
    assert residency.longest_prefix(keys, 7) == [
        Run(Tier.DEVICE, 0, 1),
        Run(Tier.DISK, 1, 1),
        Run(Tier.HOST, 2, 1),
        Run(Tier.DEVICE, 3, 1),
    ]
    assert residency.longest_prefix(keys, 2) == [Run(Tier.DEVICE, 0, 1), Run(Tier.DISK, 1, 1)]
    assert residency.longest_prefix(keys, 0) == []
    assert residency.locate(keys, 7) == [(blocks[0], None)]


def test_a_ticket_pins_cached_blocks_and_slots_until_it_is_closed_once() -> None:
    residency = Residency(1, 1)
    pool, host = residency.pool, residency.host
    assert host is not None
    blocks = pool.allocate(1)
    pool.publish(blocks[0], key(1))
    pool.release(blocks)
    slot = host.reserve(key(1), 0, "", may_lose=True)
    assert slot is not None
    tickets = TicketRegistry(pool, host)
    ticket = tickets.open(blocks, [slot])
    assert pool.num_allocatable == host.num_allocatable == 0
    pool.check_integrity()
    host.fill(slot)
    tickets.close(ticket, TicketOutcome.DONE)
    assert pool.num_clean == host.num_clean == 1
    pool.check_integrity()
    host.check_integrity()
    with pytest.raises(AssertionError, match="already closed"):
        tickets.close(ticket, TicketOutcome.DONE)
