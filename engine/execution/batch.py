"""A step plan's work as the tensors of one forward pass."""

from dataclasses import dataclass

import numpy as np
import torch

from engine.execution.slots import IntArray, Slots
from engine.scheduling.plan import Work
from kernels.attention.protocol import AttnBatch


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Rows are sorted, decode rows first and longest first, so that rows of like length lie together."""

    attention: AttnBatch
    token_ids: torch.Tensor
    """int32 [tokens]."""
    num_prompt_tokens: torch.Tensor | None
    """int64 [tokens]: of each token's sequence; only where RoPE depends on it."""
    sample_tokens: torch.Tensor
    """int64 [sampling rows]: index of each row's last token, in the plan's order."""
    sample_slots: torch.Tensor
    """int64 [sampling rows]."""
    sample_positions: torch.Tensor
    """int64 [sampling rows]: position of the token that is sampled."""
    host_sample_slots: list[int]
    host_sample_positions: list[int]
    slots: IntArray
    """[rows], in batch order, as the two below."""
    starts: IntArray
    num_tokens: IntArray


def build_batch(work: Work, slots: Slots, device: torch.device, with_prompt_lengths: bool) -> StepBatch:
    """Tensors for `work`, whose new blocks are already in the tables. A fixed number of vectorised operations.

    Raises ValueError where the work does not fit the slots' state: that is a fault of the plan.
    """
    plan_slots = np.array(work.slots, dtype=np.int64)
    plan_starts = np.array(work.starts, dtype=np.int64)
    plan_counts = np.array(work.num_tokens, dtype=np.int64)
    _check(plan_slots, plan_starts, plan_counts, slots)
    # Decode rows first (count 1), then by context, longest first.
    order = np.lexsort((-plan_starts, plan_counts > 1))
    row_slots, starts, counts = plan_slots[order], plan_starts[order], plan_counts[order]
    contexts = starts + counts
    ends = np.cumsum(counts)
    total = int(ends[-1])
    token_rows = np.repeat(np.arange(len(counts)), counts)
    # One buffer, one copy to the device: positions, write slots, token table indices, prompt lengths.
    flat = np.empty((4 if with_prompt_lengths else 3, total), dtype=np.int64)
    positions = np.add(np.arange(total), (starts - ends + counts)[token_rows], out=flat[0])
    token_slots = row_slots[token_rows]
    block_size = slots.block_size
    flat[1] = slots.block_tables[token_slots, positions // block_size] * np.int64(block_size) + positions % block_size
    np.add(token_slots * slots.max_model_tokens, positions, out=flat[2])
    if with_prompt_lengths:
        flat[3] = slots.num_prompt_tokens[token_slots]
    on_device = torch.from_numpy(flat).to(device, non_blocking=True)

    max_blocks = -(-int(contexts.max()) // block_size)
    columns = np.arange(max_blocks)
    table = slots.block_tables[row_slots, :max_blocks]
    table = np.where(columns < slots.num_blocks[row_slots, None], table, 0)
    attention = AttnBatch(
        query_starts=[0, *ends.tolist()],
        context_lens=contexts.tolist(),
        block_table=torch.from_numpy(table).to(device, non_blocking=True),
        write_slots=on_device[1],
        positions=on_device[0],
    )
    # Back to the plan's order for the rows that sample.
    samples = np.array(work.samples, dtype=bool)
    last_tokens = np.empty_like(ends)
    last_tokens[order] = ends - 1
    sampling = np.stack((last_tokens[samples], plan_slots[samples], (plan_starts + plan_counts)[samples]))
    sample_tokens, sample_slots, sample_positions = torch.from_numpy(sampling).to(device, non_blocking=True)
    return StepBatch(
        attention=attention,
        token_ids=slots.tokens.view(-1).index_select(0, on_device[2]),
        num_prompt_tokens=on_device[3] if with_prompt_lengths else None,
        sample_tokens=sample_tokens,
        sample_slots=sample_slots,
        sample_positions=sample_positions,
        host_sample_slots=sampling[1].tolist(),
        host_sample_positions=sampling[2].tolist(),
        slots=row_slots,
        starts=starts,
        num_tokens=counts,
    )


def _check(row_slots: IntArray, starts: IntArray, counts: IntArray, slots: Slots) -> None:
    if int(counts.min()) < 1 or int(starts.min()) < 0:
        raise ValueError("every work row computes at least one token, from position 0 or later")
    contexts = starts + counts
    if int(contexts.max()) > slots.max_model_tokens:
        raise ValueError(f"work reaches position {int(contexts.max())}; sequences have {slots.max_model_tokens} tokens")
    short = contexts > slots.num_blocks[row_slots] * slots.block_size
    if short.any():
        raise ValueError(f"slots {row_slots[short].tolist()} have fewer blocks than the work needs")
