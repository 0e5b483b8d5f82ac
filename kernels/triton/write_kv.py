"""Storing a step's K and V in their pages: quantised to FP8 or cast, and scattered, in one pass."""

import torch
import triton
import triton.language as tl

from kernels.kv_codec.e4m3 import E4M3_MAX, MIN_SCALE
from kernels.triton.arithmetic import to_e4m3
from kernels.triton.pages import PageGeometry

_ELEMENTS_PER_WARP = 512


def write_kv(pages: PageGeometry, layer: int, k: torch.Tensor, v: torch.Tensor, write_slots: torch.Tensor) -> None:
    """Store k and v where `write_slots` says, in the pool that `pages` views.

    k, v: bf16, fp16 or fp32 [tokens, kv_heads, head_dim], the last dimension contiguous. write_slots: int64 [tokens],
    block_id * block_size + offset; nothing is stored for a token whose slot is negative.

    FP8 rows get `s = max(trunc_bf16(max|x| / 448), 2^-100)` and `code = RNE_E4M3(x / s)` with IEEE divisions, equal to
    `kernels/kv_codec/e4m3.py` to the bit (E4M3: arXiv:2209.05433). Other types are cast to nearest even. A program
    takes one token's K or V with all heads.
    """
    num_tokens, kv_heads, head_dim = k.shape
    assert (kv_heads, head_dim) == (pages.kv_heads, pages.head_dim)
    assert k.stride(2) == v.stride(2) == 1
    if not num_tokens:
        return
    heads_block, dim_block = triton.next_power_of_2(kv_heads), triton.next_power_of_2(head_dim)
    _write_kv[(num_tokens, 2)](
        k,
        v,
        write_slots,
        pages.elements,
        pages.scales,
        layer,
        k.stride(0),
        k.stride(1),
        v.stride(0),
        v.stride(1),
        **pages.constants,
        KV_HEADS=kv_heads,
        HEADS_BLOCK=heads_block,
        DIM_BLOCK=dim_block,
        E4M3_MAX=E4M3_MAX,
        MIN_SCALE=MIN_SCALE,
        num_warps=max(1, min(8, heads_block * dim_block // _ELEMENTS_PER_WARP)),
    )


@triton.jit(do_not_specialize=["layer"], do_not_specialize_on_alignment=["slots_ptr"])
def _write_kv(  # type: ignore[no-untyped-def]
    k_ptr,
    v_ptr,
    slots_ptr,
    elements_ptr,
    scales_ptr,
    layer,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_STRIDE: tl.constexpr,
    LAYER_STRIDE: tl.constexpr,
    KV_STRIDE: tl.constexpr,
    PAGE_STRIDE: tl.constexpr,
    BLOCK_SCALES: tl.constexpr,
    LAYER_SCALES: tl.constexpr,
    KV_SCALES: tl.constexpr,
    PAGE_SCALES: tl.constexpr,
    SCALES_OFFSET: tl.constexpr,
    IS_FP8: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    E4M3_MAX: tl.constexpr,
    MIN_SCALE: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    is_value = tl.program_id(1)
    slot = tl.load(slots_ptr + token)
    if slot < 0:
        return
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    heads = tl.arange(0, HEADS_BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    inside = (heads < KV_HEADS)[:, None] & (dims < HEAD_DIM)[None, :]
    if is_value:
        source = v_ptr + token * v_token_stride
        head_stride = v_head_stride
    else:
        source = k_ptr + token * k_token_stride
        head_stride = k_head_stride
    rows = tl.load(source + heads[:, None] * head_stride + dims[None, :], mask=inside, other=0.0).to(tl.float32)

    page = elements_ptr + block * BLOCK_STRIDE + layer * LAYER_STRIDE + is_value * KV_STRIDE + offset * HEAD_DIM
    target = page + heads[:, None] * PAGE_STRIDE + dims[None, :]
    if IS_FP8:
        # Magnitudes order as their bits do, with NaN on top, which tl.max would pass over.
        magnitudes = rows.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        largest = tl.max(magnitudes, axis=1).to(tl.float32, bitcast=True)
        exact = tl.div_rn(largest, E4M3_MAX)
        truncated = (exact.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
        # A scale of NaN stays: it is not below.
        scales = tl.where(truncated < MIN_SCALE, MIN_SCALE, truncated)
        tl.store(target, to_e4m3(tl.div_rn(rows, tl.broadcast_to(scales[:, None], rows.shape))), mask=inside)
        first = scales_ptr + block * BLOCK_SCALES + layer * LAYER_SCALES + is_value * KV_SCALES + SCALES_OFFSET + offset
        tl.store(first + heads * PAGE_SCALES, scales.to(tl.bfloat16), mask=heads < KV_HEADS)
    else:
        tl.store(target, rows.to(target.dtype.element_ty), mask=inside)
