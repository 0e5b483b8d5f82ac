"""Rotary position embedding (RoFormer, arXiv:2104.09864) of q and k in place, after their norm where there is one."""

import torch
import triton
import triton.language as tl

_MAX_TILE_ELEMENTS = 1024
"""Half heads that one program holds at once, times their width."""


def rotate_heads(
    heads: torch.Tensor,
    num_heads: int,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None,
    eps: float = 0.0,
) -> None:
    """Normalise and rotate q and k heads, in place, in fp32, rounded once.

    heads: floats [tokens, num_heads + kv_heads, head_dim], q heads before k heads, the head dimension contiguous.
    cos, sin: floats [tokens, head_dim] as `RotaryEmbedding.cos_sin` gives them: both halves alike, those of the sines
    with opposite signs. norms: weights [head_dim] of the RMSNorm over each head of q and of k (QK-norm as in Qwen3,
    arXiv:2505.09388); None: there is none.

    With x1, x2 the halves of a head: x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin.
    """
    num_tokens, all_heads, head_dim = heads.shape
    assert heads.stride(2) == cos.stride(1) == sin.stride(1) == 1
    assert cos.shape == sin.shape == (num_tokens, head_dim)
    half = head_dim // 2
    half_block = triton.next_power_of_2(half)
    heads_block = min(triton.next_power_of_2(all_heads), max(1, _MAX_TILE_ELEMENTS // half_block))
    q_weight, k_weight = norms if norms is not None else (cos, cos)
    if num_tokens:
        grid = (num_tokens, triton.cdiv(all_heads, heads_block))
        _rotate_heads[grid](
            heads,
            q_weight,
            k_weight,
            cos,
            sin,
            heads.stride(0),
            heads.stride(1),
            cos.stride(0),
            sin.stride(0),
            num_heads,
            all_heads,
            half,
            eps,
            HAS_NORM=norms is not None,
            HEADS=heads_block,
            HALF=half_block,
            num_warps=4,
        )


@triton.jit
def _rotate_heads(  # type: ignore[no-untyped-def]
    heads_ptr,
    q_weight_ptr,
    k_weight_ptr,
    cos_ptr,
    sin_ptr,
    token_stride,
    head_stride,
    cos_stride,
    sin_stride,
    num_heads,
    all_heads,
    half,
    eps,
    HAS_NORM: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, HALF)
    in_half = column < half
    inside = (head < all_heads)[:, None] & in_half[None, :]
    first = heads_ptr + token * token_stride + head[:, None] * head_stride + column[None, :]
    x1 = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        variance = (tl.sum(x1 * x1, axis=1) + tl.sum(x2 * x2, axis=1)) / (2 * half)
        scale = tl.rsqrt(variance + eps)[:, None]
        is_q = (head < num_heads)[:, None]
        q1 = tl.load(q_weight_ptr + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
        q2 = tl.load(q_weight_ptr + half + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
        k1 = tl.load(k_weight_ptr + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
        k2 = tl.load(k_weight_ptr + half + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
        x1 = x1 * scale * tl.where(is_q, q1, k1)
        x2 = x2 * scale * tl.where(is_q, q2, k2)
    cos = tl.load(cos_ptr + token * cos_stride + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
    # The second half of the sines has the sign of the equation above.
    sin = tl.load(sin_ptr + token * sin_stride + half + column, mask=in_half, other=0.0).to(tl.float32)[None, :]
    dtype = heads_ptr.dtype.element_ty
    tl.store(first, (x1 * cos - x2 * sin).to(dtype), mask=inside)
    tl.store(first + half, (x2 * cos + x1 * sin).to(dtype), mask=inside)
