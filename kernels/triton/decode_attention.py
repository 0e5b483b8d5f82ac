"""Decode attention over pages: one query per row, the context split among programs (Flash-Decoding)."""

import torch
import triton
import triton.language as tl

from kernels.kv_codec.e4m3 import MAX_SCALE
from kernels.triton.arithmetic import from_e4m3, usable_scale
from kernels.triton.pages import PageGeometry, has_native_e4m3
from kernels.triton.splits import KEYS_BLOCK, MAX_SPLITS, SPLIT_TOKENS, max_splits_of, merge_splits, splits_of

_GRID_PROGRAMS = 4096
"""Programs to aim at: 16 to 30 per multiprocessor. More of them only start and leave where contexts are short."""


_STAGES = 5
"""Of the loop over keys: block ids are read two steps before K and V, those two before they are used."""


def decode_attention(
    pages: PageGeometry,
    layer: int,
    q: torch.Tensor,
    out: torch.Tensor,
    tokens: torch.Tensor,
    rows: torch.Tensor,
    context_lens: torch.Tensor,
    block_table: torch.Tensor,
    max_context: int,
    window: int | None,
) -> None:
    """out[tokens[i]] = softmax(q[tokens[i]] Kᵀ / sqrt(head_dim)) V over the last `window` of row i's tokens.

    q, out: [all tokens, heads, head_dim] of one float type, q's last dimension and all of out contiguous. tokens, rows
    int32 [n]: where row i's query is in q, and its blocks in block_table int32 [.., max_blocks] (rows perhaps strided).
    context_lens int32 [n]: tokens to attend to, the query's own among them; 0: padding, out is zeros. All of these are
    read by the device alone; the grid depends on n, `max_context`, which bounds context_lens, and the window, so
    that a captured launch serves any rows. Blocks past a row's context are never read, nor rows of pages before the
    window or past the context, whatever they hold.

    A program takes some splits of one row and K/V head, with all query heads of that group as the rows of its products
    (padded to 16), in the manner of Flash-Decoding (https://crfm.stanford.edu/2023/10/12/flashdecoding.html) with the
    online softmax of FlashAttention-2 (arXiv:2307.08691) in fp32 and base 2:

        m' = max(m, max s)    l' = l 2^(m - m') + sum p    a' = a 2^(m - m') + p V    p = 2^(s - m')

    and leaves a, m and l of each split, which `splits.py` merges by the same equation. FP8 elements become q's
    type in registers, which is exact; a K row's scale multiplies its score, a V row's its weight. Splits and the
    order of sums follow from a row's own context and window, so its result is the same, bit for bit, in any batch.
    """
    num_rows = len(context_lens)
    num_heads, head_dim = q.shape[1:]
    group = num_heads // pages.kv_heads
    assert q.stride(2) == block_table.stride(1) == 1
    assert out.is_contiguous()
    assert head_dim == pages.head_dim
    if not num_rows:
        return
    splits = max_splits_of(max_context, window)
    group_block, dim_block = max(16, triton.next_power_of_2(group)), max(16, triton.next_power_of_2(head_dim))
    width = min(splits, max(1, _GRID_PROGRAMS // (num_rows * pages.kv_heads)))
    partial = out if splits == 1 else q.new_empty((num_rows, num_heads, splits, dim_block), dtype=torch.float32)
    sums = out if splits == 1 else q.new_empty((num_rows, num_heads, splits, 2), dtype=torch.float32)
    _decode[(width, pages.kv_heads, num_rows)](
        q,
        out,
        partial,
        sums,
        tokens,
        rows,
        context_lens,
        block_table,
        pages.elements,
        pages.scales,
        layer,
        head_dim**-0.5 * 1.4426950408889634,
        q.stride(0),
        q.stride(1),
        block_table.stride(0),
        splits,
        **pages.constants,
        NATIVE_E4M3=has_native_e4m3(q.device),
        MAX_SCALE=MAX_SCALE,
        WINDOW=window or 0,
        NUM_HEADS=num_heads,
        GROUP=group,
        GROUP_BLOCK=group_block,
        DIM_BLOCK=dim_block,
        KEYS_BLOCK=KEYS_BLOCK,
        SPLIT_TOKENS=SPLIT_TOKENS,
        MAX_SPLITS=MAX_SPLITS,
        IS_WHOLE=splits == 1,
        num_warps=2 if group_block * dim_block <= 2048 else 4,
        STAGES=_STAGES,
    )
    if splits > 1:
        merge_splits(partial, sums, out, tokens, context_lens, window)


@triton.jit
def _scales(  # type: ignore[no-untyped-def]
    table,
    page_scales,
    positions,
    seen,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_SCALES: tl.constexpr,
    KV_SCALES: tl.constexpr,
    MAX_SCALE: tl.constexpr,
):
    """fp32 scales of the K and V rows at these positions; 0 where none is seen."""
    block = tl.load(table + positions // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
    where = page_scales + block * BLOCK_SCALES + positions % BLOCK_SIZE
    k_scale = usable_scale(tl.load(where, mask=seen, other=0.0), MAX_SCALE)
    v_scale = usable_scale(tl.load(where + KV_SCALES, mask=seen, other=0.0), MAX_SCALE)
    return k_scale, v_scale


# What a plan holds are slices, aligned one way or the other: no reason to compile once more in the midst of serving.
@triton.jit(
    do_not_specialize=["layer", "table_stride", "max_splits"],
    do_not_specialize_on_alignment=["tokens_ptr", "rows_ptr", "contexts_ptr", "table_ptr"],
)
def _decode(  # type: ignore[no-untyped-def]
    q_ptr,
    out_ptr,
    partial_ptr,
    sums_ptr,
    tokens_ptr,
    rows_ptr,
    contexts_ptr,
    table_ptr,
    elements_ptr,
    scales_ptr,
    layer,
    scale,
    q_token_stride,
    q_head_stride,
    table_stride,
    max_splits,
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
    NATIVE_E4M3: tl.constexpr,
    MAX_SCALE: tl.constexpr,
    WINDOW: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    KEYS_BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(2)
    kv_head = tl.program_id(1)
    context = tl.load(contexts_ptr + row)
    first, length, count = splits_of(context, WINDOW, KEYS_BLOCK, SPLIT_TOKENS, MAX_SPLITS)
    members = tl.arange(0, GROUP_BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    heads = kv_head * GROUP + members
    inside = (members < GROUP)[:, None] & (dims < HEAD_DIM)[None, :]
    token = tl.load(tokens_ptr + row).to(tl.int64)
    out_offsets = (token * NUM_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
    if tl.program_id(0) >= count:
        if IS_WHOLE:
            tl.store(out_ptr + out_offsets, tl.zeros([GROUP_BLOCK, DIM_BLOCK], out_ptr.dtype.element_ty), mask=inside)
        return
    q_offsets = token * q_token_stride + heads[:, None] * q_head_stride + dims[None, :]
    q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
    # fp16 holds neither the sum of large weights' products with a scale nor small ones: bf16 then.
    weight_type: tl.constexpr = tl.bfloat16 if IS_FP8 and q.dtype == tl.float16 else q.dtype

    table = table_ptr + tl.load(rows_ptr + row).to(tl.int64) * table_stride
    page = elements_ptr + layer * LAYER_STRIDE + kv_head * PAGE_STRIDE
    page_scales = scales_ptr + layer * LAYER_SCALES + kv_head * PAGE_SCALES + SCALES_OFFSET
    lowest = tl.maximum(context - WINDOW, 0) if WINDOW > 0 else 0
    for split in range(tl.program_id(0), count, tl.num_programs(0)):
        start = first + split * length
        end = tl.minimum(start + length, context)
        m = tl.full([GROUP_BLOCK], float("-inf"), tl.float32)
        l = tl.zeros([GROUP_BLOCK], tl.float32)  # noqa: E741
        acc = tl.zeros([GROUP_BLOCK, DIM_BLOCK], tl.float32)
        if IS_FP8:
            # Too small to be copied ahead to shared memory with K and V, so it is done by hand, in registers.
            ahead = start + tl.arange(0, KEYS_BLOCK)
            next_k_scale, next_v_scale = _scales(
                table, page_scales, ahead, ahead < end, BLOCK_SIZE, BLOCK_SCALES, KV_SCALES, MAX_SCALE
            )
        for position in tl.range(start, end, KEYS_BLOCK, num_stages=STAGES):
            positions = position + tl.arange(0, KEYS_BLOCK)
            seen = (positions >= lowest) & (positions < end)
            block = tl.load(table + positions // BLOCK_SIZE, mask=seen, other=0).to(tl.int64)
            offset = positions % BLOCK_SIZE
            keys = page + block * BLOCK_STRIDE + offset * HEAD_DIM
            wanted = seen[:, None] & (dims < HEAD_DIM)[None, :]
            # What nobody has written may be NaN: it is not even read.
            k = tl.load(keys[:, None] + dims[None, :], mask=wanted, other=0)
            v = tl.load(keys[:, None] + KV_STRIDE + dims[None, :], mask=wanted, other=0)
            if IS_FP8:
                k_scale, v_scale = next_k_scale, next_v_scale
                ahead = positions + KEYS_BLOCK
                next_k_scale, next_v_scale = _scales(
                    table, page_scales, ahead, ahead < end, BLOCK_SIZE, BLOCK_SCALES, KV_SCALES, MAX_SCALE
                )
                k = from_e4m3(k, q.dtype, NATIVE_E4M3)
                v = from_e4m3(v, weight_type, NATIVE_E4M3)
            else:
                k = k.to(q.dtype)
                v = v.to(weight_type)
            scores = tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale
            if IS_FP8:
                scores *= k_scale[None, :]
            scores = tl.where(seen[None, :], scores, float("-inf"))
            m_next = tl.maximum(m, tl.max(scores, axis=1))
            shrink = tl.exp2(m - m_next)
            weights = tl.exp2(scores - m_next[:, None])
            l = l * shrink + tl.sum(weights, axis=1)  # noqa: E741
            if IS_FP8:
                weights *= v_scale[None, :]
            acc = tl.dot(weights.to(weight_type), v, acc * shrink[:, None], input_precision="tf32x3")
            m = m_next
        if IS_WHOLE:
            tl.store(out_ptr + out_offsets, (acc / l[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
        else:
            parts = (row.to(tl.int64) * NUM_HEADS + heads) * max_splits + split
            tl.store(partial_ptr + parts[:, None] * DIM_BLOCK + dims[None, :], acc, mask=(members < GROUP)[:, None])
            tl.store(sums_ptr + parts * 2, m, mask=members < GROUP)
            tl.store(sums_ptr + parts * 2 + 1, l, mask=members < GROUP)
