"""The batch of each step, carried over from the step before where it can be."""

import numpy as np
import torch

from engine.execution.batch import StepBatch, build_ragged, contradiction
from engine.execution.decode_columns import (
    ASCENDING,
    FRESH,
    NEXT,
    POSITION,
    PROMPT_LENGTH,
    ROW,
    SAMPLE,
    SLOT,
    TOKEN,
    WRITE,
    DecodeColumns,
    DecodeInputs,
)
from engine.execution.slots import IntArray, Slots
from engine.execution.staging import Staging
from engine.ids import BlockId, SeqSlot
from engine.scheduling.plan import Work
from kernels.attention.protocol import AttnBatch


class BatchBuilder:
    """Builds each step's tensors with a fixed number of vectorised operations, whatever the batch.

    They stand between two forward passes, with cold caches: each one counts. So a decode step after a decode step of
    the same rows only moves the last one's columns on by one token, in place; a `StepBatch` is therefore valid until
    the next one is built. `forget` when a slot has changed hands.
    """

    def __init__(self, slots: Slots, staging: Staging, with_prompt_lengths: bool) -> None:
        self._slots = slots
        self._staging = staging
        self._with_prompt_lengths = with_prompt_lengths
        self._decode: _DecodeRows | None = None
        # Where sending means copying the columns have a fixed place, which graphs may read.
        max_blocks = slots.block_tables.shape[1]
        self._columns = None if staging.is_shared else DecodeColumns(slots.max_seqs, max_blocks, staging)

    @property
    def decode_inputs(self) -> DecodeInputs:
        """Where the inputs of every decode step are. Not with a shared staging."""
        assert self._columns is not None
        return self._columns.inputs

    def build(self, work: Work) -> StepBatch:
        """Tensors for `work`, whose new blocks are already in the tables.

        Raises ValueError where the work does not fit the slots' state: that is a fault of the plan.
        """
        decode = self._decode
        if decode is not None and decode.is_followed_by(work):
            return decode.advance(work)
        self._decode = None
        if max(work.num_tokens) == 1 == min(work.num_tokens) and all(work.samples):
            columns = self._columns or DecodeColumns(len(work), 0, self._staging)
            self._decode = _DecodeRows(work, self._slots, columns, self._staging, self._with_prompt_lengths)
            return self._decode.batch
        return build_ragged(work, self._slots, self._staging, self._with_prompt_lengths)

    def forget(self) -> None:
        """The next step is built anew."""
        self._decode = None


