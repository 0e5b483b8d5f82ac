"""Steps over pools with NaN wherever nothing has been written, and what the oracle makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention.protocol import AttnBatch
from kernels.attention.reference import ReferenceAttention
from kvstore.layout import BlockLayout
from tests.kernels import triton_products  # noqa: F401
from tests.kernels.attention_cases import CPU, Rows, make_batch, random_heads, random_pool

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Of the computation's dtype: bf16 and fp16 round the result, of size 1 or so, to 8 and 11 bits, and the weights of the
softmax once before, those of fp16 models over FP8 blocks to bf16."""


@dataclass(frozen=True)
class Heads:
    num_heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Case:
    """A step over a pool as it is before the step: rows' contexts are filled, all else is NaN."""

    layout: BlockLayout
    batch: AttnBatch
    pool: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    def expected(self, layer: int, windows: Sequence[int | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """The oracle's result, and the pool after it."""
        pool = self.pool.clone()
        oracle = ReferenceAttention(self.layout.pages(pool), windows)
        return oracle.run(self.q, self.k, self.v, layer, oracle.plan(self.batch)), pool


def case(
    rows: Rows,
    heads: Heads,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    *,
    block_size: int = 16,
    seed: int = 0,
    num_layers: int = 2,
) -> Case:
    layout = BlockLayout(num_layers, heads.kv_heads, heads.head_dim, block_size, kv_dtype)
    needed = sum(-(-(start + count) // block_size) for start, count in zip(rows.starts, rows.counts, strict=True))
    num_blocks = needed + 3
    batch = make_batch(rows, block_size, num_blocks, seed)
    filled = random_pool(layout, num_blocks, seed)
    # All bits set are NaN in every type, scales included.
    pool = torch.full_like(filled, 255)
    source, target = layout.pages(filled), layout.pages(pool)
    for row, start in enumerate(rows.starts):
        positions = torch.arange(start)
        blocks, tokens = batch.block_table[row, positions // block_size].long(), positions % block_size
        target.elements[blocks, :, :, :, tokens] = source.elements[blocks, :, :, :, tokens]
        if source.scales is not None and target.scales is not None:
            target.scales[blocks, :, :, :, tokens] = source.scales[blocks, :, :, :, tokens]
    merged = random_heads(batch.num_tokens, heads.num_heads + 2 * heads.kv_heads, heads.head_dim, dtype, seed)
    # q, k and v are slices of one tensor, as the models pass them; larger q make some weights stand out.
    q, k, v = (merged * 1.5).split((heads.num_heads, heads.kv_heads, heads.kv_heads), dim=1)
    return Case(layout, batch, pool, q, k, v)


def is_close(got: torch.Tensor, want: torch.Tensor, kv_dtype: torch.dtype) -> bool:
    """Within the tolerance of their common dtype; NaN is close to nothing."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    is_mixed = got.dtype == torch.float16 and kv_dtype == torch.float8_e4m3fn
    tolerance = TOLERANCE[torch.bfloat16 if is_mixed else got.dtype]
    return torch.allclose(got.to(CPU).float(), want.float(), atol=tolerance, rtol=tolerance)
