"""A step plan's work as the tensors of one forward pass."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from engine.execution.slots import IntArray, Slots
from engine.execution.staging import Staging
from engine.ids import SeqSlot
from engine.scheduling.plan import Work
from kernels.attention.protocol import AttnBatch


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Rows are sorted, decode rows first and longest first, so that rows of like length lie together."""

    attention: AttnBatch
    token_entries: torch.Tensor
    """int64 [tokens]: where each token's id stands in the flat token table."""
    num_prompt_tokens: torch.Tensor | None
    """int64 [tokens]: of each token's sequence; only where RoPE depends on it."""
    sample_tokens: torch.Tensor
    """int64 [sampling rows]: index of each row's last token, in batch order, as the next three."""
    sample_slots: torch.Tensor
    """int64 [sampling rows]."""
    sample_positions: torch.Tensor
    """int64 [sampling rows]: position of the token that is sampled."""
    sample_entries: torch.Tensor
    """int64 [sampling rows]: where that token goes in the flat token table."""
    host_sample_slots: list[SeqSlot]
    host_sample_positions: list[int]
    slots: IntArray
    """[rows], in batch order, as the two below."""
    starts: IntArray
    num_tokens: IntArray
    is_decode: bool = False
    """Every row computes and samples one token, and where the device is not the host, `BatchBuilder.decode_inputs`
    holds this batch."""


def build_ragged(work: Work, slots: Slots, staging: Staging, with_prompt_lengths: bool) -> StepBatch:
    """A batch with at least one row of several tokens, or one that samples nothing. As `BatchBuilder.build`."""
    block_size, max_model_tokens = slots.block_size, slots.max_model_tokens
    # Decode rows first, then by start, longest first. In Python: numpy's sorts cost more at these sizes.
    rows = zip(work.starts, work.slots, work.num_tokens, work.samples, strict=True)
    host_rows = sorted(rows, key=_batch_order)
    host_starts, host_slots, host_counts, host_samples = zip(*host_rows, strict=True)
    row_slots, starts, counts = np.array((host_slots, host_starts, host_counts), dtype=np.int64)
    contexts = starts + counts
    if int(counts.min()) < 1 or (contexts > slots.capacity_tokens[row_slots]).any():
        raise ValueError(contradiction(row_slots, counts, contexts, slots))
    longest = int(contexts.max())
    ends = np.cumsum(counts)
    total = int(ends[-1])

    # One buffer, one copy to the device: per token, per sampling row, new blocks, and the block table as int32.
    num_samples = sum(work.samples)
    num_token_rows = 4 if with_prompt_lengths else 3
    table_shape = len(row_slots), -(-longest // block_size)
    parts = [total] * num_token_rows + [num_samples] * 4 + [len(work.new_block_ids), -(-math.prod(table_shape) // 2)]
    staged = staging.memory((sum(parts),), torch.int64)
    buffer = staged.numpy()
    tokens = buffer[: num_token_rows * total].reshape(num_token_rows, total)
    positions = tokens[0]
    token_rows = np.repeat(np.arange(len(counts)), counts)
    np.add(np.arange(total), (starts - ends + counts)[token_rows], out=positions)
    token_slots = row_slots[token_rows]
    block_index, offset = np.divmod(positions, block_size)
    np.add(slots.block_tables[token_slots, block_index] * np.int64(block_size), offset, out=tokens[1])
    np.add(token_slots * max_model_tokens, positions, out=tokens[2])
    if with_prompt_lengths:
        tokens[3] = slots.num_prompt_tokens[token_slots]

    samples = buffer[num_token_rows * total :][: 4 * num_samples].reshape(4, num_samples)
    last_tokens, sample_slots, next_positions = ends - 1, row_slots, contexts
    if num_samples < len(work):
        chosen = np.array(host_samples, dtype=bool)
        last_tokens, sample_slots, next_positions = last_tokens[chosen], row_slots[chosen], contexts[chosen]
    samples[0], samples[1], samples[2] = last_tokens, sample_slots, next_positions
    # A sequence that has reached the end of its slot samples its last token, which is never an input.
    np.add(sample_slots * max_model_tokens, np.minimum(next_positions, max_model_tokens - 1), out=samples[3])

    table = buffer[len(buffer) - parts[-1] :].view(np.int32)[: math.prod(table_shape)].reshape(table_shape)
    table[:] = slots.block_tables[row_slots, : table_shape[1]]
    if work.new_block_ids:
        buffer[len(buffer) - parts[-1] - parts[-2] : len(buffer) - parts[-1]] = work.new_block_ids

    *columns, fresh_blocks, table_words = staging.send(staged).split_with_sizes(parts)
    token_columns, sample_columns = columns[:num_token_rows], columns[num_token_rows:]
    attention = AttnBatch(
        query_starts=[0, *ends.tolist()],
        context_lens=contexts.tolist(),
        block_table=table_words.view(torch.int32)[: math.prod(table_shape)].view(table_shape),
        write_slots=token_columns[1],
        positions=token_columns[0],
        fresh_blocks=fresh_blocks if work.new_block_ids else None,
    )
    return StepBatch(
        attention=attention,
        token_entries=token_columns[2],
        num_prompt_tokens=token_columns[3] if with_prompt_lengths else None,
        sample_tokens=sample_columns[0],
        sample_slots=sample_columns[1],
        sample_positions=sample_columns[2],
        sample_entries=sample_columns[3],
        host_sample_slots=sample_slots.tolist(),
        host_sample_positions=next_positions.tolist(),
        slots=row_slots,
        starts=starts,
        num_tokens=counts,
    )


def _batch_order(row: tuple[int, SeqSlot, int, bool]) -> tuple[bool, int]:
    start, _, num_tokens, _ = row
    return num_tokens > 1, -start


def contradiction(row_slots: IntArray, counts: IntArray, contexts: IntArray, slots: Slots) -> str:
    if int(counts.min()) < 1:
        return "every work row computes at least one token"
    if int(contexts.max()) > slots.max_model_tokens:
        return f"work reaches position {int(contexts.max())}; sequences have {slots.max_model_tokens} tokens"
    short = contexts > slots.capacity_tokens[row_slots]
    return f"slots {row_slots[short].tolist()} have fewer blocks than the work needs"
