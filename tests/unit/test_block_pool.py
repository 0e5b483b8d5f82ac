"""The block pool and its tickets, one rule at a time."""

import pytest

from engine.blocks.pool import BlockPool
from engine.blocks.tickets import TicketOutcome, TicketRegistry
from engine.ids import BlockId, BlockKey


def key(number: int) -> BlockKey:
    return BlockKey(number.to_bytes(32, "little"))


def filled(pool: BlockPool, *numbers: int) -> list[BlockId]:
    """Blocks that hold the content named by the numbers, with one reference each."""
    blocks = pool.allocate(len(numbers))
    for block, number in zip(blocks, numbers, strict=True):
        assert pool.publish(block, key(number))
    return blocks


def test_free_blocks_are_handed_out_before_cached_ones() -> None:
    pool = BlockPool(3)
    pool.release(filled(pool, 1))
    pool.allocate(2)
    assert pool.lookup(key(1)) is not None
    pool.allocate(1)
    assert pool.lookup(key(1)) is None
    pool.check_integrity()


def test_a_block_without_a_key_is_free_at_once_when_it_is_released() -> None:
    pool = BlockPool(2)
    pool.release(pool.allocate(2))
    assert (pool.num_free, pool.num_cached, pool.num_in_use) == (2, 0, 0)


def test_the_tail_of_a_table_is_evicted_before_its_head() -> None:
    pool = BlockPool(3)
    pool.release(filled(pool, 1, 2, 3))
    pool.allocate(1)
    assert [pool.lookup(key(number)) is not None for number in (1, 2, 3)] == [True, True, False]


def test_the_least_recently_used_table_is_evicted_first() -> None:
    pool = BlockPool(2)
    older, newer = filled(pool, 1), filled(pool, 2)
    pool.release(older)
    pool.release(newer)
    pool.acquire(older)
    pool.release(older)
    pool.allocate(1)
    assert pool.lookup(key(1)) is not None
    assert pool.lookup(key(2)) is None


def test_a_block_stays_in_use_until_its_last_holder_releases_it() -> None:
    pool = BlockPool(1)
    blocks = filled(pool, 1)
    pool.acquire(blocks)
    pool.release(blocks)
    assert pool.num_allocatable == 0
    pool.release(blocks)
    assert pool.num_allocatable == 1


def test_the_first_block_with_a_key_keeps_it() -> None:
    pool = BlockPool(2)
    first = filled(pool, 1)
    second = pool.allocate(1)
    assert not pool.publish(second[0], key(1))
    assert pool.lookup(key(1)) == first[0]
    pool.release(second)
    assert (pool.num_free, pool.num_cached) == (1, 0)


def test_lookups_change_nothing() -> None:
    pool = BlockPool(3)
    pool.release(filled(pool, 1, 2))
    before = (pool.num_free, pool.num_cached, pool.reference_counts())
    assert len(pool.longest_prefix([key(1), key(2), key(3)], 3)) == 2
    assert (pool.num_free, pool.num_cached, pool.reference_counts()) == before
    pool.allocate(2)
    assert pool.lookup(key(2)) is None, "a lookup must not have made the block recent"


@pytest.mark.parametrize(
    ("keys", "max_blocks", "expected"),
    [((1, 2, 3), 3, 3), ((1, 2, 3), 2, 2), ((1, 9, 3), 3, 1), ((9, 1), 2, 0), ((), 2, 0), ((1,), 0, 0)],
)
def test_a_prefix_ends_at_the_first_block_that_is_not_here(
    keys: tuple[int, ...], max_blocks: int, expected: int
) -> None:
    pool = BlockPool(3)
    blocks = filled(pool, 1, 2, 3)
    assert pool.longest_prefix([key(number) for number in keys], max_blocks) == blocks[:expected]


def test_a_released_block_is_not_handed_out_while_a_ticket_is_open() -> None:
    pool = BlockPool(1)
    tickets = TicketRegistry(pool)
    blocks = pool.allocate(1)
    first, second = tickets.open(blocks), tickets.open(blocks)
    pool.release(blocks)
    assert (pool.num_allocatable, pool.num_draining) == (0, 1)
    tickets.close(first, TicketOutcome.DONE)
    assert pool.num_allocatable == 0
    tickets.close(second, TicketOutcome.CANCELLED)
    assert (pool.num_allocatable, pool.num_draining) == (1, 0)
    pool.check_integrity()


def test_a_draining_block_with_a_key_can_be_hit() -> None:
    pool = BlockPool(1)
    tickets = TicketRegistry(pool)
    blocks = filled(pool, 1)
    ticket = tickets.open(blocks)
    pool.release(blocks)
    assert pool.num_allocatable_among(blocks) == 0
    pool.acquire(blocks)
    tickets.close(ticket, TicketOutcome.DONE)
    assert pool.num_in_use == 1
    pool.check_integrity()


def test_open_tickets_are_listed_until_they_are_closed() -> None:
    pool = BlockPool(2)
    tickets = TicketRegistry(pool)
    first, second = tickets.open(pool.allocate(1)), tickets.open(pool.allocate(1))
    tickets.close(first, TicketOutcome.FAILED)
    assert list(tickets.open_tickets) == [second]
    assert first.outcome is TicketOutcome.FAILED


def test_closing_a_ticket_twice_breaks_an_invariant() -> None:
    pool = BlockPool(1)
    tickets = TicketRegistry(pool)
    ticket = tickets.open(pool.allocate(1))
    tickets.close(ticket, TicketOutcome.DONE)
    with pytest.raises(AssertionError, match="already closed"):
        tickets.close(ticket, TicketOutcome.DONE)


def test_asking_for_more_than_there_is_breaks_an_invariant() -> None:
    pool = BlockPool(2)
    with pytest.raises(AssertionError, match="3 of 2"):
        pool.allocate(3)


def test_releasing_once_too_often_breaks_an_invariant() -> None:
    pool = BlockPool(1)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="once too often"):
        pool.release(blocks)


def test_content_that_nobody_named_cannot_be_shared() -> None:
    pool = BlockPool(1)
    blocks = pool.allocate(1)
    pool.release(blocks)
    with pytest.raises(AssertionError, match="nothing that can be shared"):
        pool.acquire(blocks)
