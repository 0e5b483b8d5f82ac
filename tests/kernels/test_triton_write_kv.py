"""Storing K and V by Triton: bytes and scales equal to the codec's, where the slots say and nowhere else."""

import pytest
import torch

from kernels.kv_codec.e4m3 import MIN_SCALE, encode
from kernels.triton.pages import PageGeometry
from kernels.triton.write_kv import write_kv
from kvstore.layout import BlockLayout
from tests.kernels.attention_cases import Rows, random_heads
from tests.kernels.triton_cases import Heads, case
from tests.kernels.triton_device import DEVICE

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
KV_DTYPES = [torch.float8_e4m3fn, *DTYPES]


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads", [Heads(6, 3, 80), Heads(2, 1, 128)], ids=str)
def test_stored_bytes_are_the_oracles_and_no_others_change(
    heads: Heads, dtype: torch.dtype, kv_dtype: torch.dtype
) -> None:
    step = case(Rows([0, 15, 16], [3, 2, 1]), heads, dtype, kv_dtype)
    pool = step.pool.to(DEVICE)
    pages = PageGeometry.of(step.layout.pages(pool))
    write_kv(pages, 1, step.k.to(DEVICE), step.v.to(DEVICE), step.batch.write_slots.to(DEVICE))
    _, want = step.expected(1, [None, None])
    assert torch.equal(pool.cpu(), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_any_size_are_quantised_to_the_oracles_bytes(dtype: torch.dtype) -> None:
    """From rows below the smallest scale to the largest that hold a number, with zeros, subnormal codes and ties."""
    step = case(Rows([0], [14]), Heads(2, 1, 64), dtype, torch.float8_e4m3fn)
    sizes = torch.tensor([0.0, 1e-38, 1e-30, 1e-7, 1e-3, 0.3, 1.0, 7.0, 448.0, 3e4, 5e4, 1.1e5, 1e-2, 1e2])
    rows = random_heads(14, 1, 64, torch.float32, 5) * sizes[:, None, None]
    # Halfway between neighbouring codes at a scale of one: to even.
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    rows[6, 0, :62], rows[6, 0, 62:] = (codes[1:63] + codes[:62]) / 2, 448.0
    rows[7, 0, :62], rows[7, 0, 62:] = -(codes[64:126] + codes[63:125]) / 2, 448.0
    k = v = rows.to(dtype)
    if dtype == torch.float16:
        k = v = rows.clamp(-65504, 65504).to(dtype)
    expected = step.pool.clone()
    pages = step.layout.pages(expected)
    for token, slot in enumerate(step.batch.write_slots.tolist()):
        for index, row in enumerate((k[token], v[token])):
            encoded, scales = encode(row)
            pages.elements[slot // 16, 0, index, :, slot % 16] = encoded
            assert pages.scales is not None
            pages.scales[slot // 16, 0, index, :, slot % 16] = scales
    pool = step.pool.to(DEVICE)
    geometry = PageGeometry.of(step.layout.pages(pool))
    write_kv(geometry, 0, k.to(DEVICE), v.to(DEVICE), step.batch.write_slots.to(DEVICE))
    assert torch.equal(pool.cpu(), expected)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_a_row_that_holds_no_number_reads_back_as_none(broken: float) -> None:
    layout = BlockLayout(1, 1, 32, 16, torch.float8_e4m3fn)
    pool = layout.allocate(1, DEVICE)
    k = random_heads(1, 1, 32, torch.float32, 1)
    v = k.clone()
    v[0, 0, 3] = broken
    write_kv(PageGeometry.of(layout.pages(pool)), 0, k.to(DEVICE), v.to(DEVICE), torch.tensor([5], device=DEVICE))
    scales = layout.pages(pool.cpu()).scales
    assert scales is not None
    assert MIN_SCALE < scales[0, 0, 0, 0, 5] < 1
    assert not scales[0, 0, 1, 0, 5] <= 255


def test_a_token_without_a_slot_is_stored_nowhere() -> None:
    layout = BlockLayout(1, 2, 16, 16, torch.bfloat16)
    pool = layout.allocate(3, DEVICE)
    k = torch.ones(3, 2, 16, dtype=torch.bfloat16, device=DEVICE)
    write_kv(PageGeometry.of(layout.pages(pool)), 0, k, k, torch.tensor([-1, 20, -1], device=DEVICE))
    keys = layout.kv_view(pool)[:, 0, 0]
    assert torch.equal(keys[1, :, 4], k[0])
    keys[1, :, 4] = 0
    assert not keys.any()
