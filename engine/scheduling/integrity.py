"""The invariants that tie requests, queue, batch, pools and transfers together. For tests; O(everything)."""

from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.tiers import Tiers


def check_integrity(config: SchedulerConfig, book: RequestBook, tiers: Tiers | None, num_steps_in_flight: int) -> None:
    """Assert all of them."""
    batch = book.batch
    batch.pool.check_integrity()
    waiting = book.queue.first(len(book.queue))
    running = batch.sequences
    existing = [sequence for live in book.requests.values() for sequence in live.choices.values()]
    assert len(existing) == len(waiting) + len(running)
    assert {id(sequence) for sequence in existing} == {id(sequence) for sequence in [*waiting, *running]}
    assert all(sequence.slot is None for sequence in waiting)
    assert book.queue.num_tokens == sum(len(sequence.token_ids) for sequence in waiting)
    assert book.num_unstarted == sum(not live.has_started for live in book.requests.values())
    assert len({sequence.slot for sequence in running} - {None}) == len(running)
    for sequence in existing:
        sequence.check_integrity(config.block_size)
    for live in book.requests.values():
        assert live.unstarted_forks or not live.shared_blocks
    holders = [*(sequence.blocks for sequence in running), *(live.shared_blocks for live in book.requests.values())]
    num_refs = [0] * batch.pool.num_blocks
    for blocks in holders:
        for block in blocks:
            num_refs[block] += 1
    assert num_refs == batch.pool.reference_counts()
    num_transfers = 0 if tiers is None else tiers.num_in_flight
    assert len(batch.tickets.open_tickets) == num_steps_in_flight + num_transfers
    if tiers is not None:
        tiers.check_integrity()
