"""Random holders, tickets and keys over one pool, beside a model that keeps sets."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.blocks.pool import BlockPool
from engine.blocks.tickets import Ticket, TicketOutcome, TicketRegistry
from engine.ids import BlockId, BlockKey

NUM_BLOCKS = 6


class PoolMachine(RuleBasedStateMachine):
    """The model: which holder has which blocks, which ticket pins which, which key each block was filled for."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: set[BlockKey] = set()
        self.evicted: list[BlockKey] = []
        self.pool = BlockPool(NUM_BLOCKS, self.saved.__contains__, self.evicted.append)
        self.tickets = TicketRegistry(self.pool)
        self.holders: list[list[BlockId]] = []
        self.open: list[Ticket] = []
        self.key_of: dict[BlockId, BlockKey] = {}

    def _is_busy(self, block: BlockId) -> bool:
        held = any(block in holder for holder in self.holders)
        return held or any(block in ticket.block_ids for ticket in self.open)

    @rule(count=st.integers(0, NUM_BLOCKS))
    def allocate(self, count: int) -> None:
        if count > self.pool.num_allocatable:
            return
        num_free, num_clean, num_lost = self.pool.num_free, self.pool.num_clean, self.pool.num_lost
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert not any(self._is_busy(block) for block in blocks), "a busy block was handed out"
        evicted = [key for block in blocks if (key := self.key_of.pop(block, None)) is not None]
        assert len(evicted) == max(0, count - num_free), "free blocks go first"
        assert sorted(evicted) == sorted(self.evicted)
        assert self.pool.num_lost - num_lost == max(0, count - num_clean), "what is saved goes before what is not"
        self.evicted.clear()
        self.holders.append(blocks)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1))))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), number=st.integers(0, 7))
    def publish(self, data: st.DataObject, number: int) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        key = BlockKey(number.to_bytes(32, "little"))
        candidates = [block for block in holder if block not in self.key_of]
        if not candidates:
            return
        is_new = key not in self.key_of.values()
        assert self.pool.publish(candidates[0], key) == is_new
        if is_new:
            self.key_of[candidates[0]] = key

    @rule(numbers=st.lists(st.integers(0, 7), unique=True))
    def hit(self, numbers: list[int]) -> None:
        keys = [BlockKey(number.to_bytes(32, "little")) for number in numbers]
        blocks = self.pool.longest_prefix(keys, len(keys))
        assert [self.key_of[block] for block in blocks] == keys[: len(blocks)]
        assert len(blocks) == len(keys) or keys[len(blocks)] not in self.key_of.values()
        num_allocatable, cost = self.pool.num_allocatable, self.pool.num_allocatable_among(blocks)
        self.pool.acquire(blocks)
        assert self.pool.num_allocatable == num_allocatable - cost
        self.holders.append(blocks)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def open_ticket(self, data: st.DataObject) -> None:
        self.open.append(self.tickets.open(list(data.draw(st.sampled_from(self.holders)))))

    @rule(count=st.integers(1, NUM_BLOCKS), is_last=st.booleans())
    def open_ticket_on_unsaved(self, count: int, is_last: bool) -> None:
        """As a spill does: nobody holds these blocks."""
        blocks = self.pool.last_unsaved(count) if is_last else self.pool.first_unsaved(count)
        assert not any(self._is_busy(block) for block in blocks)
        assert not any(self.key_of[block] in self.saved for block in blocks)
        if blocks:
            self.open.append(self.tickets.open(blocks))

    @rule(data=st.data(), is_saved=st.booleans())
    def save(self, data: st.DataObject, is_saved: bool) -> None:
        """A copy of some cached block turns up below, or cannot be made."""
        unsaved = self.pool.first_unsaved(NUM_BLOCKS)
        if not unsaved:
            return
        block = data.draw(st.sampled_from(unsaved))
        num_clean = self.pool.num_clean
        if is_saved:
            self.saved.add(self.key_of[block])
            self.pool.settle(block)
        else:
            self.pool.give_up(block)
        assert self.pool.num_clean == num_clean + 1

    @precondition(lambda self: self.open)
    @rule(data=st.data(), outcome=st.sampled_from(TicketOutcome))
    def close_ticket(self, data: st.DataObject, outcome: TicketOutcome) -> None:
        self.tickets.close(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))), outcome)

    @invariant()
    def states_are_exclusive_and_counts_match(self) -> None:
        self.pool.check_integrity()
        refs, pins = [0] * NUM_BLOCKS, [0] * NUM_BLOCKS
        for holder in self.holders:
            for block in holder:
                refs[block] += 1
        for ticket in self.open:
            for block in ticket.block_ids:
                pins[block] += 1
        assert self.pool.reference_counts() == refs
        assert self.pool.pin_counts() == pins
        num_idle = sum(not refs[block] and not pins[block] for block in range(NUM_BLOCKS))
        assert self.pool.num_allocatable == num_idle
        assert self.pool.num_draining == sum(not refs[block] and pins[block] > 0 for block in range(NUM_BLOCKS))
        assert set(self.tickets.open_tickets) == set(self.open)

    @invariant()
    def keys_name_the_blocks_that_were_filled_for_them(self) -> None:
        for number in range(8):
            key = BlockKey(number.to_bytes(32, "little"))
            block = self.pool.lookup(key)
            assert (block is None) == (key not in self.key_of.values())
            assert block is None or self.key_of[block] == key


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase
