"""Attention over paged blocks in plain torch, one row at a time: the oracle that every other backend is held to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention.protocol import AttnBatch, AttnPlan


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    batch: AttnBatch


class ReferenceAttention:
    """out = softmax(q Kᵀ / sqrt(head_dim) + mask) V in fp32, for each row and head on its own."""

    name = "reference"

    def __init__(self, kv: torch.Tensor, windows: Sequence[int | None]) -> None:
        """`kv` is `[num_blocks, layers, 2, kv_heads, block_size, head_dim]`; `windows` has an entry per layer."""
        assert len(windows) == kv.shape[1]
        self._kv = kv
        self._windows = tuple(windows)

    def plan(self, batch: AttnBatch) -> ReferencePlan:
        return ReferencePlan(batch)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, ReferencePlan)
        batch = plan.batch
        pages, window = self._kv[:, layer], self._windows[layer]
        block_size = pages.shape[3]
        for token, slot in enumerate(batch.write_slots.tolist()):
            pages[slot // block_size, 0, :, slot % block_size] = k[token]
            pages[slot // block_size, 1, :, slot % block_size] = v[token]
        group = q.shape[1] // pages.shape[2]
        out = torch.empty_like(q)
        for row, context in enumerate(batch.context_lens):
            tokens = slice(batch.query_starts[row], batch.query_starts[row + 1])
            blocks = batch.block_table[row, : -(-context // block_size)].long()
            # [2, kv_heads, context, head_dim] -> one K and V head per query head
            both = pages[blocks].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context].float()
            keys, values = both.repeat_interleave(group, dim=1)
            scores = torch.einsum("thd,hcd->htc", q[tokens].float(), keys) * q.shape[2] ** -0.5
            distance = batch.positions[tokens, None] - torch.arange(context, device=q.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
            out[tokens] = torch.einsum("htc,hcd->thd", weights, values).to(q.dtype)
        return out
