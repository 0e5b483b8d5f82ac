"""A scheduler's figures at one moment."""

from engine.scheduling.book import RequestBook
from engine.scheduling.figures import SchedulerFigures
from engine.scheduling.tiers import Tiers


def take_snapshot(book: RequestBook, tiers: Tiers | None) -> SchedulerFigures:
    pool, counters = book.batch.pool, book.counters
    return SchedulerFigures(
        num_running=len(book.batch.sequences),
        num_waiting=len(book.queue),
        num_waiting_prompt_tokens=book.queue.num_tokens,
        num_blocks=pool.num_blocks,
        num_blocks_in_use=pool.num_blocks - pool.num_allocatable,
        num_blocks_cached=pool.num_cached,
        num_blocks_free=pool.num_free,
        num_steps=counters.num_steps,
        num_computed_tokens=counters.num_computed_tokens,
        num_lookup_tokens=counters.num_lookup_tokens,
        num_hit_tokens=counters.num_hit_tokens,
        num_preemptions=counters.num_preemptions,
        num_completed=counters.num_completed,
        num_refused=counters.num_refused,
        num_cancelled=counters.num_cancelled,
        tiers=None if tiers is None else tiers.figures(),
    )
