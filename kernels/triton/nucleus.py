"""The nucleus of rows for which a first guess did not hold, without asking the host which rows these are."""

import torch
import triton
import triton.language as tl

_BLOCK = 2048
FIXED_POINT = tl.constexpr(2.0**60)
"""Weights are summed as int64 with 60 fractional bits, as in `engine/execution/vocab_chunks.py`: in any order."""


def settle_nucleus(
    probabilities: torch.Tensor, limits: torch.Tensor, is_settled: torch.Tensor, found: torch.Tensor
) -> None:
    """The smallest probability of each row's nucleus (top-p, arXiv:1904.09751) into `found`, where it is not there yet.

    The nucleus is the fewest likeliest tokens whose weights reach the limit, and all that are as likely as the last:
    found = max {p : sum of the weights of all tokens of at least p >= limit}, the smallest probability if none is.
    A weight is probability * 2^60, cut to an integer.

    probabilities: float32 [rows, vocab], not negative, the vocabulary contiguous. limits: int64 [rows], positive.
    is_settled: bool [rows]; such rows cost one load. found: float32 [rows].

    A bisection over the bit patterns of non-negative floats, which are ordered as their values are, in 31 passes.
    """
    rows, vocab = probabilities.shape
    assert probabilities.stride(1) == 1
    if rows:
        _settle[(rows,)](
            probabilities,
            limits,
            is_settled,
            found,
            probabilities.stride(0),
            vocab,
            BLOCK=min(_BLOCK, triton.next_power_of_2(vocab)),
            num_warps=8,
        )


@triton.jit
def _settle(  # type: ignore[no-untyped-def]
    probabilities_ptr, limits_ptr, is_settled_ptr, found_ptr, stride, vocab, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    if tl.load(is_settled_ptr + row) == 0:
        limit = tl.load(limits_ptr + row)
        row_ptr = probabilities_ptr + row * stride
        columns = tl.arange(0, BLOCK)
        # Bits of the largest threshold known to hold the limit; 0 holds all there is.
        low = tl.full([], 0, tl.int32)
        bit = tl.full([], 1 << 30, tl.int32)
        for _ in range(31):
            candidate = low + bit
            reached = tl.zeros((BLOCK,), dtype=tl.int64)
            for start in range(0, vocab, BLOCK):
                inside = start + columns < vocab
                p = tl.load(row_ptr + start + columns, mask=inside, other=0.0)
                counts = p.to(tl.int32, bitcast=True) >= candidate
                reached += tl.where(counts, (p * FIXED_POINT).to(tl.int64), 0)
            low = tl.where(tl.sum(reached, axis=0) >= limit, candidate, low)
            bit = bit >> 1
        tl.store(found_ptr + row, low.to(tl.float32, bitcast=True))
