"""Carries out step plans: one forward pass over the whole mixed batch, then sampling."""

import time
from collections.abc import Callable

import torch

from engine.execution import vocab_chunks
from engine.execution.batch import StepBatch
from engine.execution.batch_builder import BatchBuilder
from engine.execution.graphs import DecodeGraphs, GraphRecorder
from engine.execution.sampler import FAULT, Sampler
from engine.execution.slots import Slots
from engine.execution.staging import Staging, staging_for
from engine.ids import BlockId, SeqSlot, StepId
from engine.models.llama import LlamaModel
from engine.sampling import SamplingParams
from engine.scheduling.plan import NewSequence, StepPlan, StepResult, Work
from kernels.attention.protocol import AttentionBackend, RefillableAttention

_SCORED_ROWS = 128
"""Prompt positions whose logits are held at once: 128 rows of 150 k logits are 77 MB in fp32."""


class ModelRunner:
    """Owns the slots' state and drives model, attention and sampler. One thread calls it."""

    def __init__(
        self,
        model: LlamaModel,
        attention: AttentionBackend,
        *,
        block_size: int,
        max_seqs: int,
        max_model_tokens: int,
        staging: Staging | None = None,
        recorder: GraphRecorder | None = None,
    ) -> None:
        """`attention` was built over the pool whose block ids the plans name; `staging` defaults to the device's.

        With a `recorder` decode steps are captured now, as graphs; there must be no reason in `graphs.why_not`.
        """
        self._model = model
        self._attention = attention
        self._staging = staging or staging_for(model.device, max_seqs)
        self._slots = Slots(max_seqs, max_model_tokens, block_size, self._staging)
        best_ids = model.best_ids or vocab_chunks.best_ids
        self._sampler = Sampler(model.config.vocab_size, max_seqs, max_model_tokens, self._staging, best_ids)
        self._flat_tokens = self._slots.tokens.view(-1)
        self._batches = BatchBuilder(self._slots, self._staging, model.rope.length_dependent_from > 0)
        self._graphs: DecodeGraphs | None = None
        if recorder is not None:
            assert isinstance(attention, RefillableAttention)
            inputs = self._batches.decode_inputs
            self._graphs = DecodeGraphs(model, attention, self._flat_tokens, inputs, block_size, recorder)
        self.void_slots: list[SeqSlot] = []
        """Slots of the last executed plan whose logits were not finite. They are left out of its result."""

    def execute(self, plan: StepPlan, on_start: Callable[[], None] | None = None) -> StepResult:
        """Release, add, compute, sample; each sampled token becomes the next input of its slot.

        `on_start` is called once all is prepared, as the forward pass begins.

        Fills `start_ns`, when the forward pass begins, and `end_ns`, when the sampled ids are known; what lies
        between one step's end and the next one's start is overhead. Raises ValueError for a plan that contradicts
        the slots' state, and whatever torch raises; every slot's state is then undefined and `reset` is due.
        """
        result = StepResult(plan.step_id)
        self.void_slots = []
        with torch.inference_mode():
            self._update_slots(plan)
            if len(plan.work):
                batch = self._batches.build(plan.work)
                self._compute(batch, result, on_start)
        timings = result.timings
        timings.end_ns = timings.end_ns or time.monotonic_ns()
        timings.start_ns = timings.start_ns or timings.end_ns
        return result

    def warm_up(self, num_tokens: int) -> None:
        """Compute a prompt of as many tokens, and one more, and forget them: kernels are compiled and memory is there.

        K and V go to the pool's first blocks, which nobody may own yet.
        """
        block_ids = [BlockId(number) for number in range(-(-(num_tokens + 1) // self._slots.block_size))]
        sequence = NewSequence(SeqSlot(0), "warm-up", [0] * num_tokens, num_tokens, SamplingParams(), block_ids)
        for start, count, added in ((0, num_tokens, [sequence]), (num_tokens, 1, [])):
            work = Work([SeqSlot(0)], [start], [count], [True], [0], [])
            self.execute(StepPlan(StepId(0), [], added, work))
        self.reset()

    def reset(self) -> None:
        """Forget every sequence, for a new session."""
        self._batches.forget()
        for slot in self._slots.release_all():
            self._sampler.release(slot)

    def _update_slots(self, plan: StepPlan) -> None:
        if plan.released_slots or plan.new_sequences:
            self._batches.forget()
        for slot in plan.released_slots:
            self._slots.release(slot)
            self._sampler.release(slot)
        for sequence in plan.new_sequences:
            self._slots.add(sequence)
            self._sampler.add(sequence.slot, sequence.sampling, sequence.num_prompt_tokens)
        work = plan.work
        if work.new_block_ids:
            self._slots.append_blocks(work.slots, work.num_new_blocks, work.new_block_ids)

    def _compute(self, batch: StepBatch, result: StepResult, on_start: Callable[[], None] | None) -> None:
        if self._graphs is not None and batch.is_decode and not self._scores_prompts(batch):
            self._begin(result, on_start)
            logits = self._graphs.replay(batch)
        else:
            plan = self._attention.plan(batch.attention)
            self._begin(result, on_start)
            inputs = self._flat_tokens.index_select(0, batch.token_entries)
            positions = batch.attention.positions
            hidden = self._model.hidden(inputs, positions, batch.num_prompt_tokens, self._attention, plan)
            if self._slots.num_scoring:
                self._score_prompts(batch, hidden, result)
            if not batch.host_sample_slots:
                return
            logits = self._model.logits(hidden.index_select(0, batch.sample_tokens))
        self._sample(batch, logits, result)

    @staticmethod
    def _begin(result: StepResult, on_start: Callable[[], None] | None) -> None:
        result.timings.start_ns = time.monotonic_ns()
        if on_start is not None:
            on_start()

    def _sample(self, batch: StepBatch, logits: torch.Tensor, result: StepResult) -> None:
        sampled = self._sampler.sample(
            logits,
            batch.sample_slots,
            batch.sample_positions,
            self._slots.tokens,
            batch.host_sample_slots,
            max(batch.host_sample_positions),
        )
        # Where there was nothing to sample any id will do as the next input, as long as it is one.
        self._flat_tokens.index_copy_(0, batch.sample_entries, sampled.clamp(min=0).to(torch.int32))
        if self._slots.num_scoring:
            self._score_samples(batch, logits, sampled, result)
        token_ids = self._staging.fetch(sampled)
        result.timings.end_ns = time.monotonic_ns()
        result.slots, result.token_ids = batch.host_sample_slots, token_ids
        if FAULT in token_ids:
            rows = list(zip(result.slots, token_ids, strict=True))
            self.void_slots = [slot for slot, token_id in rows if token_id == FAULT]
            result.slots = [slot for slot, token_id in rows if token_id != FAULT]
            result.token_ids = [token_id for token_id in token_ids if token_id != FAULT]

    def _scores_prompts(self, batch: StepBatch) -> bool:
        """Whether a row has log probabilities of its prompt to give, which takes the hidden states."""
        if not self._slots.num_scoring:
            return False
        last_inputs = self._slots.num_prompt_tokens[batch.slots] - 1
        asks = (self._slots.sampling[slot] for slot in batch.slots[batch.starts < last_inputs].tolist())
        return any(sampling is not None and sampling.prompt_logprobs is not None for sampling in asks)

    def _score_samples(self, batch: StepBatch, logits: torch.Tensor, sampled: torch.Tensor, result: StepResult) -> None:
        rows: list[int] = []
        num_top: list[int] = []
        for row, slot in enumerate(batch.host_sample_slots):
            sampling = self._slots.sampling[slot]
            if sampling is not None and sampling.logprobs is not None:
                rows.append(row)
                num_top.append(sampling.logprobs)
                result.logprob_slots.append(SeqSlot(slot))
                result.logprob_positions.append(batch.host_sample_positions[row])
        if rows:
            index = self._staging.numbers(rows, torch.int64)
            result.logprobs.extend(self._sampler.logprobs(logits[index], sampled[index], num_top))

    def _score_prompts(self, batch: StepBatch, hidden: torch.Tensor, result: StepResult) -> None:
        """Positions `start + 1 ..= start + n` of each row that asks, as far as they are in the prompt."""
        for row, slot in enumerate(batch.slots.tolist()):
            sampling = self._slots.sampling[slot]
            if sampling is None or sampling.prompt_logprobs is None:
                continue
            start, first = int(batch.starts[row]), batch.attention.query_starts[row]
            last_scored = min(start + int(batch.num_tokens[row]), int(self._slots.num_prompt_tokens[slot]) - 1)
            for position in range(start, last_scored, _SCORED_ROWS):
                count = min(_SCORED_ROWS, last_scored - position)
                offset = first + position - start
                logits = self._model.logits(hidden[offset : offset + count])
                targets = self._slots.tokens[slot, position + 1 : position + 1 + count].long()
                result.logprobs.extend(self._sampler.logprobs(logits, targets, [sampling.prompt_logprobs] * count))
                result.logprob_slots.extend([SeqSlot(slot)] * count)
                result.logprob_positions.extend(range(position + 1, position + 1 + count))
