"""The backend over flash-attn, with a fake of that package: what it is given, and what comes of a whole step."""

import pytest
import torch

from kernels.attention.flash import FlashAttention, unsupported
from kernels.attention.protocol import DecodeBuffers, RefillableAttention
from kvstore.layout import BlockLayout
from tests.fakes.flash_attn import FakeFlashAttn
from tests.kernels.attention_cases import Rows
from tests.kernels.triton_cases import Heads, case, is_close
from tests.kernels.triton_device import DEVICE, moved

HEADS = Heads(4, 2, 32)
HOPPER, BLACKWELL = (9, 0), (10, 0)
MIXED = Rows([30, 0, 17, 40, 0], [1, 20, 5, 1, 9])
"""Decode rows and chunks in turn, two of the chunks side by side."""


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few tokens are flash-attn's too."""
    monkeypatch.setattr("kernels.attention.flash._LEAST_TOKENS", 2)


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize("windows", [(None, None), (None, 12)], ids=str)
@pytest.mark.parametrize("kv_dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float32], ids=str)
def test_chunks_attend_over_their_gathered_context(
    version: int, windows: tuple[int | None, int | None], kv_dtype: torch.dtype
) -> None:
    fake = FakeFlashAttn(version)
    step = case(MIXED, HEADS, torch.bfloat16, kv_dtype, seed=1)
    pool = step.pool.to(DEVICE)
    backend = FlashAttention(step.layout.pages(pool), windows, torch.bfloat16, fake.library)
    plan = backend.plan(moved(step.batch, DEVICE))
    q, k, v = (heads.to(DEVICE) for heads in (step.q, step.k, step.v))
    for layer in range(2):
        want, _ = step.expected(layer, windows)
        assert is_close(backend.run(q, k, v, layer, plan), want, kv_dtype)
    # Rows 1 and 2 together, row 4 alone, in each layer.
    assert fake.calls == {"varlen": 4, "varlen with pages": 0, "kvcache": 0}


@pytest.mark.parametrize("windows", [(None, None), (None, 12)], ids=str)
def test_large_pages_of_the_models_type_are_read_by_flash_attn_itself(windows: tuple[int | None, int | None]) -> None:
    fake = FakeFlashAttn(2)
    rows = Rows([300, 0, 17, 40, 0], [1, 270, 5, 1, 9])
    step = case(rows, HEADS, torch.bfloat16, torch.bfloat16, block_size=256, seed=2)
    # The pool starts out as zeros, and blocks that change hands are named: only those of first chunks are NaN here.
    zeros = step.pool.clone()
    pages, filled = step.layout.pages(zeros).elements, step.layout.pages(step.pool).elements
    pages.copy_(filled.nan_to_num(0.0))
    assert step.batch.fresh_blocks is not None
    zeros[step.batch.fresh_blocks] = 255
    pool = zeros.to(DEVICE)
    backend = FlashAttention(step.layout.pages(pool), windows, torch.bfloat16, fake.library)
    plan = backend.plan(moved(step.batch, DEVICE))
    q, k, v = (heads.to(DEVICE) for heads in (step.q, step.k, step.v))
    for layer in range(2):
        want, _ = step.expected(layer, windows)
        assert is_close(backend.run(q, k, v, layer, plan), want, torch.bfloat16)
    assert fake.calls == {"varlen": 0, "varlen with pages": 4, "kvcache": 2}


@pytest.mark.parametrize(("kv_dtype", "block_size"), [(torch.bfloat16, 256), (torch.float8_e4m3fn, 16)])
def test_a_plan_over_buffers_leaves_padding_alone(kv_dtype: torch.dtype, block_size: int) -> None:
    fake = FakeFlashAttn(2)
    step = case(Rows([40, 3], [1, 1]), HEADS, torch.bfloat16, kv_dtype, block_size=block_size, seed=3)
    pool = step.pool.to(DEVICE)
    if block_size == 256:
        elements = step.layout.pages(pool).elements
        elements.copy_(elements.nan_to_num(0.0))
    backend = FlashAttention(step.layout.pages(pool), [None, None], torch.bfloat16, fake.library)
    assert isinstance(backend, RefillableAttention)
    batch = moved(step.batch, DEVICE)
    contexts = torch.tensor([*batch.context_lens, 0], dtype=torch.int32, device=DEVICE)
    table = torch.zeros(3, batch.block_table.shape[1], dtype=torch.int32, device=DEVICE)
    table[:2] = batch.block_table
    slots = torch.tensor([*batch.write_slots.tolist(), -1], device=DEVICE)
    plan = backend.decode_plan(DecodeBuffers(contexts, table, slots))
    q, k, v = (torch.cat((heads, heads[:1])).to(DEVICE) for heads in (step.q, step.k, step.v))
    want, stored = step.expected(1, [None, None])
    got = backend.run(q, k, v, 1, plan)
    assert is_close(got[:2], want, kv_dtype)
    assert got[2].isfinite().all()
    assert fake.calls["kvcache"] == (block_size == 256)
    touched = batch.write_slots.cpu() // block_size
    for block in range(len(stored)):
        assert (block in touched) or torch.equal(pool[block].cpu().isfinite(), stored[block].isfinite())


def test_a_context_that_is_too_long_for_the_scratch_is_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention.flash._SCRATCH_TOKENS", 50)
    fake = FakeFlashAttn(2)
    step = case(Rows([0, 20, 40, 0], [30, 9, 20, 25]), HEADS, torch.float16, torch.float8_e4m3fn, seed=4)
    backend = FlashAttention(step.layout.pages(step.pool.to(DEVICE)), [None, None], torch.float16, fake.library)
    q, k, v = (heads.to(DEVICE) for heads in (step.q, step.k, step.v))
    want, _ = step.expected(1, [None, None])
    assert is_close(backend.run(q, k, v, 1, backend.plan(moved(step.batch, DEVICE))), want, torch.float8_e4m3fn)
    # 30 and 29 tokens do not fit together, 60 do not fit at all.
    assert fake.calls["varlen"] == 3


def test_a_chunk_that_is_too_short_for_gathering_is_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.attention.flash._LEAST_TOKENS", 10)
    fake = FakeFlashAttn(4)
    step = case(Rows([20, 0], [9, 10]), HEADS, torch.float16, torch.float8_e4m3fn, seed=5)
    backend = FlashAttention(step.layout.pages(step.pool.to(DEVICE)), [None, None], torch.float16, fake.library)
    q, k, v = (heads.to(DEVICE) for heads in (step.q, step.k, step.v))
    want, _ = step.expected(1, [None, None])
    assert is_close(backend.run(q, k, v, 1, backend.plan(moved(step.batch, DEVICE))), want, torch.float8_e4m3fn)
    assert fake.calls["varlen"] == 1


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "reason"),
    [
        (torch.float32, 64, HOPPER, "flash-attn computes in bf16 and fp16"),
        (torch.bfloat16, 64, (7, 5), "compute capability is 7.5; 8.0 is the least"),
        (torch.bfloat16, 44, HOPPER, "head_dim 44 is not a multiple of 8 up to 256"),
        (torch.bfloat16, 256, BLACKWELL, "head_dim 256 is not a multiple of 8 up to 128"),
        (torch.bfloat16, 264, HOPPER, "head_dim 264 is not a multiple of 8 up to 256"),
        (torch.bfloat16, 256, HOPPER, None),
        (torch.float16, 128, BLACKWELL, None),
    ],
)
def test_what_flash_attn_cannot_do_is_said(
    dtype: torch.dtype, head_dim: int, capability: tuple[int, int], reason: str | None
) -> None:
    layout = BlockLayout(1, 1, head_dim, 16, torch.float8_e4m3fn)
    said = unsupported(layout.pages(layout.allocate(1, DEVICE)), dtype, capability)
    assert said is None if reason is None else reason in (said or "")
