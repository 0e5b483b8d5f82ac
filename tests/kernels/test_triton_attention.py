"""The backend over Triton's kernels: mixed steps against the oracle, and plans whose tensors are filled anew."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.attention.protocol import DecodeBuffers, RefillableAttention
from kernels.attention.triton import TritonAttention, unsupported
from kvstore.layout import BlockLayout
from tests.kernels.attention_cases import CPU, Rows
from tests.kernels.triton_cases import Case, Heads, case, is_close
from tests.kernels.triton_device import DEVICE, moved

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
KV_DTYPES = [torch.float8_e4m3fn, torch.bfloat16]
HEADS = Heads(6, 2, 32)


def backend_over(step: Case, pool: torch.Tensor, windows: list[int | None]) -> TritonAttention:
    return TritonAttention(step.layout.pages(pool), windows, step.q.dtype)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.one_of(st.tuples(st.integers(0, 300), st.just(1)), st.tuples(st.integers(0, 70), st.integers(2, 40))),
        min_size=1,
        max_size=4,
    ),
    windows=st.sampled_from([(None, None), (None, 5), (33, 16)]),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from(KV_DTYPES),
    seed=st.integers(0, 1000),
)
def test_steps_of_decode_rows_and_chunks_equal_the_oracle(
    rows: list[tuple[int, int]],
    windows: tuple[int | None, int | None],
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    seed: int,
) -> None:
    starts, counts = (list(column) for column in zip(*rows, strict=True))
    step = case(Rows(starts, counts), HEADS, dtype, kv_dtype, seed=seed)
    pool = step.pool.to(DEVICE)
    backend = backend_over(step, pool, list(windows))
    q, k, v = (heads.to(DEVICE) for heads in (step.q, step.k, step.v))
    plan = backend.plan(moved(step.batch, DEVICE))
    for layer in range(2):
        want, stored = step.expected(layer, windows)
        assert is_close(backend.run(q, k, v, layer, plan), want, step.layout.dtype)
        layers = [step.layout.kv_view(each.cpu())[:, layer].reshape(-1) for each in (pool, stored)]
        assert torch.equal(layers[0].view(torch.uint8), layers[1].view(torch.uint8))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES, ids=str)
def test_a_plan_over_buffers_follows_what_they_are_filled_with(kv_dtype: torch.dtype) -> None:
    """As a graph does: the plan and its launches stay, the rows, their number and their lengths change."""
    windows: list[int | None] = [None, 20]
    steps = [
        case(Rows(starts, [1] * len(starts)), HEADS, torch.bfloat16, kv_dtype, seed=seed)
        for seed, starts in enumerate([[290, 30], [3, 31, 47], [0]])
    ]
    num_blocks = max(len(step.pool) for step in steps)
    layout = steps[0].layout
    pool = layout.allocate(num_blocks, DEVICE)
    backend = backend_over(steps[0], pool, windows)
    assert isinstance(backend, RefillableAttention)
    buffers = DecodeBuffers(
        context_lens=torch.zeros(4, dtype=torch.int32, device=DEVICE),
        block_table=torch.zeros(6, 24, dtype=torch.int32, device=DEVICE)[:4, :20],
        write_slots=torch.full((4,), -1, device=DEVICE),
    )
    plan = backend.decode_plan(buffers)
    for step in steps:
        batch, count = step.batch, len(step.batch.context_lens)
        pool.copy_(torch.nn.functional.pad(step.pool, (0, 0, 0, num_blocks - len(step.pool)), value=255))
        buffers.context_lens.zero_()[:count] = torch.tensor(batch.context_lens)
        buffers.block_table[:count, : batch.block_table.shape[1]] = batch.block_table.to(DEVICE)
        buffers.write_slots.fill_(-1)[:count] = batch.write_slots.to(DEVICE)
        q, k, v = (
            torch.cat((heads, torch.ones(4 - count, *heads.shape[1:], dtype=heads.dtype))).to(DEVICE)
            for heads in (step.q, step.k, step.v)
        )
        for layer in range(2):
            want, stored = step.expected(layer, windows)
            got = backend.run(q, k, v, layer, plan)
            assert is_close(got[:count], want, step.layout.dtype)
            assert got[count:].isfinite().all()
        assert torch.equal(pool.cpu()[: len(stored), stored.shape[1] // 2 :], stored[:, stored.shape[1] // 2 :])


def test_a_decode_row_gets_the_same_bits_beside_a_chunk() -> None:
    step = case(Rows([300, 40], [1, 33]), HEADS, torch.bfloat16, torch.float8_e4m3fn, seed=3)
    alone = case(Rows([300], [1]), HEADS, torch.bfloat16, torch.float8_e4m3fn, seed=3)
    results = []
    for each in (step, alone):
        backend = backend_over(step, step.pool.to(DEVICE), [None, None])
        batch = moved(each.batch, DEVICE)
        if each is alone:
            # The same row: its blocks, slot and query.
            batch = type(batch)(
                [0, 1],
                [301],
                moved(step.batch, DEVICE).block_table[:1],
                step.batch.write_slots[:1].to(DEVICE),
                batch.positions,
            )
        q, k, v = (heads[: batch.num_tokens].to(DEVICE) for heads in (step.q, step.k, step.v))
        results.append(backend.run(q, k, v, 1, backend.plan(batch))[0])
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "reason"),
    [(264, torch.bfloat16, "head_dim 264 is more than 256"), (192, torch.float32, "head_dim 192 in fp32")],
)
def test_what_the_kernels_cannot_do_is_said(head_dim: int, dtype: torch.dtype, reason: str) -> None:
    layout = BlockLayout(1, 1, head_dim, 16, torch.bfloat16)
    assert reason in (unsupported(layout.pages(layout.allocate(1, DEVICE)), dtype) or "")


def test_without_the_interpreter_pages_must_be_on_a_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = BlockLayout(1, 1, 64, 16, torch.bfloat16)
    monkeypatch.setattr("triton.knobs.runtime.interpret", False)
    assert "the pages are on cpu" in (unsupported(layout.pages(layout.allocate(1, CPU)), torch.bfloat16) or "")
