"""How the context of a decode row is cut, and the merging of what comes of its parts."""

import torch
import triton
import triton.language as tl

KEYS_BLOCK = 32
"""Positions per step of a split's loop; splits start at multiples of it."""

SPLIT_TOKENS = 256
"""The least length of a split: 64 KiB of FP8 K and V with heads of 128, several times what it costs to start one."""

MAX_SPLITS = 64
"""Of a row: beyond `SPLIT_TOKENS * MAX_SPLITS` tokens its splits get longer instead, which bounds the workspace."""

_SPLITS_BLOCK = 16
"""Partial results merged at a time; cut at fixed places, since the order of a sum is part of its result."""


def max_splits_of(context: int, window: int | None) -> int:
    """The most parts that a row of up to `context` tokens has: a bound on what `splits_of` counts on the device."""
    seen = context if window is None else min(context, window + KEYS_BLOCK)
    return max(1, min(MAX_SPLITS, -(-seen // SPLIT_TOKENS)))


def merge_splits(
    partial: torch.Tensor,
    sums: torch.Tensor,
    out: torch.Tensor,
    tokens: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None,
) -> None:
    """out[tokens[i], h] = sum_s 2^(m_s - m) a_s / sum_s 2^(m_s - m) l_s, with m the largest m_s, over row i's splits.

    partial: fp32 [n, heads, splits, dim_block], the a_s; sums: fp32 [n, heads, splits, 2], m_s and l_s; out: [all
    tokens, heads, head_dim], contiguous. What lies past a row's own splits is not read. The online form of the sum
    (arXiv:1805.02867), `_SPLITS_BLOCK` splits at a time. A row without tokens gets zeros.
    """
    num_rows, num_heads, max_splits, dim_block = partial.shape
    _merge[(num_heads, num_rows)](
        out,
        partial,
        sums,
        tokens,
        context_lens,
        max_splits,
        WINDOW=window or 0,
        NUM_HEADS=num_heads,
        HEAD_DIM=out.shape[2],
        DIM_BLOCK=dim_block,
        KEYS_BLOCK=KEYS_BLOCK,
        SPLIT_TOKENS=SPLIT_TOKENS,
        MAX_SPLITS=MAX_SPLITS,
        SPLITS_BLOCK=_SPLITS_BLOCK,
        num_warps=4,
    )


@triton.jit
def splits_of(  # type: ignore[no-untyped-def]
    context,
    WINDOW: tl.constexpr,
    KEYS_BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """Where a row's first split starts, the splits' length and their number."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(context - WINDOW, 0) // KEYS_BLOCK * KEYS_BLOCK
    seen = context - first
    length = tl.maximum(tl.cdiv(seen, MAX_SPLITS * SPLIT_TOKENS), 1) * SPLIT_TOKENS
    return first, length, tl.cdiv(seen, length)


@triton.jit(do_not_specialize=["max_splits"], do_not_specialize_on_alignment=["tokens_ptr", "contexts_ptr"])
def _merge(  # type: ignore[no-untyped-def]
    out_ptr,
    partial_ptr,
    sums_ptr,
    tokens_ptr,
    contexts_ptr,
    max_splits,
    WINDOW: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_BLOCK: tl.constexpr,
    KEYS_BLOCK: tl.constexpr,
    SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
):
    row = tl.program_id(1)
    head = tl.program_id(0)
    context = tl.load(contexts_ptr + row)
    _, _, count = splits_of(context, WINDOW, KEYS_BLOCK, SPLIT_TOKENS, MAX_SPLITS)
    dims = tl.arange(0, DIM_BLOCK)
    first = (row.to(tl.int64) * NUM_HEADS + head) * max_splits
    m = tl.full([1], float("-inf"), tl.float32)
    l = tl.zeros([1], tl.float32)  # noqa: E741
    acc = tl.zeros([DIM_BLOCK], tl.float32)
    for split in range(0, count, SPLITS_BLOCK):
        splits = split + tl.arange(0, SPLITS_BLOCK)
        done = splits < count
        m_part = tl.load(sums_ptr + (first + splits) * 2, mask=done, other=float("-inf"))
        l_part = tl.load(sums_ptr + (first + splits) * 2 + 1, mask=done, other=0.0)
        part = tl.load(
            partial_ptr + (first + splits)[:, None] * DIM_BLOCK + dims[None, :], mask=done[:, None], other=0.0
        )
        m_next = tl.maximum(m, tl.max(m_part, axis=0))
        shrink = tl.exp2(m - m_next)
        grow = tl.exp2(m_part - m_next)
        l = l * shrink + tl.sum(l_part * grow, axis=0)  # noqa: E741
        acc = acc * shrink + tl.sum(part * grow[:, None], axis=0)
        m = m_next
    # A row that is padding has no split.
    result = tl.where(count > 0, acc / l, 0.0)
    token = tl.load(tokens_ptr + row).to(tl.int64)
    tl.store(
        out_ptr + (token * NUM_HEADS + head) * HEAD_DIM + dims,
        result.to(out_ptr.dtype.element_ty),
        mask=dims < HEAD_DIM,
    )
