"""Every attention backend against the plain torch oracle, and the oracle against attention without pages."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.attention import choice
from kernels.attention.choice import choose_attention
from kernels.attention.reference import ReferenceAttention
from kernels.kv_codec.e4m3 import decode, encode
from kvstore.layout import BlockLayout
from tests.kernels.attention_cases import (
    BACKENDS,
    CPU,
    Rows,
    backend_of,
    make_batch,
    random_heads,
    random_pool,
    stored_at,
)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of the computation's dtype: bf16 and fp16 round the result, of size 1 or so, to 8 and 11 bits."""

KV_DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn]


@st.composite
def ragged_rows(draw: st.DrawFn) -> Rows:
    """Decode rows, first chunks and later chunks in any order."""
    decode = st.tuples(st.integers(0, 200), st.just(1))
    chunk = st.tuples(st.one_of(st.just(0), st.integers(1, 100)), st.integers(2, 90))
    rows = draw(st.lists(st.one_of(decode, decode, chunk), min_size=1, max_size=9))
    return Rows([start for start, _ in rows], [count for _, count in rows])


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=ragged_rows(),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1), (9, 3)]),
    head_dim=st.sampled_from([8, 16, 80]),
    block_size=st.sampled_from([3, 8, 16, 32]),
    windows=st.sampled_from([(None, None), (None, 5), (33, 16), (64, 1000)]),
    dtype=st.sampled_from(list(TOLERANCE)),
    kv_dtype=st.sampled_from(KV_DTYPES),
    seed=st.integers(0, 1000),
)
def test_every_backend_equals_the_oracle_on_ragged_batches(
    name: str,
    rows: Rows,
    heads: tuple[int, int],
    head_dim: int,
    block_size: int,
    windows: tuple[int | None, int | None],
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    seed: int,
) -> None:
    num_heads, num_kv_heads = heads
    layout = BlockLayout(len(windows), num_kv_heads, head_dim, block_size, kv_dtype)
    num_blocks = 9 * (-(-201 // block_size) + 1)
    batch = make_batch(rows, block_size, num_blocks, seed)
    # q, k and v are slices of one tensor, as the models pass them.
    merged = random_heads(batch.num_tokens, num_heads + 2 * num_kv_heads, head_dim, dtype, seed)
    q, k, v = merged.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    results, pools = [], []
    for backend_name in ("reference", name):
        pool = random_pool(layout, num_blocks, seed)
        backend = backend_of(backend_name, layout.pages(pool), windows, dtype)
        plan = backend.plan(batch)
        results.append([backend.run(q, k, v, layer, plan) for layer in range(len(windows))])
        pools.append(pool)
    for want, got in zip(*results, strict=True):
        assert got.shape == q.shape
        assert got.dtype == dtype
        assert torch.allclose(got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    want, got = (stored_at(layout, pool, batch.write_slots) for pool in pools)
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    starts=st.lists(st.integers(0, 150), min_size=1, max_size=9),
    num_steps=st.integers(2, 40),
    block_size=st.sampled_from([8, 16]),
    windows=st.sampled_from([(None, None), (None, 40), (1000, None)]),
    seed=st.integers(0, 1000),
)
def test_decode_steps_that_continue_one_another_equal_the_oracle(
    name: str, starts: list[int], num_steps: int, block_size: int, windows: tuple[int | None, int | None], seed: int
) -> None:
    layout = BlockLayout(2, 2, 16, block_size, torch.float32)
    per_row = -(-200 // block_size)
    pools = [random_pool(layout, 9 * per_row, seed) for _ in range(2)]
    oracle = ReferenceAttention(layout.pages(pools[0]), windows)
    backend = backend_of(name, layout.pages(pools[1]), windows, torch.float32)
    table: torch.Tensor | None = None
    for step in range(num_steps):
        rows = Rows([start + step for start in starts], [1] * len(starts))
        batch = make_batch(rows, block_size, 9 * per_row, seed, per_row)
        got_a_block = any((start + step) % block_size == 0 for start in starts)
        # The table is another object in a step in which a row gets a block, and in some others.
        table = batch.block_table if table is None or got_a_block or step % 7 == 3 else table
        batch = replace(batch, continues=step > 0, block_table=table)
        merged = random_heads(batch.num_tokens, 8, 16, torch.float32, seed + step)
        q, k, v = merged.split((4, 2, 2), dim=1)
        want_plan, got_plan = oracle.plan(batch), backend.plan(batch)
        for layer in range(2):
            want, got = oracle.run(q, k, v, layer, want_plan), backend.run(q, k, v, layer, got_plan)
            assert torch.allclose(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
def test_new_keys_and_values_are_stored_where_the_batch_says(name: str) -> None:
    layout = BlockLayout(3, 2, 16, 8, torch.float32)
    pool = layout.allocate(20, CPU)
    backend = backend_of(name, layout.pages(pool), [None] * 3, torch.float32)
    batch = make_batch(Rows([0, 5, 30], [19, 1, 1]), 8, 20, seed=3)
    q = random_heads(batch.num_tokens, 4, 16, torch.float32, 1)
    k = random_heads(batch.num_tokens, 2, 16, torch.float32, 2)
    v = random_heads(batch.num_tokens, 2, 16, torch.float32, 3)
    backend.run(q, k, v, 1, backend.plan(batch))
    written = torch.zeros(20, 8, dtype=torch.bool)
    for layer in range(3):
        keys, values = layout.kv_view(pool)[:, layer].unbind(1)
        for token, slot in enumerate(batch.write_slots.tolist()):
            written[slot // 8, slot % 8] = True
            expected_k, expected_v = (k[token], v[token]) if layer == 1 else (torch.zeros(2, 16),) * 2
            assert torch.equal(keys[slot // 8, :, slot % 8], expected_k)
            assert torch.equal(values[slot // 8, :, slot % 8], expected_v)
    everything = layout.kv_view(pool).permute(0, 4, 1, 2, 3, 5)
    assert not everything[~written].any()


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
@pytest.mark.parametrize("window", [None, 7])
def test_a_prompt_equals_dense_attention(name: str, window: int | None) -> None:
    layout = BlockLayout(1, 2, 16, 8, torch.float32)
    batch = make_batch(Rows([0], [29]), 8, 9, seed=0)
    q, k, v = (random_heads(29, heads, 16, torch.float32, heads) for heads in (4, 2, 2))
    backend = backend_of(name, layout.pages(layout.allocate(9, CPU)), [window], torch.float32)
    got = backend.run(q, k, v, 0, backend.plan(batch))
    distance = torch.arange(29)[:, None] - torch.arange(29)
    seen = (distance >= 0) & (distance < (window or 29))
    k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / 4.0
    want = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_chunks_give_what_one_pass_gives(name: str, kv_dtype: torch.dtype) -> None:
    layout = BlockLayout(1, 2, 16, 16, kv_dtype)
    q, k, v = (random_heads(100, heads, 16, torch.float32, heads) for heads in (4, 2, 2))
    whole_batch = make_batch(Rows([0], [100]), 16, 9, seed=5)
    backend = backend_of(name, layout.pages(layout.allocate(9, CPU)), [None], torch.float32)
    whole = backend.run(q, k, v, 0, backend.plan(whole_batch))
    backend = backend_of(name, layout.pages(layout.allocate(9, CPU)), [None], torch.float32)
    parts = []
    for start, stop in ((0, 1), (1, 38), (38, 39), (39, 96), (96, 100)):
        batch = make_batch(Rows([start], [stop - start]), 16, 9, seed=5)
        parts.append(backend.run(q[start:stop], k[start:stop], v[start:stop], 0, backend.plan(batch)))
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_what_an_earlier_owner_left_in_a_block_reaches_nobody(name: str, kv_dtype: torch.dtype) -> None:
    layout = BlockLayout(2, 2, 16, 8, kv_dtype)
    pool = layout.allocate(12, CPU)
    # All bits set are NaN in every type, scales included.
    pool.fill_(255)
    backend = backend_of(name, layout.pages(pool), [None, 4], torch.float32)
    for starts, counts in (([0, 0, 0], [17, 3, 8]), ([17, 3, 8], [1, 1, 1]), ([18, 4, 9], [4, 1, 1])):
        # With the same seed and number of blocks per row, each step finds the blocks of the one before.
        batch = make_batch(Rows(starts, counts), 8, 12, seed=1, blocks_per_row=3)
        q = random_heads(batch.num_tokens, 4, 16, torch.float32, 1)
        k = random_heads(batch.num_tokens, 2, 16, torch.float32, 2)
        plan = backend.plan(batch)
        for layer in (0, 1):
            assert backend.run(q, k, k, layer, plan).isfinite().all()


def test_an_unknown_backend_is_refused_by_name() -> None:
    layout = BlockLayout(1, 1, 8, 8, torch.float32)
    with pytest.raises(ValueError, match="'fast'; there are cpu, flash, triton, torch, reference"):
        choose_attention(layout.pages(layout.allocate(1, CPU)), [None], torch.float32, "fast")


@pytest.mark.parametrize(
    ("there", "chosen", "asked"),
    [
        ({"flash", "triton"}, "flash", ["flash"]),
        ({"triton"}, "triton", ["flash", "triton"]),
        (set(), "torch", ["flash", "triton"]),
    ],
    ids=["all", "no flash-attn", "neither"],
)
def test_on_cuda_flash_comes_before_triton_and_torch_is_last(
    there: set[str],
    chosen: str,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []

    def named(name: str, *_: object) -> object:
        seen.append(name)
        return SimpleNamespace(name=name) if name in there else f"{name} is not installed"

    monkeypatch.setattr(choice, "_named", named)
    monkeypatch.setattr(choice, "TorchAttention", lambda *_: SimpleNamespace(name="torch"))
    pages: Any = SimpleNamespace(data=SimpleNamespace(device=torch.device("cuda")))
    assert choose_attention(pages, [None], torch.bfloat16).name == chosen
    assert seen == asked
    # That flash-attn is missing is no warning, that Triton is missing is one.
    assert ("triton is not installed" in caplog.text) == (chosen == "torch")


def test_backends_for_cuda_are_refused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = BlockLayout(1, 1, 16, 16, torch.bfloat16)
    pages = layout.pages(layout.allocate(1, CPU))
    with pytest.raises(ValueError, match="'flash' cannot be had: the pages are on cpu"):
        choose_attention(pages, [None], torch.bfloat16, "flash")
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    with pytest.raises(ValueError, match="'triton' cannot be had: the pages are on cpu"):
        choose_attention(pages, [None], torch.bfloat16, "triton")


def test_without_triton_its_backend_is_refused_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kernels.attention.triton", None)
    layout = BlockLayout(1, 1, 16, 16, torch.bfloat16)
    with pytest.raises(ValueError, match="'triton' cannot be had: triton does not load"):
        choose_attention(layout.pages(layout.allocate(1, CPU)), [None], torch.bfloat16, "triton")


@pytest.mark.parametrize("name", ["reference", *BACKENDS])
def test_a_step_reads_its_own_tokens_as_they_were_stored(name: str) -> None:
    """One token attends to itself alone, so the result is its V; with FP8 blocks that V has been through the codec."""
    layout = BlockLayout(1, 2, 16, 8, torch.float8_e4m3fn)
    backend = backend_of(name, layout.pages(layout.allocate(1, CPU)), [None], torch.float32)
    q, k, v = (random_heads(1, 2, 16, torch.float32, seed) for seed in range(3))
    out = backend.run(q, k, v, 0, backend.plan(make_batch(Rows([0], [1]), 8, 1, seed=0)))
    assert torch.equal(out, decode(*encode(v)))
    assert not torch.equal(out, v)


@pytest.mark.parametrize("tested", BACKENDS)
@pytest.mark.parametrize("num_contexts", [1, 3])
def test_long_contexts_are_read_to_their_end(tested: str, num_contexts: int) -> None:
    """4096 tokens are several chunks of torch's conversion, and several splits of the native kernels."""
    layout = BlockLayout(1, 2, 64, 16, torch.float8_e4m3fn)
    rows = Rows([4095] * num_contexts, [1] * num_contexts)
    batch = make_batch(rows, 16, 256 * num_contexts, seed=1)
    q = random_heads(num_contexts, 4, 64, torch.float32, 1) * 4
    k, v = (random_heads(num_contexts, 2, 64, torch.float32, seed) for seed in (2, 3))
    want, got = (
        backend.run(q, k, v, 0, backend.plan(batch))
        for name in ("reference", tested)
        for backend in [
            backend_of(name, layout.pages(random_pool(layout, 256 * num_contexts, 2)), [None], torch.float32)
        ]
    )
    assert torch.allclose(got, want, atol=2e-5, rtol=2e-5)
