"""A step in the making, and a step in flight."""

from dataclasses import dataclass, replace

from engine.blocks.tickets import Ticket, TicketRegistry
from engine.ids import BlockId, StepId
from engine.scheduling.plan import NewSequence, StepPlan, Work
from engine.scheduling.running import RunningBatch
from engine.scheduling.sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepInFlight:
    """A plan that was handed out and whose result has not been applied."""

    plan: StepPlan
    sequences: list[Sequence]
    """Of the plan's rows."""
    epochs: list[int]
    """Of the sequences when the rows were planned; a row whose sequence has moved on is void."""
    ticket: Ticket
    """Pins the blocks that the step writes."""


class StepBuilder:
    """Collects the rows of one step. A sequence gets at most one row."""

    def __init__(self, step_id: StepId, budget_tokens: int, block_size: int) -> None:
        self.budget_tokens = budget_tokens
        """Tokens that may still be planned."""
        self._step_id = step_id
        self._block_size = block_size
        self._work = Work()
        self._new_sequences: list[NewSequence] = []
        self._sequences: list[Sequence] = []
        self._epochs: list[int] = []
        self._written: list[BlockId] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def introduce(self, sequence: Sequence) -> None:
        """Tell the worker of a sequence that was just admitted."""
        assert sequence.slot is not None
        assert not sequence.is_introduced
        sequence.is_introduced = True
        live = sequence.request
        sampling = sequence.sampling
        if sampling.prompt_logprobs is not None and not live.wants_prompt_scores:
            sampling = replace(sampling, prompt_logprobs=None)
        self._new_sequences.append(
            NewSequence(
                slot=sequence.slot,
                request_id=live.request.request_id,
                token_ids=list(sequence.token_ids),
                num_prompt_tokens=sequence.num_prompt_tokens,
                sampling=sampling,
                block_ids=sequence.blocks[: sequence.num_sent_blocks],
                trace=live.request.trace,
            )
        )

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Compute the sequence's next tokens. Its table has the blocks for them."""
        assert sequence.slot is not None
        work, size = self._work, self._block_size
        start = sequence.num_scheduled
        end = start + num_tokens
        num_blocks = -(-end // size)
        num_sent = sequence.num_sent_blocks
        num_total = len(sequence.token_ids) + sequence.num_pending
        samples = end == num_total
        assert 0 < num_tokens <= self.budget_tokens
        assert end <= num_total
        assert num_blocks <= len(sequence.blocks)
        work.slots.append(sequence.slot)
        work.starts.append(start)
        work.num_tokens.append(num_tokens)
        work.samples.append(samples)
        work.num_new_blocks.append(num_blocks - num_sent)
        if num_blocks > num_sent:
            work.new_block_ids.extend(sequence.blocks[num_sent:num_blocks])
            sequence.num_sent_blocks = num_blocks
        self._written.extend(sequence.blocks[start // size : num_blocks])
        self._sequences.append(sequence)
        self._epochs.append(sequence.epoch)
        sequence.num_scheduled = end
        if samples:
            sequence.num_pending += 1
        self.budget_tokens -= num_tokens

    def finish(self, batch: RunningBatch, tickets: TicketRegistry) -> StepInFlight:
        """The step, with all slots that were released since the last one."""
        plan = StepPlan(self._step_id, batch.take_released_slots(), self._new_sequences, self._work)
        return StepInFlight(plan, self._sequences, self._epochs, tickets.open(self._written))
