"""Gathering scattered block records into one contiguous buffer, and scattering them back, for copies between tiers."""

import torch
import triton
import triton.language as tl

_WORDS_PER_PROGRAM = 2048
"""Of 8 bytes, 16 KiB: four loads of 16 bytes in flight in each of 256 threads."""


def gather_blocks(pool: torch.Tensor, block_ids: torch.Tensor, staging: torch.Tensor) -> None:
    """staging[i] = pool[block_ids[i]], whole records.

    pool: uint8 [num_blocks, block_bytes]; staging: uint8 [at least n, block_bytes], both contiguous, on one device;
    block_bytes a multiple of 8. block_ids: int32 or int64 [n], on that device.

    One contiguous transfer of many records costs the bus one request instead of n small ones; the gather itself runs
    at the device's own bandwidth, an order above the bus's.
    """
    _move(pool, block_ids, staging, is_gather=True)


def scatter_blocks(staging: torch.Tensor, block_ids: torch.Tensor, pool: torch.Tensor) -> None:
    """pool[block_ids[i]] = staging[i], whole records; shapes as for `gather_blocks`. Ids must differ."""
    _move(pool, block_ids, staging, is_gather=False)


def _move(pool: torch.Tensor, block_ids: torch.Tensor, staging: torch.Tensor, is_gather: bool) -> None:
    num_blocks, block_bytes = len(block_ids), pool.shape[1]
    if staging.shape[1] != block_bytes or len(staging) < num_blocks:
        raise ValueError(f"{num_blocks} records of {block_bytes} bytes do not fit staging {list(staging.shape)}")
    assert pool.is_contiguous()
    assert staging.is_contiguous()
    assert block_ids.is_contiguous()
    assert block_bytes % 8 == 0
    if not num_blocks:
        return
    words = block_bytes // 8
    _move_records[(num_blocks, triton.cdiv(words, _WORDS_PER_PROGRAM))](
        pool.view(torch.int64),
        staging.view(torch.int64),
        block_ids,
        WORDS=words,
        WORDS_PER_PROGRAM=_WORDS_PER_PROGRAM,
        IS_GATHER=is_gather,
        num_warps=8,
    )


@triton.jit(do_not_specialize_on_alignment=["ids_ptr"])
def _move_records(  # type: ignore[no-untyped-def]
    pool_ptr,
    staging_ptr,
    ids_ptr,
    WORDS: tl.constexpr,
    WORDS_PER_PROGRAM: tl.constexpr,
    IS_GATHER: tl.constexpr,
):
    index = tl.program_id(0)
    words = tl.program_id(1) * WORDS_PER_PROGRAM + tl.arange(0, WORDS_PER_PROGRAM)
    inside = words < WORDS
    in_pool = pool_ptr + tl.load(ids_ptr + index).to(tl.int64) * WORDS + words
    in_staging = staging_ptr + index.to(tl.int64) * WORDS + words
    if IS_GATHER:
        tl.store(in_staging, tl.load(in_pool, mask=inside), mask=inside)
    else:
        tl.store(in_pool, tl.load(in_staging, mask=inside), mask=inside)
