"""A fake of a capturable backend: decode by plain operations over the whole table, with nothing known on the host.

Where a row is padding it writes to the pool's last block, which nobody may own; a real backend writes nothing.
"""

from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttnPlan, DecodeBuffers
from kernels.attention.reference import ReferenceAttention


@dataclass(frozen=True, slots=True)
class DensePlan:
    buffers: DecodeBuffers


class DenseDecode(ReferenceAttention):
    """Plans made from a batch are the reference's. Pages are float32, without windows."""

    def __init__(self, kv: PagedKv) -> None:
        super().__init__(kv, [None] * kv.num_layers)
        self._pages = kv.elements
        self._block_size = kv.block_size

    def decode_plan(self, buffers: DecodeBuffers) -> DensePlan:
        return DensePlan(buffers)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        if not isinstance(plan, DensePlan):
            return super().run(q, k, v, layer, plan)
        buffers, pages = plan.buffers, self._pages[:, layer]
        last = len(pages) * self._block_size - 1
        slots = torch.where(buffers.write_slots < 0, last, buffers.write_slots)
        blocks, tokens = slots // self._block_size, slots % self._block_size
        for which, heads in enumerate((k, v)):
            pages[:, which].transpose(1, 2)[blocks, tokens] = heads
        # [rows, blocks, 2, kv_heads, block_size, head_dim] -> [2, rows, heads, context, head_dim]
        held = pages[buffers.block_table.long()].permute(2, 0, 3, 1, 4, 5).flatten(3, 4)
        keys, values = held.repeat_interleave(q.shape[1] // k.shape[1], dim=2).unbind()
        scores = torch.einsum("rhd,rhcd->rhc", q, keys) * q.shape[2] ** -0.5
        positions = torch.arange(scores.shape[2], device=q.device)
        hidden = positions >= buffers.context_lens[:, None, None]
        weights = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1).nan_to_num()
        return torch.einsum("rhc,rhcd->rhd", weights, values)
