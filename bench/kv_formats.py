"""The ways to store K and V that `bench.kv_quality` compares: blocks as they are, and two simulated alternatives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kernels.attention.protocol import AttentionBackend, AttnBatch, AttnPlan

BLOCK_SIZE = 16

Rounding = Callable[[torch.Tensor], torch.Tensor]
"""fp32 [tokens, kv_heads, head_dim], from a sequence's first token on, to what would be read back of it."""


def per_block(rows: torch.Tensor) -> torch.Tensor:
    """E4M3 with one exact scale per head and block of tokens, as if each block had been known before it was written."""
    num_tokens = len(rows)
    padded = F.pad(rows, (0, 0, 0, 0, 0, -num_tokens % BLOCK_SIZE))
    blocks = padded.view(-1, BLOCK_SIZE, *rows.shape[1:])
    return _through_e4m3(blocks, blocks.abs().amax(dim=(1, 3), keepdim=True)).view(padded.shape)[:num_tokens]


def per_tensor(rows: torch.Tensor) -> torch.Tensor:
    """E4M3 with one exact scale for all heads and tokens of a layer, as if calibrated on this very text."""
    return _through_e4m3(rows, rows.abs().amax())


def _through_e4m3(rows: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    scales = (largest / 448.0).clamp_min(2.0**-100)
    return (rows / scales).clamp(-448.0, 448.0).to(torch.float8_e4m3fn).float() * scales


@dataclass(frozen=True, slots=True)
class KvFormat:
    """A column of the table."""

    name: str
    kv_dtype: torch.dtype
    """Of the blocks."""
    rounding: Rounding | None = None
    """What K and V go through before they are stored; None: nothing."""


TRUTH = KvFormat("fp32", torch.float32)
FORMATS = (
    KvFormat("fp8", torch.float8_e4m3fn),
    KvFormat("fp8, per block", torch.float32, per_block),
    KvFormat("fp8, per tensor", torch.float32, per_tensor),
    KvFormat("bf16", torch.bfloat16),
    KvFormat("fp16", torch.float16),
)


class RoundedAttention:
    """Another backend over fp32 blocks, with K and V rounded on their way there."""

    def __init__(self, inner: AttentionBackend, rounding: Rounding) -> None:
        self.name = inner.name
        self._inner, self._rounding = inner, rounding

    def plan(self, batch: AttnBatch) -> AttnPlan:
        return self._inner.plan(batch)

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, plan: AttnPlan) -> torch.Tensor:
        return self._inner.run(q, self._rounding(k).to(k.dtype), self._rounding(v).to(v.dtype), layer, plan)
