"""Attention of chunks of prompts over pages, their own K and V among them."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.kv_codec.e4m3 import MAX_SCALE
from kernels.triton.arithmetic import from_e4m3, usable_scale
from kernels.triton.pages import PageGeometry, has_native_e4m3

_QUERIES_BLOCK = 128
"""Rows of a tile: queries times query heads of a group. Two warpgroups' products on Hopper."""

_KEYS_BLOCK = 64

_TILE_COLUMNS = 4


def prefill_tiles(
    query_starts: Sequence[int], context_lens: Sequence[int], rows: Sequence[int], group: int
) -> list[tuple[int, int, int, int]]:
    """What `prefill_attention` takes as its tiles, for these rows of a batch; `group`: query heads per K/V head.

    A tile is (first token in q, number of tokens, position of the first, row). Those that see the most come first, so
    that none of them starts when all others are done.
    """
    size = max(1, _QUERIES_BLOCK // group)
    tiles: list[tuple[int, int, int, int]] = []
    for row in rows:
        first, last, context = query_starts[row], query_starts[row + 1], context_lens[row]
        tiles += [(token, min(size, last - token), context - (last - token), row) for token in range(first, last, size)]
    tiles.sort(key=lambda tile: tile[1] + tile[2], reverse=True)
    return tiles


def prefill_attention(
    pages: PageGeometry,
    layer: int,
    q: torch.Tensor,
    out: torch.Tensor,
    tiles: torch.Tensor,
    block_table: torch.Tensor,
    window: int | None,
) -> None:
    """out = softmax(q Kᵀ / sqrt(head_dim) + mask) V for the tiles' tokens, over themselves and what is before them.

    q, out: [tokens, heads, head_dim] of one float type, q's last dimension and all of out contiguous. tiles: int32
    [tiles, 4] of `prefill_tiles`; block_table: int32 [rows, max_blocks] (rows perhaps strided). K and V of the chunks'
    own tokens have been stored already and are read as they are stored. `window`: how many tokens a query sees, itself
    among them. Rows of pages past a chunk's last token are never read, whatever they hold.

    FlashAttention-2 (arXiv:2307.08691) with all query heads of a group as rows of one tile (128 rows, 64 keys or, where
    rows are wide, 32), so that each K and V tile is read once for the whole group; softmax in fp32 and base 2. FP8
    elements become q's type in registers, which is exact; a K row's scale multiplies its score, a V row's its weight. A
    chunk's result does not depend on what else is in the batch.
    """
    num_heads, head_dim = q.shape[1:]
    group = num_heads // pages.kv_heads
    assert q.stride(2) == block_table.stride(1) == 1
    assert out.is_contiguous()
    assert tiles.shape[1] == _TILE_COLUMNS
    if not len(tiles):
        return
    dim_block = max(16, triton.next_power_of_2(head_dim))
    _prefill[(pages.kv_heads, len(tiles))](
        q,
        out,
        tiles,
        block_table,
        pages.elements,
        pages.scales,
        layer,
        head_dim**-0.5 * 1.4426950408889634,
        q.stride(0),
        q.stride(1),
        block_table.stride(0),
        **pages.constants,
        NATIVE_E4M3=has_native_e4m3(q.device),
        MAX_SCALE=MAX_SCALE,
        WINDOW=window or 0,
        NUM_HEADS=num_heads,
        GROUP=group,
        QUERIES_BLOCK=max(_QUERIES_BLOCK, triton.next_power_of_2(group)),
        DIM_BLOCK=dim_block,
        # Tiles of wide rows would not fit a multiprocessor's shared memory.
        KEYS_BLOCK=_KEYS_BLOCK if dim_block * q.dtype.itemsize <= 256 else _KEYS_BLOCK // 2,
        STAGES=3,
        num_warps=8,
    )


@triton.jit(do_not_specialize=["layer", "table_stride"], do_not_specialize_on_alignment=["tiles_ptr", "table_ptr"])
def _prefill(  # type: ignore[no-untyped-def]
    q_ptr,
    out_ptr,
    tiles_ptr,
    table_ptr,
    elements_ptr,
    scales_ptr,
    layer,
    scale,
    q_token_stride,
    q_head_stride,
    table_stride,
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
    QUERIES_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    KEYS_BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    kv_head = tl.program_id(0)
    tile = tiles_ptr + tl.program_id(1) * 4
    first_token, num_tokens = tl.load(tile), tl.load(tile + 1)
    first_position, row = tl.load(tile + 2), tl.load(tile + 3)
    end = first_position + num_tokens

    members = tl.arange(0, QUERIES_BLOCK)
    queries = members // GROUP
    heads = kv_head * GROUP + members % GROUP
    query_positions = first_position + queries
    dims = tl.arange(0, DIM_BLOCK)
    inside = (queries < num_tokens)[:, None] & (dims < HEAD_DIM)[None, :]
    tokens = first_token.to(tl.int64) + queries
    q_offsets = tokens[:, None] * q_token_stride + heads[:, None] * q_head_stride + dims[None, :]
    q = tl.load(q_ptr + q_offsets, mask=inside, other=0.0)
    # fp16 holds neither the product of a weight with a large scale nor that with a small one: bf16 then.
    weight_type: tl.constexpr = tl.bfloat16 if IS_FP8 and q.dtype == tl.float16 else q.dtype

    table = table_ptr + row.to(tl.int64) * table_stride
    page = elements_ptr + layer * LAYER_STRIDE + kv_head * PAGE_STRIDE
    page_scales = scales_ptr + layer * LAYER_SCALES + kv_head * PAGE_SCALES + SCALES_OFFSET
    m = tl.full([QUERIES_BLOCK], float("-inf"), tl.float32)
    l = tl.zeros([QUERIES_BLOCK], tl.float32)  # noqa: E741
    acc = tl.zeros([QUERIES_BLOCK, DIM_BLOCK], tl.float32)
    lowest = 0
    seen_by_all = (first_position + 1) // KEYS_BLOCK * KEYS_BLOCK
    if WINDOW > 0:
        lowest = tl.maximum(first_position - WINDOW + 1, 0) // KEYS_BLOCK * KEYS_BLOCK
        seen_by_all = lowest
    # First the key tiles that every query sees, then those of which some see a part.
    for part in tl.static_range(2):
        start = lowest if part == 0 else seen_by_all
        stop = seen_by_all if part == 0 else end
        for position in tl.range(start, stop, KEYS_BLOCK, num_stages=STAGES):
            positions = position + tl.arange(0, KEYS_BLOCK)
            written = positions < stop
            block = tl.load(table + positions // BLOCK_SIZE, mask=written, other=0).to(tl.int64)
            offset = positions % BLOCK_SIZE
            keys = page + block * BLOCK_STRIDE + offset * HEAD_DIM
            wanted = written[:, None] & (dims < HEAD_DIM)[None, :]
            # What nobody has written may be NaN: it is not even read.
            k = tl.load(keys[:, None] + dims[None, :], mask=wanted, other=0)
            v = tl.load(keys[:, None] + KV_STRIDE + dims[None, :], mask=wanted, other=0)
            if IS_FP8:
                key_scales = page_scales + block * BLOCK_SCALES + offset
                k_scale = usable_scale(tl.load(key_scales, mask=written, other=0.0), MAX_SCALE)
                v_scale = usable_scale(tl.load(key_scales + KV_SCALES, mask=written, other=0.0), MAX_SCALE)
                k = from_e4m3(k, q.dtype, NATIVE_E4M3)
                v = from_e4m3(v, weight_type, NATIVE_E4M3)
            else:
                k = k.to(q.dtype)
                v = v.to(weight_type)
            scores = tl.dot(q, tl.trans(k), input_precision="tf32x3") * scale
            if IS_FP8:
                scores *= k_scale[None, :]
            if part == 1:
                distance = query_positions[:, None] - positions[None, :]
                visible = distance >= 0
                if WINDOW > 0:
                    visible &= distance < WINDOW
                scores = tl.where(visible, scores, float("-inf"))
            m_next = tl.maximum(m, tl.max(scores, axis=1))
            # A query that has seen nothing yet has -inf twice, and their difference would be NaN.
            m_finite = tl.where(m_next == float("-inf"), 0.0, m_next)
            shrink = tl.exp2(m - m_finite)
            weights = tl.exp2(scores - m_finite[:, None])
            l = l * shrink + tl.sum(weights, axis=1)  # noqa: E741
            if IS_FP8:
                weights *= v_scale[None, :]
            acc = tl.dot(weights.to(weight_type), v, acc * shrink[:, None], input_precision="tf32x3")
            m = m_next
    out_offsets = (tokens[:, None] * NUM_HEADS + heads[:, None]) * HEAD_DIM + dims[None, :]
    tl.store(out_ptr + out_offsets, (acc / l[:, None]).to(out_ptr.dtype.element_ty), mask=inside)
