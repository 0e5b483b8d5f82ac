"""Gathering K and V of some positions out of their pages, dequantised, for kernels that know no pages or no FP8."""

from collections.abc import Iterable

import torch
import triton
import triton.language as tl

from kernels.kv_codec.e4m3 import MAX_SCALE
from kernels.triton.arithmetic import from_e4m3, usable_scale
from kernels.triton.pages import PageGeometry, has_native_e4m3

_TOKENS_BLOCK = 32


def read_tiles(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """What `read_kv` takes as its tiles, for spans (row, first position, end) laid one behind the other.

    A tile is (first token in the result, number of tokens, position of the first, row).
    """
    tiles: list[tuple[int, int, int, int]] = []
    target = 0
    for row, first, end in spans:
        for position in range(first, end, _TOKENS_BLOCK):
            count = min(_TOKENS_BLOCK, end - position)
            tiles.append((target, count, position, row))
            target += count
    return tiles


def read_kv(pages: PageGeometry, layer: int, tiles: torch.Tensor, block_table: torch.Tensor, out: torch.Tensor) -> None:
    """out[0, t] and out[1, t] = K and V of the tiles' tokens, [kv_heads, head_dim] each.

    tiles: int32 [tiles, 4] of `read_tiles`; block_table: int32 [rows, max_blocks] (rows perhaps strided); out: bf16,
    fp16 or fp32 [2, tokens, kv_heads, head_dim], contiguous. FP8 is `code * scale` in fp32
    (`kernels/kv_codec/e4m3.py`), rounded once. A program takes 32 tokens of one
    head's K or V: two whole pages of 16, as they lie.
    """
    assert out.is_contiguous()
    assert block_table.stride(1) == 1
    if not len(tiles):
        return
    _read_kv[(len(tiles), pages.kv_heads, 2)](
        tiles,
        block_table,
        out,
        pages.elements,
        pages.scales,
        layer,
        block_table.stride(0),
        out.stride(0),
        **pages.constants,
        NATIVE_E4M3=has_native_e4m3(out.device),
        MAX_SCALE=MAX_SCALE,
        KV_HEADS=pages.kv_heads,
        TOKENS_BLOCK=_TOKENS_BLOCK,
        DIM_BLOCK=triton.next_power_of_2(pages.head_dim),
        num_warps=4,
    )


@triton.jit(
    do_not_specialize=["layer", "table_stride", "out_kv_stride"],
    do_not_specialize_on_alignment=["tiles_ptr", "table_ptr"],
)
def _read_kv(  # type: ignore[no-untyped-def]
    tiles_ptr,
    table_ptr,
    out_ptr,
    elements_ptr,
    scales_ptr,
    layer,
    table_stride,
    out_kv_stride,
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
    KV_HEADS: tl.constexpr,
    TOKENS_BLOCK: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
):
    tile = tiles_ptr + tl.program_id(0) * 4
    head = tl.program_id(1)
    is_value = tl.program_id(2)
    target, count = tl.load(tile), tl.load(tile + 1)
    position, row = tl.load(tile + 2), tl.load(tile + 3)
    tokens = tl.arange(0, TOKENS_BLOCK)
    dims = tl.arange(0, DIM_BLOCK)
    wanted = tokens < count
    inside = wanted[:, None] & (dims < HEAD_DIM)[None, :]
    positions = position + tokens
    table = table_ptr + row.to(tl.int64) * table_stride
    block = tl.load(table + positions // BLOCK_SIZE, mask=wanted, other=0).to(tl.int64)
    offset = positions % BLOCK_SIZE
    page = elements_ptr + layer * LAYER_STRIDE + is_value * KV_STRIDE + head * PAGE_STRIDE
    rows = page + block * BLOCK_STRIDE + offset * HEAD_DIM
    elements = tl.load(rows[:, None] + dims[None, :], mask=inside, other=0)
    if IS_FP8:
        first = scales_ptr + layer * LAYER_SCALES + is_value * KV_SCALES + head * PAGE_SCALES + SCALES_OFFSET
        scale = usable_scale(tl.load(first + block * BLOCK_SCALES + offset, mask=wanted, other=0.0), MAX_SCALE)
        values = from_e4m3(elements, tl.float32, NATIVE_E4M3) * scale[:, None]
    else:
        values = elements.to(tl.float32)
    place = out_ptr + is_value.to(tl.int64) * out_kv_stride + head * HEAD_DIM
    places = place + (target + tokens).to(tl.int64)[:, None] * (KV_HEADS * HEAD_DIM) + dims[None, :]
    tl.store(places, values.to(out_ptr.dtype.element_ty), mask=inside)
