"""Attention of prompt chunks by Triton, and its gathering of K and V, against the oracle."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.triton.pages import PageGeometry
from kernels.triton.prefill_attention import prefill_attention, prefill_tiles
from kernels.triton.read_kv import read_kv, read_tiles
from tests.kernels.attention_cases import Rows
from tests.kernels.triton_cases import Case, Heads, case, is_close
from tests.kernels.triton_device import DEVICE

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
KV_DTYPES = [torch.float8_e4m3fn, *DTYPES]


def attended(step: Case, window: int | None, rows: list[int] | None = None) -> torch.Tensor:
    """The kernel's result for these rows, or all, after the step's K and V have been stored by the oracle."""
    pool = step.expected(1, [window, window])[1].to(DEVICE)
    q = step.q.to(DEVICE)
    out = torch.full(q.shape, float("nan"), dtype=q.dtype, device=DEVICE)
    batch = step.batch
    chosen = range(len(batch.context_lens)) if rows is None else rows
    tiles = prefill_tiles(batch.query_starts, batch.context_lens, chosen, q.shape[1] // step.layout.num_kv_heads)
    geometry = PageGeometry.of(step.layout.pages(pool))
    on_device = torch.tensor(tiles, dtype=torch.int32, device=DEVICE)
    prefill_attention(geometry, 1, q, out, on_device, batch.block_table.to(DEVICE), window)
    return out


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 40])
def test_ragged_chunks_equal_the_oracle(dtype: torch.dtype, kv_dtype: torch.dtype, window: int | None) -> None:
    step = case(Rows([0, 100, 63], [70, 9, 2]), Heads(6, 2, 64), dtype, kv_dtype, seed=1)
    want, _ = step.expected(1, [window, window])
    assert is_close(attended(step, window), want, step.layout.dtype)


@pytest.mark.parametrize(
    "heads", [Heads(2, 2, 64), Heads(3, 1, 96), Heads(8, 2, 128), Heads(8, 1, 80), Heads(130, 1, 16)], ids=str
)
@pytest.mark.parametrize("kv_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_any_group_and_size_of_heads_equals_the_oracle(heads: Heads, kv_dtype: torch.dtype) -> None:
    step = case(Rows([50, 0], [30, 17]), heads, torch.bfloat16, kv_dtype, seed=2)
    want, _ = step.expected(1, [None, None])
    assert is_close(attended(step, None), want, step.layout.dtype)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(st.integers(0, 130), st.integers(1, 90)), min_size=1, max_size=3),
    block_size=st.sampled_from([3, 8, 16, 32]),
    window=st.sampled_from([None, 1, 64, 1000]),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(KV_DTYPES),
    seed=st.integers(0, 1000),
)
def test_random_chunks_in_pages_of_any_size_equal_the_oracle(
    rows: list[tuple[int, int]],
    block_size: int,
    window: int | None,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    seed: int,
) -> None:
    starts, counts = (list(column) for column in zip(*rows, strict=True))
    step = case(Rows(starts, counts), Heads(2, 1, 32), dtype, kv_dtype, block_size=block_size, seed=seed)
    want, _ = step.expected(1, [window, window])
    assert is_close(attended(step, window), want, step.layout.dtype)


@pytest.mark.parametrize("window", [None, 40])
def test_a_chunk_alone_gets_the_bits_that_it_gets_in_a_batch(window: int | None) -> None:
    step = case(Rows([0, 100, 7], [70, 50, 3]), Heads(4, 2, 64), torch.bfloat16, torch.float8_e4m3fn, seed=3)
    together = attended(step, window)
    for row in range(3):
        tokens = slice(*step.batch.query_starts[row : row + 2])
        alone = attended(step, window, [row])
        assert torch.equal(alone[tokens], together[tokens])
        assert alone.isnan().sum() == alone[0].numel() * (len(alone) - (tokens.stop - tokens.start))


def test_tiles_cover_each_token_once_and_those_that_see_most_come_first() -> None:
    starts, contexts = [0, 1, 400, 403], [9, 1000, 203]
    tiles = prefill_tiles(starts, contexts, [1, 2], group=3)
    covered = sorted(token for first, count, _, _ in tiles for token in range(first, first + count))
    assert covered == list(range(1, 403))
    for first, _, position, row in tiles:
        assert position - first == contexts[row] - starts[row + 1]
    seen = [position + count for _, count, position, _ in tiles]
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gathered_keys_and_values_are_the_stored_ones(dtype: torch.dtype, kv_dtype: torch.dtype) -> None:
    step = case(Rows([70, 5, 33], [1, 1, 1]), Heads(3, 3, 80), dtype, kv_dtype, seed=4)
    pool = step.expected(1, [None, None])[1]
    spans = [(0, 3, 71), (2, 0, 34)]
    tiles = torch.tensor(read_tiles(spans), dtype=torch.int32, device=DEVICE)
    out = torch.full((2, 102, 3, 80), float("nan"), dtype=dtype, device=DEVICE)
    geometry = PageGeometry.of(step.layout.pages(pool.to(DEVICE)))
    read_kv(geometry, 1, tiles, step.batch.block_table.to(DEVICE), out)
    pages = step.layout.pages(pool)
    for kv in (0, 1):
        rows = []
        for row, first, end in spans:
            positions = torch.arange(first, end)
            blocks = step.batch.block_table[row, positions // 16].long()
            elements = pages.elements[blocks, 1, kv, :, positions % 16].float()
            if pages.scales is not None:
                elements = elements * pages.scales[blocks, 1, kv, :, positions % 16].float()[..., None]
            rows.append(elements)
        assert torch.equal(out[kv].cpu(), torch.cat(rows).to(dtype))
