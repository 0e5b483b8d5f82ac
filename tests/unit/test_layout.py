"""Sizes and offsets of block records."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvstore.layout import RECORD_ALIGNMENT_BYTES, BlockLayout

CPU = torch.device("cpu")

layouts = st.builds(
    BlockLayout,
    num_layers=st.integers(1, 5),
    num_kv_heads=st.integers(1, 4),
    head_dim=st.sampled_from([2, 8, 16, 80]),
    block_size=st.sampled_from([1, 8, 16]),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)


def test_a_known_model_has_the_known_size() -> None:
    # Llama-3-8B, 16 tokens, bf16: 32 layers * 2 * 8 heads * 16 tokens * 128 * 2 bytes.
    layout = BlockLayout(num_layers=32, num_kv_heads=8, head_dim=128, block_size=16, dtype=torch.bfloat16)
    assert layout.block_bytes == layout.payload_bytes == 2 * 1024 * 1024
    assert layout.layer_bytes == 64 * 1024


@given(layouts)
def test_records_are_aligned_and_hold_the_payload(layout: BlockLayout) -> None:
    assert layout.block_bytes % RECORD_ALIGNMENT_BYTES == 0
    assert 0 <= layout.block_bytes - layout.payload_bytes < RECORD_ALIGNMENT_BYTES


@given(layouts, st.data())
def test_views_and_offsets_name_the_same_bytes(layout: BlockLayout, data: st.DataObject) -> None:
    pool = layout.allocate(3, CPU)
    block = data.draw(st.integers(0, 2))
    layer = data.draw(st.integers(0, layout.num_layers - 1))
    head = data.draw(st.integers(0, layout.num_kv_heads - 1))
    token = data.draw(st.integers(0, layout.block_size - 1))
    is_value = data.draw(st.booleans())
    layout.layer_views(pool)[layer][is_value][block, head, token] = 1.0
    offset = layout.offset_bytes(layer, is_value, head, token)
    size = layout.head_dim * layout.dtype.itemsize
    assert torch.equal(
        pool[block, offset : offset + size].view(layout.dtype), torch.ones(layout.head_dim).to(layout.dtype)
    )
    pool[block, offset : offset + size] = 0
    assert not pool.any()


def test_one_block_is_one_contiguous_record() -> None:
    layout = BlockLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=8, dtype=torch.bfloat16)
    pool = layout.allocate(4, CPU)
    kv = layout.kv_view(pool)
    kv[1] = 5.0
    pool[3] = pool[1]
    assert torch.equal(kv[3], kv[1])
    assert not kv[2].any()


def test_a_foreign_pool_is_refused() -> None:
    layout = BlockLayout(num_layers=2, num_kv_heads=2, head_dim=8, block_size=8, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"uint8\[num_blocks, 1024\], not torch.uint8\[2, 512\]"):
        layout.kv_view(torch.zeros(2, 512, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["num_layers", "num_kv_heads", "head_dim", "block_size"])
def test_a_size_below_one_is_refused(name: str) -> None:
    sizes = {"num_layers": 1, "num_kv_heads": 1, "head_dim": 1, "block_size": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0"):
        BlockLayout(dtype=torch.float32, **sizes)


def test_an_integer_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not torch\.int8"):
        BlockLayout(1, 1, 8, 8, torch.int8)
