"""A fake of a backend whose decode steps can be captured: the reference, on what the buffers hold when it runs."""

from dataclasses import dataclass

import torch

from kernels.attention.protocol import AttnBatch, AttnPlan, DecodeBuffers
from kernels.attention.reference import ReferenceAttention


@dataclass(frozen=True, slots=True)
class RefilledPlan:
    buffers: DecodeBuffers


class RefillableReference(ReferenceAttention):
    """Reads the buffers on the host, which a real one must not; so it goes with graphs that are fake as well."""

    def decode_plan(self, buffers: DecodeBuffers) -> RefilledPlan:
        return RefilledPlan(buffers)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        if not isinstance(plan, RefilledPlan):
            return super().run(q, k, v, layer, plan)
        buffers = plan.buffers
        contexts = buffers.context_lens.tolist()
        assert len(q) == len(contexts)
        rows = [row for row, context in enumerate(contexts) if context]
        assert rows == list(range(len(rows))), "padding is behind all rows"
        assert all((slot < 0) == (row >= len(rows)) for row, slot in enumerate(buffers.write_slots.tolist()))
        out = torch.zeros_like(q)
        if rows:
            batch = AttnBatch(
                query_starts=list(range(len(rows) + 1)),
                context_lens=contexts[: len(rows)],
                block_table=buffers.block_table[: len(rows)],
                write_slots=buffers.write_slots[: len(rows)],
                positions=buffers.context_lens[: len(rows)].long() - 1,
            )
            live = slice(len(rows))
            out[live] = super().run(q[live], k[live], v[live], layer, self.plan(batch))
        return out
