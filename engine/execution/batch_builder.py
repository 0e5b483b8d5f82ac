"""The batch of each step, carried over from the step before where it can be."""

import numpy as np
import torch

from engine.execution.batch import StepBatch, build_ragged, contradiction
from engine.execution.slots import Slots
from engine.ids import SeqSlot
from engine.scheduling.plan import Work
from kernels.attention.protocol import AttnBatch

_DECODE_COLUMNS = range(7)
_POSITION, _WRITE, _TOKEN, _ROW, _SLOT, _NEXT, _SAMPLE = _DECODE_COLUMNS
_PROMPT_LENGTH = 7


class BatchBuilder:
    """Builds each step's tensors with a fixed number of vectorised operations, whatever the batch.

    They stand between two forward passes, with cold caches: each one counts. So a decode step after a decode step of
    the same rows only moves the last one's columns on by one token, in place; a `StepBatch` is therefore valid until
    the next one is built. `forget` when a slot has changed hands.
    """

    def __init__(self, slots: Slots, device: torch.device, with_prompt_lengths: bool) -> None:
        self._slots = slots
        self._device = device
        self._with_prompt_lengths = with_prompt_lengths
        self._decode: _DecodeColumns | None = None

    def build(self, work: Work) -> StepBatch:
        """Tensors for `work`, whose new blocks are already in the tables.

        Raises ValueError where the work does not fit the slots' state: that is a fault of the plan.
        """
        decode = self._decode
        if decode is not None and decode.is_followed_by(work):
            return decode.advance(work)
        self._decode = None
        if max(work.num_tokens) == 1 == min(work.num_tokens) and all(work.samples):
            self._decode = _DecodeColumns(work, self._slots, self._device, self._with_prompt_lengths)
            return self._decode.batch
        return build_ragged(work, self._slots, self._device, self._with_prompt_lengths)

    def forget(self) -> None:
        """The next step is built anew."""
        self._decode = None


class _DecodeColumns:
    """The columns of a batch in which every row computes and samples one token, kept from step to step.

    Host arrays and device tensors share memory where the device is the host.
    """

    def __init__(self, work: Work, slots: Slots, device: torch.device, with_prompt_lengths: bool) -> None:
        self._slots = slots
        self._device = device
        self._work_slots = work.slots
        # Longest first. In Python: numpy's sorts cost more at these sizes.
        order = sorted(range(len(work)), key=work.starts.__getitem__, reverse=True)
        self._row_slots = np.array([work.slots[i] for i in order], dtype=np.int64)
        self._starts = np.array([work.starts[i] for i in order], dtype=np.int64)
        self._next_starts = [start + 1 for start in work.starts]
        self._num_columns = len(_DECODE_COLUMNS) + with_prompt_lengths
        self._host = np.zeros((self._num_columns, len(work)), dtype=np.int64)
        self._host[_SLOT] = self._row_slots
        self._host[_ROW] = np.arange(len(work))
        if with_prompt_lengths:
            self._host[_PROMPT_LENGTH] = slots.num_prompt_tokens[self._row_slots]
        self._first_entries = self._row_slots * slots.max_model_tokens
        self._query_starts = list(range(len(work) + 1))
        self._host_slots = [SeqSlot(slot) for slot in self._row_slots.tolist()]
        self._pinned = torch.from_numpy(self._host)
        self._columns = self._pinned.to(device)
        self._host_table = np.empty((0, 0), dtype=np.int32)
        self._table = torch.empty(0, device=device)
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
        self._starts += 1
        self._next_starts = [start + 1 for start in work.starts]
        self.batch = self._fill(work, continues=True)
        return self.batch

    def _fill(self, work: Work, *, continues: bool) -> StepBatch:
        slots, host, starts, rows = self._slots, self._host, self._starts, self._row_slots
        contexts = starts + 1
        context_lens = contexts.tolist()
        if (contexts > slots.capacity_tokens[rows]).any():
            raise ValueError(contradiction(rows, np.ones_like(rows), contexts, slots))
        host[_POSITION] = starts
        host[_NEXT] = contexts
        np.add(self._first_entries, starts, out=host[_TOKEN])
        # A sequence that has reached the end of its slot samples its last token, which is never an input.
        np.minimum(contexts, slots.max_model_tokens - 1, out=host[_SAMPLE])
        host[_SAMPLE] += self._first_entries
        block_index, offset = np.divmod(starts, slots.block_size)
        np.add(slots.block_tables[rows, block_index] * np.int64(slots.block_size), offset, out=host[_WRITE])
        self._update_table(context_lens[0], bool(work.new_block_ids))
        if self._device.type != "cpu":
            self._columns.copy_(self._pinned, non_blocking=True)
        columns = self._columns.unbind()
        new_blocks = work.new_block_ids
        return StepBatch(
            attention=AttnBatch(
                query_starts=self._query_starts,
                context_lens=context_lens,
                block_table=self._table,
                write_slots=columns[_WRITE],
                positions=columns[_POSITION],
                continues=continues,
                fresh_blocks=torch.tensor(new_blocks, dtype=torch.int64, device=self._device) if new_blocks else None,
            ),
            token_entries=columns[_TOKEN],
            num_prompt_tokens=columns[_PROMPT_LENGTH] if self._num_columns > _PROMPT_LENGTH else None,
            sample_tokens=columns[_ROW],
            sample_slots=columns[_SLOT],
            sample_positions=columns[_NEXT],
            sample_entries=columns[_SAMPLE],
            host_sample_slots=self._host_slots,
            host_sample_positions=context_lens,
            slots=rows,
            starts=starts,
            num_tokens=np.ones_like(rows),
        )

    def _update_table(self, longest: int, has_new_blocks: bool) -> None:
        num_blocks = -(-longest // self._slots.block_size)
        if has_new_blocks or self._host_table.shape[1] != num_blocks:
            self._host_table = self._slots.block_tables[self._row_slots, :num_blocks]
            self._table = torch.from_numpy(self._host_table).to(self._device, non_blocking=True)
