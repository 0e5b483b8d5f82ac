"""Sizes and offsets of block records."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvstore.layout import RECORD_ALIGNMENT_BYTES, BlockLayout

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
DTYPES = [torch.bfloat16, torch.float16, torch.float32, FP8]

layouts = st.builds(
    BlockLayout,
    num_layers=st.integers(1, 5),
    num_kv_heads=st.integers(1, 4),
    head_dim=st.sampled_from([2, 7, 8, 16, 80]),
    block_size=st.sampled_from([1, 3, 8, 16]),
    dtype=st.sampled_from(DTYPES),
)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 2 * 1024 * 1024), (FP8, 1024 * 1024 + 16 * 1024)])
def test_a_known_model_has_the_known_size(dtype: torch.dtype, size: int) -> None:
    # Llama-3-8B, 16 tokens: 32 layers * 2 * 8 heads * 16 tokens * 128 elements, and as many scales without the last.
    layout = BlockLayout(num_layers=32, num_kv_heads=8, head_dim=128, block_size=16, dtype=dtype)
    assert layout.block_bytes == layout.payload_bytes == size
    assert layout.layer_bytes == size // 32


@given(layouts)
def test_records_are_aligned_and_hold_the_payload(layout: BlockLayout) -> None:
    assert layout.block_bytes % RECORD_ALIGNMENT_BYTES == 0
    assert 0 <= layout.block_bytes - layout.payload_bytes < RECORD_ALIGNMENT_BYTES * layout.num_pages


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [48, 64, 80, 96, 112, 120, 128, 256])
@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8])
def test_common_shapes_need_no_padding(dtype: torch.dtype, head_dim: int, heads: int) -> None:
    for block_size in (16, 32, 64):
        for num_layers in (1, 5, 28, 30):
            layout = BlockLayout(num_layers, heads, head_dim, block_size, dtype)
            assert layout.block_bytes == layout.payload_bytes


@given(layouts, st.data())
def test_views_and_offsets_name_the_same_bytes(layout: BlockLayout, data: st.DataObject) -> None:
    pool = layout.allocate(3, CPU)
    block = data.draw(st.integers(0, 2))
    layer = data.draw(st.integers(0, layout.num_layers - 1))
    head = data.draw(st.integers(0, layout.num_kv_heads - 1))
    token = data.draw(st.integers(0, layout.block_size - 1))
    is_value = data.draw(st.booleans())
    one = torch.ones(layout.head_dim).to(layout.dtype)
    pages = layout.pages(pool)
    pages.elements[block, layer, int(is_value), head, token] = one
    offset = layout.offset_bytes(layer, is_value, head, token)
    size = layout.head_dim * layout.dtype.itemsize
    assert pool[block, offset : offset + size].tolist() == one.view(torch.uint8).tolist()
    pool[block, offset : offset + size] = 0
    assert not pool.any()
    assert (pages.scales is not None) == (layout.dtype == FP8)
    if pages.scales is not None:
        pages.scales[block, layer, int(is_value), head, token] = 1.0
        offset = layout.scale_offset_bytes(layer, is_value, head, token)
        assert pool[block, offset : offset + 2].tolist() == [0x80, 0x3F]
        pool[block, offset : offset + 2] = 0
        assert not pool.any()


@given(layouts)
def test_no_two_elements_or_scales_share_a_byte(layout: BlockLayout) -> None:
    taken: set[int] = set()
    size = layout.head_dim * layout.dtype.itemsize
    for layer in range(layout.num_layers):
        for is_value in (False, True):
            for head in range(layout.num_kv_heads):
                for token in range(layout.block_size):
                    spans = [(layout.offset_bytes(layer, is_value, head, token), size)]
                    if layout.has_scales:
                        spans.append((layout.scale_offset_bytes(layer, is_value, head, token), 2))
                    for start, length in spans:
                        span = set(range(start, start + length))
                        assert not span & taken
                        taken |= span
    assert max(taken) < layout.block_bytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_block_is_one_contiguous_record(dtype: torch.dtype) -> None:
    layout = BlockLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=8, dtype=dtype)
    pool = layout.allocate(4, CPU)
    pages = layout.pages(pool)
    pages.elements[1] = torch.full_like(pages.elements[1], 5.0)
    if pages.scales is not None:
        pages.scales[1] = 0.5
    pool[3] = pool[1]
    assert torch.equal(pages.elements[3].float(), pages.elements[1].float())
    assert pages.scales is None or torch.equal(pages.scales[3], pages.scales[1])
    assert not pool[2].any()


def test_scale_modes_name_what_the_records_hold() -> None:
    assert BlockLayout(1, 1, 8, 8, torch.bfloat16).scale_mode == "none"
    assert BlockLayout(1, 1, 8, 8, FP8).scale_mode == "token-head-bf16"


def test_a_foreign_pool_is_refused() -> None:
    layout = BlockLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"uint8\[num_blocks, 1024\], not torch.uint8\[2, 512\]"):
        layout.kv_view(torch.zeros(2, 512, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["num_layers", "num_kv_heads", "head_dim", "block_size"])
def test_a_size_below_one_is_refused(name: str) -> None:
    sizes = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 1, "block_size": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        BlockLayout(dtype=torch.float32, **sizes)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e5m2])
def test_another_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"not {dtype}"):
        BlockLayout(1, 1, 8, 8, dtype)
