"""Decode attention by Triton: against the oracle, around the borders of splits and pages, and alone as in a batch."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.triton.decode_attention import decode_attention
from kernels.triton.pages import PageGeometry
from kernels.triton.splits import KEYS_BLOCK, MAX_SPLITS, SPLIT_TOKENS, max_splits_of
from tests.kernels.attention_cases import Rows
from tests.kernels.triton_cases import Case, Heads, case, is_close
from tests.kernels.triton_device import DEVICE

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
KV_DTYPES = [torch.float8_e4m3fn, *DTYPES]
NATIVE_OR_BITS = [True, False]


def decoded(
    step: Case, window: int | None, rows: list[int] | None = None, max_context: int | None = None
) -> torch.Tensor:
    """The kernel's result for these rows, or all, after the step's K and V have been stored by the oracle."""
    numbers = list(range(len(step.batch.context_lens))) if rows is None else rows
    pool = step.expected(1, [window, window])[1].to(DEVICE)
    q = step.q.to(DEVICE)
    out = torch.full(q.shape, float("nan"), dtype=q.dtype, device=DEVICE)
    contexts = [step.batch.context_lens[row] for row in numbers]
    index = torch.tensor(numbers, dtype=torch.int32, device=DEVICE)
    decode_attention(
        PageGeometry.of(step.layout.pages(pool)),
        1,
        q,
        out,
        index,
        index,
        torch.tensor(contexts, dtype=torch.int32, device=DEVICE),
        step.batch.block_table.to(DEVICE),
        max_context or max(contexts),
        window,
    )
    return out[numbers]


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 70])
def test_ragged_rows_equal_the_oracle(dtype: torch.dtype, kv_dtype: torch.dtype, window: int | None) -> None:
    step = case(Rows([0, 300, 40, 17], [1] * 4), Heads(6, 2, 64), dtype, kv_dtype, seed=1)
    want, _ = step.expected(1, [window, window])
    assert is_close(decoded(step, window), want, step.layout.dtype)


@pytest.mark.parametrize(
    "heads", [Heads(2, 2, 64), Heads(3, 1, 96), Heads(8, 2, 128), Heads(8, 1, 80), Heads(20, 1, 16)], ids=str
)
@pytest.mark.parametrize("kv_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_any_group_and_size_of_heads_equals_the_oracle(heads: Heads, kv_dtype: torch.dtype) -> None:
    step = case(Rows([261, 30], [1, 1]), heads, torch.bfloat16, kv_dtype, seed=2)
    want, _ = step.expected(1, [None, None])
    assert is_close(decoded(step, None), want, step.layout.dtype)


BORDERS = sorted({edge + step for edge in (16, KEYS_BLOCK, SPLIT_TOKENS, 2 * SPLIT_TOKENS) for step in (-1, 0, 1)})


@pytest.mark.parametrize("window", [None, 1, 33, SPLIT_TOKENS])
def test_contexts_at_the_borders_of_pages_and_splits_equal_the_oracle(window: int | None) -> None:
    step = case(Rows([n - 1 for n in BORDERS], [1] * len(BORDERS)), Heads(2, 1, 16), torch.float32, torch.float32)
    want, _ = step.expected(1, [window, window])
    assert is_close(decoded(step, window), want, step.layout.dtype)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    starts=st.lists(st.integers(0, 600), min_size=1, max_size=5),
    block_size=st.sampled_from([3, 8, 16, 32]),
    window=st.sampled_from([None, 5, 100, 1000]),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(KV_DTYPES),
    seed=st.integers(0, 1000),
)
def test_random_rows_in_pages_of_any_size_equal_the_oracle(
    starts: list[int], block_size: int, window: int | None, dtype: torch.dtype, kv_dtype: torch.dtype, seed: int
) -> None:
    step = case(Rows(starts, [1] * len(starts)), Heads(4, 2, 32), dtype, kv_dtype, block_size=block_size, seed=seed)
    want, _ = step.expected(1, [window, window])
    assert is_close(decoded(step, window), want, step.layout.dtype)


@pytest.mark.parametrize("kv_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
@pytest.mark.parametrize("window", [None, 300])
def test_a_row_alone_gets_the_bits_that_it_gets_in_a_batch(kv_dtype: torch.dtype, window: int | None) -> None:
    step = case(Rows([520, 200, 255, 3], [1] * 4), Heads(4, 2, 64), torch.bfloat16, kv_dtype, seed=4)
    together = decoded(step, window)
    for row in range(4):
        assert torch.equal(decoded(step, window, [row])[0], together[row])
        # And where a captured launch covers longer contexts.
        assert torch.equal(decoded(step, window, [row], max_context=2000)[0], together[row])


def test_longer_splits_take_over_where_a_row_would_have_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("kernels.triton.decode_attention", "kernels.triton.splits"):
        monkeypatch.setattr(f"{module}.SPLIT_TOKENS", KEYS_BLOCK)
        monkeypatch.setattr(f"{module}.MAX_SPLITS", 4)
    starts = [100, 127, 128, 129, 700]
    step = case(Rows(starts, [1] * 5), Heads(2, 1, 16), torch.float32, torch.float32, seed=5)
    want, _ = step.expected(1, [None, None])
    assert is_close(decoded(step, None), want, step.layout.dtype)


@pytest.mark.parametrize("window", [None, 1, 100, SPLIT_TOKENS, 20_000])
def test_the_grid_covers_every_split_of_any_row(window: int | None) -> None:
    for context in [1, SPLIT_TOKENS, SPLIT_TOKENS + 1, 16_384, 16_385, 131_072]:
        first = 0 if window is None else max(context - window, 0) // KEYS_BLOCK * KEYS_BLOCK
        length = max(-(-(context - first) // (MAX_SPLITS * SPLIT_TOKENS)), 1) * SPLIT_TOKENS
        assert -(-(context - first) // length) <= max_splits_of(context, window) <= MAX_SPLITS


@pytest.mark.parametrize("longest", [10, 2000], ids=["one split", "several splits"])
def test_a_row_that_is_padding_gets_zeros_and_reads_nothing(longest: int) -> None:
    step = case(Rows([9, 9], [1, 1]), Heads(2, 1, 16), torch.float32, torch.float32)
    pool = step.expected(1, [None, None])[1].to(DEVICE)
    q = step.q.to(DEVICE)
    out = torch.full(q.shape, float("nan"), device=DEVICE)
    index = torch.arange(2, dtype=torch.int32, device=DEVICE)
    table = step.batch.block_table.clone().to(DEVICE)
    # Far outside of the pool.
    table[1] = 1 << 30
    contexts = torch.tensor([10, 0], dtype=torch.int32, device=DEVICE)
    decode_attention(PageGeometry.of(step.layout.pages(pool)), 1, q, out, index, index, contexts, table, longest, None)
    assert is_close(out[:1], step.expected(1, [None, None])[0][:1], step.layout.dtype)
    assert not out[1].any()


@pytest.mark.parametrize("is_native", NATIVE_OR_BITS)
def test_both_ways_to_decode_fp8_equal_the_oracle(is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.triton.decode_attention.has_native_e4m3", lambda _: is_native)
    step = case(Rows([60], [1]), Heads(2, 1, 64), torch.float32, torch.float8_e4m3fn, seed=6)
    want, _ = step.expected(1, [None, None])
    assert is_close(decoded(step, None), want, step.layout.dtype)


def test_a_broken_row_of_fp8_is_seen_by_those_who_attend_to_it() -> None:
    step = case(Rows([20, 20], [1, 1]), Heads(2, 1, 64), torch.float32, torch.float8_e4m3fn, seed=7)
    step.v[0, 0, 5] = float("inf")
    got = decoded(step, None)
    assert not got[0].isfinite().any()
    assert got[1].isfinite().all()
