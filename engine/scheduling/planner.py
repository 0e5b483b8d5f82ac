"""What the next step computes.

One budget of tokens. Sequences that lack a single token come first (decode), then prompts in chunks, by rank
(chunked prefill, Sarathi-Serve, arXiv:2403.02310). To the worker both are the same: compute tokens
`[start, start + n)` of a slot. A decode is planned before its input is known; the worker has it.
"""

from heapq import merge

from engine.ids import StepId
from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.sequence import Sequence, rank_of
from engine.scheduling.step import StepBuilder, StepInFlight
from engine.scheduling.tiers import Tiers


class Planner:
    """Turns the state of the queue and of the batch into step plans."""

    def __init__(self, config: SchedulerConfig, book: RequestBook, tiers: Tiers | None) -> None:
        self._config = config
        self._book = book
        self._tiers = tiers

    def plan(self, step_id: StepId, now_ns: int) -> StepInFlight | None:
        """The next step, or None when there is nothing that can be computed now."""
        book, config = self._book, self._config
        num_preemptions = book.counters.num_preemptions
        step = StepBuilder(step_id, config.max_batched_tokens, config.block_size)
        prefills = self._plan_decodes(step, now_ns)
        # What was just preempted is not let in again in the same step, nor anything else in its place.
        may_admit = book.counters.num_preemptions == num_preemptions
        self._plan_prefills(step, prefills, may_admit, now_ns)
        if not len(step):
            return None
        book.counters.num_steps += 1
        book.counters.num_computed_tokens += config.max_batched_tokens - step.budget_tokens
        return step.finish(book.batch, book.batch.tickets)

    def _plan_decodes(self, step: StepBuilder, now_ns: int) -> list[Sequence]:
        """Plan every sequence that lacks one token. Returns those that lack more, by rank."""
        block_size = self._config.block_size
        prefills: list[Sequence] = []
        for sequence in tuple(self._book.batch.sequences):
            if sequence.slot is None or sequence.load is not None:
                continue  # preempted for one of the rows before, or not there yet
            num_total = len(sequence.token_ids) + sequence.num_pending
            num_scheduled = sequence.num_scheduled
            if num_total - num_scheduled > 1 or not sequence.is_introduced:
                prefills.append(sequence)
                continue
            if num_total >= sequence.max_total or not step.budget_tokens:
                continue
            if num_scheduled == len(sequence.blocks) * block_size and not self._make_room(sequence, now_ns):
                continue
            if num_scheduled < sequence.num_prompt_tokens:
                sequence.request.num_prefill_chunks += 1
            step.add(sequence, 1)
        return [sequence for sequence in prefills if sequence.slot is not None]

    def _make_room(self, sequence: Sequence, now_ns: int) -> bool:
        """Append a block to a running sequence, at the cost of sequences that rank lower.

        False: not in this step. Either blocks come free when a result arrives, or the sequence, being the lowest
        itself, was preempted. The result of a step is worth waiting for, that of a transfer only for the last sequence.
        """
        batch = self._book.batch
        while not batch.try_grow(sequence):
            if batch.pool.num_draining and (self._has_step_in_flight() or len(batch.sequences) == 1):
                return False
            if batch.stop_all_sharing():
                continue
            victim = batch.sequences[-1]
            assert victim is not sequence or len(batch.sequences) > 1, "the pool does not hold one whole sequence"
            self._book.preempt(victim, now_ns)
            if victim is sequence:
                return False
        return True

    def _is_quiet(self) -> bool:
        """Nothing runs, and no block waits for a result."""
        batch = self._book.batch
        return not batch.sequences and not batch.pool.num_draining

    def _has_step_in_flight(self) -> bool:
        num_transfers = 0 if self._tiers is None else self._tiers.num_in_flight
        return len(self._book.batch.tickets.open_tickets) > num_transfers

    def _plan_prefills(self, step: StepBuilder, prefills: list[Sequence], may_admit: bool, now_ns: int) -> None:
        book, config = self._book, self._config
        waiting = self._candidates(now_ns) if may_admit and step.budget_tokens else []
        blocked_head: Sequence | None = None
        for sequence in merge(prefills, waiting, key=rank_of):
            if not step.budget_tokens:
                break
            if sequence.slot is None:
                if blocked_head is not None and blocked_head.num_skips >= config.max_skips:
                    continue
                if not self._admit(sequence, now_ns):
                    if not sequence.waits_for_fetch:
                        blocked_head = blocked_head or sequence
                    continue
                if blocked_head is not None:
                    blocked_head.num_skips += 1
                if sequence.load is not None:
                    continue
            if not sequence.is_introduced:
                book.on_introduced(sequence, now_ns)
                step.introduce(sequence)
            num_missing = len(sequence.token_ids) - sequence.num_scheduled
            sequence.request.num_prefill_chunks += 1
            step.add(sequence, min(num_missing, step.budget_tokens))

    def _candidates(self, now_ns: int) -> list[Sequence]:
        """The waiting sequences that might be admitted now. Those that wait for a fetch stand back for a while."""
        book, max_scan = self._book, self._config.max_scan
        if not book.batch.has_free_slot:
            return []
        if self._tiers is None:
            return book.queue.first(max_scan)
        candidates, waits = book.queue.first_ready(max_scan)
        for wait in waits:
            self._tiers.on_blocked(wait, now_ns)
        return candidates

    def _admit(self, sequence: Sequence, now_ns: int) -> bool:
        batch = self._book.batch
        if not batch.try_admit(sequence, now_ns, self._waits_for_more):
            if sequence.waits_for_fetch:
                return False
            # Prompts kept for forks are all that can be in the way when nothing runs. Once given up, they may still be
            # read by a spill.
            if not (
                self._is_quiet()
                and batch.stop_all_sharing()
                and batch.try_admit(sequence, now_ns, self._waits_for_more)
            ):
                assert sequence.waits_for_fetch or not self._is_quiet(), "the pool does not hold one whole sequence"
                return False
        self._book.queue.remove(sequence)
        sequence.num_skips = 0
        if self._tiers is not None:
            self._tiers.on_admitted(sequence, now_ns)
        return True

    def _waits_for_more(self, sequence: Sequence, num_found: int, now_ns: int) -> bool:
        return self._tiers is not None and self._tiers.fetches_late(sequence, num_found, now_ns)