class _DecodeRows:
    """A batch in which every row computes and samples one token, kept from step to step.

    Host arrays and device tensors share memory where the device is the host.
    """

    def __init__(
        self, work: Work, slots: Slots, columns: DecodeColumns, staging: Staging, with_prompt_lengths: bool
    ) -> None:
        self._slots = slots
        self._staging = staging
        self._columns = columns
        self._with_prompt_lengths = with_prompt_lengths
        self._work_slots = work.slots
        # Longest first. In Python: numpy's sorts cost more at these sizes.
        order = sorted(range(len(work)), key=work.starts.__getitem__, reverse=True)
        self._row_slots = np.array([work.slots[i] for i in order], dtype=np.int64)
        self._first_starts = np.array([work.starts[i] for i in order], dtype=np.int64)
        self._ones = np.ones_like(self._row_slots)
        self._num_plain_steps = 0
        self._next_starts = [start + 1 for start in work.starts]
        columns.pad_from(len(work))
        self._host = columns.host[:, : len(work)]
        self._host[SLOT] = self._row_slots
        self._host[ROW] = np.arange(len(work))
        self._host[PROMPT_LENGTH] = slots.num_prompt_tokens[self._row_slots]
        self._first_entries = self._row_slots * slots.max_model_tokens
        self._query_starts = list(range(len(work) + 1))
        self._host_slots = [SeqSlot(slot) for slot in self._row_slots.tolist()]
        self._device_columns = columns.device[:, : len(work)].unbind()
        self._num_table_blocks = 0
        self._table = torch.empty(0, device=staging.device)
        self.batch = self._fill(work, continues=False)

    def is_followed_by(self, work: Work) -> bool:
        """Whether `work` is these rows, one token on."""
        return (
            work.slots == self._work_slots
            and work.starts == self._next_starts
            and max(work.num_tokens) == 1
            and all(work.samples)
        )

    def advance(self, work: Work) -> StepBatch:
        self._next_starts = [start + 1 for start in work.starts]
        self.batch = self._fill(work, continues=True)
        return self.batch

    def _fill(self, work: Work, *, continues: bool) -> StepBatch:
        slots, host, rows = self._slots, self._host, self._row_slots
        if continues and self._num_plain_steps > 0 and not work.new_block_ids:
            self._num_plain_steps -= 1
            host[ASCENDING] += 1
        else:
            self._place(host[POSITION] + 1 if continues else self._first_starts)
        starts, contexts = host[POSITION], host[NEXT]
        context_lens = contexts.tolist()
        fresh_blocks = self._send(contexts, work.new_block_ids)
        num_blocks = -(-context_lens[0] // slots.block_size)
        if work.new_block_ids or num_blocks != self._num_table_blocks:
            self._num_table_blocks = num_blocks
            self._table = self._columns.send_table(slots.block_tables, rows, num_blocks)
        columns = self._device_columns
        return StepBatch(
            attention=AttnBatch(
                query_starts=self._query_starts,
                context_lens=context_lens,
                block_table=self._table,
                write_slots=columns[WRITE],
                positions=columns[POSITION],
                continues=continues,
                fresh_blocks=fresh_blocks,
            ),
            token_entries=columns[TOKEN],
            num_prompt_tokens=columns[PROMPT_LENGTH] if self._with_prompt_lengths else None,
            sample_tokens=columns[ROW],
            sample_slots=columns[SLOT],
            sample_positions=columns[NEXT],
            sample_entries=columns[SAMPLE],
            host_sample_slots=self._host_slots,
            host_sample_positions=context_lens,
            slots=rows,
            starts=starts,
            num_tokens=self._ones,
            is_decode=True,
        )

    def _place(self, starts: IntArray) -> None:
        """Set the columns that follow from where each row starts."""
        slots, host, rows = self._slots, self._host, self._row_slots
        contexts, capacity = starts + 1, slots.capacity_tokens[rows]
        if (contexts > capacity).any():
            raise ValueError(contradiction(rows, self._ones, contexts, slots))
        host[POSITION] = starts
        host[NEXT] = contexts
        np.add(self._first_entries, starts, out=host[TOKEN])
        # A sequence that has reached the end of its slot samples its last token, which is never an input.
        np.minimum(contexts, slots.max_model_tokens - 1, out=host[SAMPLE])
        host[SAMPLE] += self._first_entries
        block_index, offset = np.divmod(starts, slots.block_size)
        np.add(slots.block_tables[rows, block_index] * np.int64(slots.block_size), offset, out=host[WRITE])
        # Within a block there is room, and a slot's end is a sequence's last step.
        in_block = slots.block_size - 1 - int(offset.max())
        self._num_plain_steps = min(in_block, slots.max_model_tokens - 1 - int(contexts.max()))

    def _send(self, contexts: IntArray, new_blocks: list[BlockId]) -> torch.Tensor | None:
        """All columns to the device; the new blocks there."""
        if self._staging.is_shared:
            return self._staging.numbers(new_blocks, torch.int64) if new_blocks else None
        self._columns.host_contexts[: len(contexts)] = contexts
        # A step that gives out more blocks than it has rows would be odd.
        has_room = len(new_blocks) <= self._columns.host.shape[1]
        if new_blocks and has_room:
            self._columns.host[FRESH, : len(new_blocks)] = new_blocks
        self._columns.send()
        if not new_blocks:
            return None
        return (
            self._columns.device[FRESH, : len(new_blocks)]
            if has_room
            else self._staging.numbers(new_blocks, torch.int64)
        )
