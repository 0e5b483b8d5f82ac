"""What the native backend promises beyond the others: results that nothing else in the step can change, the codec's
bytes, and a way out where the kernels cannot be had."""

import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.attention import choice
from kernels.attention.choice import choose_attention
from kernels.attention.native import NativeAttention
from kernels.attention.reference import ReferenceAttention
from kernels.cpu.library import KernelsUnavailable
from kernels.kv_codec.e4m3 import E4M3_MAX, encode
from kvstore.layout import BlockLayout
from tests.kernels.attention_cases import (
    CPU,
    NATIVE,
    Rows,
    backend_of,
    kernels_of,
    make_batch,
    random_heads,
    random_pool,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
KV_DTYPES = [*DTYPES, torch.float8_e4m3fn]


@pytest.fixture(params=[1, 2])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield int(request.param)
    torch.set_num_threads(before)


def attended_in_steps(
    name: str,
    dtype: torch.dtype,
    layout: BlockLayout,
    window: int | None,
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    cuts: list[int],
    beside: int,
) -> torch.Tensor:
    """A prompt's results, its tokens computed in the steps that `cuts` bound, each beside another row or none."""
    num_tokens = len(heads[0])
    per_row = -(-num_tokens // layout.block_size)
    backend = backend_of(name, layout.pages(random_pool(layout, 2 * per_row, 1)), [window], dtype)
    parts = []
    for start, stop in zip([0, *cuts], [*cuts, num_tokens], strict=True):
        starts, counts = [start], [stop - start]
        if beside:
            starts, counts = [beside, start], [1, stop - start]
        # With the same number of rows and blocks per row, the row finds its blocks of the step before.
        batch = make_batch(Rows(starts, counts), layout.block_size, 2 * per_row, 7 + bool(beside), per_row)
        extra = batch.num_tokens - (stop - start)
        q, k, v = (torch.cat((tensor[:extra], tensor[start:stop])) for tensor in heads)
        parts.append(backend.run(q, k, v, 0, backend.plan(batch))[extra:])
    return torch.cat(parts)


@pytest.mark.parametrize("name", NATIVE)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    num_tokens=st.sampled_from([1, 40, 513, 700, 1200]),
    num_cuts=st.integers(0, 4),
    beside=st.sampled_from([0, 1, 600]),
    window=st.sampled_from([None, 5, 300]),
    shape=st.sampled_from([(4, 2, 16), (9, 3, 64), (3, 1, 80), (16, 2, 128)]),
    block_size=st.sampled_from([5, 16, 48]),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(KV_DTYPES),
    seed=st.integers(0, 1000),
)
def test_a_result_is_the_same_to_the_bit_in_any_batch_and_in_any_chunks(
    name: str,
    num_tokens: int,
    num_cuts: int,
    beside: int,
    window: int | None,
    shape: tuple[int, int, int],
    block_size: int,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    seed: int,
) -> None:
    num_heads, kv_heads, head_dim = shape
    layout = BlockLayout(1, kv_heads, head_dim, block_size, kv_dtype)
    merged = random_heads(num_tokens, num_heads + 2 * kv_heads, head_dim, dtype, seed)
    q, k, v = merged.split((num_heads, kv_heads, kv_heads), dim=1)
    cuts = sorted(random.Random(seed).sample(range(1, num_tokens), min(num_cuts, num_tokens - 1)))
    whole = attended_in_steps(name, dtype, layout, window, (q, k, v), [], 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 + seed % 2)
        again = attended_in_steps(name, dtype, layout, window, (q, k, v), cuts, min(beside, num_tokens - 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("group", [1, 2, 3, 8, 16])
def test_a_token_alone_has_the_bits_that_it_has_in_a_chunk(name: str, kv_dtype: torch.dtype, group: int) -> None:
    """Few queries and many go through the kernels in different layouts."""
    num_tokens, first_alone = 640, 600
    layout = BlockLayout(1, 1, 64, 16, kv_dtype)
    merged = random_heads(num_tokens, group + 2, 64, torch.bfloat16, group)
    q, k, v = merged.split((group, 1, 1), dim=1)
    chunk = attended_in_steps(name, torch.bfloat16, layout, None, (q, k, v), [], 0)
    alone = attended_in_steps(name, torch.bfloat16, layout, None, (q, k, v), list(range(first_alone, num_tokens)), 0)
    assert torch.equal(alone, chunk)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize(
    ("group", "head_dim"), [(1, 32), (2, 192), (3, 80), (4, 256), (5, 96), (8, 64), (12, 128), (16, 80)]
)
def test_single_tokens_give_to_the_bit_what_their_prompt_gives(
    name: str, kv_dtype: torch.dtype, group: int, head_dim: int
) -> None:
    num_tokens = 600
    layout = BlockLayout(1, 2, head_dim, 16, kv_dtype)
    merged = random_heads(num_tokens, 2 * group + 4, head_dim, torch.bfloat16, group)
    q, k, v = merged.split((2 * group, 2, 2), dim=1)
    window = 200 if group % 2 else None
    whole = attended_in_steps(name, torch.bfloat16, layout, window, (q, k, v), [], 0)
    # Two tokens, of which some tiles have columns to spare, then one at a time over the end of a split.
    cuts = [30, 32, 508, *range(509, 516), 599]
    again = attended_in_steps(name, torch.bfloat16, layout, window, (q, k, v), cuts, 0)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_one_long_row_is_cut_between_threads(name: str, kv_dtype: torch.dtype, num_threads: int) -> None:
    assert torch.get_num_threads() == num_threads
    layout = BlockLayout(1, 1, 64, 16, kv_dtype)
    batch = make_batch(Rows([5000], [3]), 16, 400, seed=2)
    q, k, v = (random_heads(3, heads, 64, torch.float32, heads) for heads in (2, 1, 1))
    oracle = ReferenceAttention(layout.pages(random_pool(layout, 400, 3)), [None])
    backend = backend_of(name, layout.pages(random_pool(layout, 400, 3)), [None], torch.float32)
    want = oracle.run(q, k, v, 0, oracle.plan(batch))
    plan = backend.plan(batch)
    for _ in range(3):
        assert torch.allclose(backend.run(q, k, v, 0, plan), want, atol=2e-5, rtol=2e-5)


def stored_by(name: str, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 [rows, head_dim] and scales [rows] after the backend has written `rows` as K."""
    layout = BlockLayout(1, 1, rows.shape[1], 16, torch.float8_e4m3fn)
    num_blocks = -(-len(rows) // 16)
    pool = layout.allocate(num_blocks, CPU)
    pages = layout.pages(pool)
    backend = backend_of(name, pages, [None], rows.dtype)
    heads = rows[:, None]
    batch = make_batch(Rows([0], [len(rows)]), 16, num_blocks, seed=0)
    backend.run(torch.zeros_like(heads), heads, heads, 0, backend.plan(batch))
    assert pages.scales is not None
    where = batch.write_slots // 16, batch.write_slots % 16
    keys, values = (pages.elements[:, 0, part, 0].view(torch.uint8)[where] for part in (0, 1))
    assert torch.equal(keys, values)
    return keys, pages.scales[:, 0, 0, 0][where]


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_stored_as_the_codec_says_to_the_bit(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 64, generator=generator) * torch.rand(600, 64, generator=generator) ** 6
    rows *= 2.0 ** torch.randint(-140, 17, (600, 1), generator=generator)
    rows[torch.rand(rows.shape, generator=generator) < 0.05] = 0.0
    # 448 makes the scale 1, so these are all codes and the middles between them.
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(448.0).view(4, 64)
    middles = (codes + codes.roll(-1, dims=1)) / 2
    rows = torch.cat((rows.clamp(-65504, 65504), codes, middles)).to(dtype)
    rows[600:, 0] = 448.0
    rows[3] = 0.0
    rows[4] = -0.0
    want_codes, want_scales = encode(rows)
    got_codes, got_scales = stored_by(name, rows)
    assert torch.equal(got_codes, want_codes.view(torch.uint8))
    assert torch.equal(got_scales.view(torch.int16), want_scales.view(torch.int16))


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("head_dim", [8, 24, 64, 136])
def test_what_is_stored_alone_is_what_a_step_stores(name: str, kv_dtype: torch.dtype, head_dim: int) -> None:
    layout = BlockLayout(1, 2, head_dim, 5, kv_dtype)
    q, k, v = (random_heads(17, heads, head_dim, torch.bfloat16, heads) for heads in (4, 2, 2))
    pools = []
    for alone in (False, True):
        pool = layout.allocate(8, CPU).zero_()
        backend = backend_of(name, layout.pages(pool), [None], torch.bfloat16)
        assert isinstance(backend, NativeAttention)
        plan = backend.plan(make_batch(Rows([0, 0], [10, 7]), 5, 8, seed=0))
        if alone:
            backend.store(k, v, 0, plan)
        else:
            backend.run(q, k, v, 0, plan)
        pools.append(pool)
    assert pools[0].any()
    assert torch.equal(*pools)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), E4M3_MAX * 256])
def test_a_row_that_holds_no_number_is_seen_by_its_own_sequence_only(name: str, bad: float) -> None:
    layout = BlockLayout(1, 1, 16, 16, torch.float8_e4m3fn)
    for dtype in (torch.float32, torch.bfloat16):
        backend = backend_of(name, layout.pages(layout.allocate(8, CPU)), [None], dtype)
        batch = make_batch(Rows([0, 0], [20, 20]), 16, 8, seed=0)
        q, k, v = (random_heads(40, heads, 16, dtype, heads) for heads in (2, 1, 1))
        k[5, 0, 3] = bad
        out = backend.run(q, k, v, 0, backend.plan(batch))
        assert not out[5:20].isfinite().any()
        assert out[:5].isfinite().all()
        assert out[20:].isfinite().all()


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_code_is_read_as_the_format_defines_it(name: str, dtype: torch.dtype) -> None:
    """A token that attends to itself alone returns its V: all codes, subnormals and both zeros among them."""
    layout = BlockLayout(1, 1, 256, 1, torch.float8_e4m3fn)
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(448.0)
    heads = codes.to(dtype).view(1, 1, 256)
    backend = backend_of(name, layout.pages(layout.allocate(1, CPU)), [None], dtype)
    out = backend.run(torch.ones_like(heads), heads, heads, 0, backend.plan(make_batch(Rows([0], [1]), 1, 1, seed=0)))
    assert torch.equal(out[0, 0].float(), codes)


def test_the_native_backend_is_the_choice_on_the_cpu() -> None:
    layout = BlockLayout(1, 1, 16, 16, torch.float8_e4m3fn)
    assert choose_attention(layout.pages(layout.allocate(1, CPU)), [None], torch.bfloat16).name.startswith("cpu-")


def test_where_the_kernels_cannot_be_had_torch_attends_and_the_log_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(_isa: str) -> None:
        raise KernelsUnavailable("no C++ compiler was found")

    monkeypatch.setattr(choice, "load_kernels", missing)
    layout = BlockLayout(1, 1, 16, 16, torch.bfloat16)
    pages = layout.pages(layout.allocate(1, CPU))
    assert choose_attention(pages, [None], torch.bfloat16).name == "torch"
    assert "no C++ compiler was found" in caplog.text
    with pytest.raises(ValueError, match=r"'cpu' cannot be had: no C\+\+ compiler"):
        choose_attention(pages, [None], torch.bfloat16, "cpu")


def test_a_head_size_that_the_kernels_do_not_know_goes_to_torch(caplog: pytest.LogCaptureFixture) -> None:
    layout = BlockLayout(1, 1, 12, 16, torch.bfloat16)
    assert choose_attention(layout.pages(layout.allocate(1, CPU)), [None], torch.bfloat16).name == "torch"
    assert "head_dim 12 is not a multiple of 8" in caplog.text


def test_instruction_sets_are_apart() -> None:
    """A backend keeps the instruction set that it was built with, whatever is loaded later."""
    assert [kernels_of(name.removeprefix("cpu-")).isa for name in NATIVE] == [
        name.removeprefix("cpu-") for name in NATIVE
    ]


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_what_is_kept_for_a_prompts_chunks_is_of_this_layer_row_and_step(
    name: str, kv_dtype: torch.dtype, num_threads: int
) -> None:
    """Rows of the same length, layers and steps of one plan, and pages that change between two steps."""
    assert torch.get_num_threads() == num_threads
    layout, rows = BlockLayout(2, 2, 64, 16, kv_dtype), Rows([600, 600], [300, 300])
    batch = make_batch(rows, 16, 120, seed=5)
    q, k, v = (random_heads(600, heads, 64, torch.bfloat16, heads) for heads in (6, 2, 2))
    pool = random_pool(layout, 120, 0)
    backend = backend_of(name, layout.pages(pool), [None, None], torch.bfloat16)
    plan = backend.plan(batch)
    for seed in (0, 1):
        pool.copy_(random_pool(layout, 120, seed))
        oracle = ReferenceAttention(layout.pages(pool.clone()), [None, None])
        for layer in (0, 1, 0):
            got = backend.run(q, k, v, layer, plan)
            assert torch.allclose(got, oracle.run(q, k, v, layer, oracle.plan(batch)), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", NATIVE)
def test_a_context_of_more_splits_than_a_thread_keeps_gives_the_same_results(name: str) -> None:
    num_tokens, first = 3100, 2900
    layout = BlockLayout(1, 1, 512, 16, torch.bfloat16)
    merged = random_heads(num_tokens, 4, 512, torch.bfloat16, 1)
    q, k, v = merged.split((2, 1, 1), dim=1)
    whole = attended_in_steps(name, torch.bfloat16, layout, None, (q, k, v), [first], 0)
    alone = attended_in_steps(name, torch.bfloat16, layout, None, (q, k, v), [first, first + 5, first + 6], 0)
    assert torch.equal(alone, whole)


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize(("group", "window"), [(1, None), (5, 200), (12, None)])
def test_scores_that_grow_along_the_context_give_the_same_bits_alone_and_in_a_chunk(
    name: str, kv_dtype: torch.dtype, group: int, window: int | None
) -> None:
    """Softmax goes by chunks of tokens, and what has been added up is put right where a later score is far higher."""
    num_tokens, head_dim = 700, 64
    layout = BlockLayout(1, 1, head_dim, 16, kv_dtype)
    merged = random_heads(num_tokens, group + 2, head_dim, torch.bfloat16, group)
    q, k, v = merged.split((group, 1, 1), dim=1)
    k = k * torch.linspace(0.1, 12, num_tokens)[:, None, None].bfloat16()
    whole = attended_in_steps(name, torch.bfloat16, layout, window, (q, k, v), [], 0)
    cuts = [100, 101, 260, *range(508, 516), 640, 641, 699]
    assert torch.equal(attended_in_steps(name, torch.bfloat16, layout, window, (q, k, v), cuts, 0), whole)
    exact = attended_in_steps(name, torch.float32, layout, window, (q.float(), k.float(), v.float()), [], 0)
    assert torch.allclose(whole.float(), exact, atol=0.06, rtol=0.06)
