"""Attention over paged blocks in plain torch, one row at a time: the oracle that every other backend is held to."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnBatch, AttnPlan
from kernels.kv_codec.e4m3 import decode, encode


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    batch: AttnBatch


class ReferenceAttention:
    """out = softmax(q Kᵀ / sqrt(head_dim) + mask) V in fp32, for each row and head on its own."""

    name = "reference"

    def __init__(self, kv: PagedKv, windows: Sequence[int | None]) -> None:
        """`windows` has an entry per layer."""
        assert len(windows) == kv.num_layers
        self._elements, self._scales = kv.elements, kv.scales
        self._windows = tuple(windows)

    def plan(self, batch: AttnBatch) -> ReferencePlan:
        return ReferencePlan(batch)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        assert isinstance(plan, ReferencePlan)
        batch = plan.batch
        window = self._windows[layer]
        _, _, _, kv_heads, block_size, _ = self._elements.shape
        for token, slot in enumerate(batch.write_slots.tolist()):
            self._write(slot // block_size, layer, slot % block_size, torch.stack((k[token], v[token])))
        group = q.shape[1] // kv_heads
        out = torch.empty_like(q)
        for row, context in enumerate(batch.context_lens):
            tokens = slice(batch.query_starts[row], batch.query_starts[row + 1])
            blocks = batch.block_table[row, : -(-context // block_size)].long()
            # [2, kv_heads, context, head_dim] -> one K and V head per query head
            both = self._read(blocks, layer).permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context]
            keys, values = both.repeat_interleave(group, dim=1)
            scores = torch.einsum("thd,hcd->htc", q[tokens].float(), keys) * q.shape[2] ** -0.5
            distance = batch.positions[tokens, None] - torch.arange(context, device=q.device)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
            out[tokens] = torch.einsum("htc,hcd->thd", weights, values).to(q.dtype)
        return out

    def _write(self, block: int, layer: int, token: int, rows: torch.Tensor) -> None:
        """K and V `[2, kv_heads, head_dim]` of one token."""
        if self._scales is None:
            self._elements[block, layer, :, :, token] = rows
        else:
            codes, scales = encode(rows)
            self._elements[block, layer, :, :, token] = codes
            self._scales[block, layer, :, :, token] = scales

    def _read(self, blocks: torch.Tensor, layer: int) -> torch.Tensor:
        """fp32 `[blocks, 2, kv_heads, block_size, head_dim]`."""
        elements = self._elements[:, layer][blocks]
        return elements.float() if self._scales is None else decode(elements, self._scales[:, layer][blocks])
