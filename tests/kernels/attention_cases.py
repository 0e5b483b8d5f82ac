"""Ragged batches over scattered pages, and pools to run them on."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention.choice import choose_attention
from kernels.attention.native import NativeAttention
from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttentionBackend, AttnBatch
from kernels.cpu.library import ISAS, CpuKernels, load_kernels
from kernels.kv_codec.e4m3 import encode
from kvstore.layout import BlockLayout

CPU = torch.device("cpu")


@functools.cache
def kernels_of(isa: str) -> CpuKernels:
    """The native kernels of an instruction set of this machine."""
    return load_kernels(isa)


NATIVE = [f"cpu-{isa}" for isa in ISAS[ISAS.index(load_kernels().isa) :]]
"""The native backend by instruction set, as far as this machine has them."""

BACKENDS = ["torch", *NATIVE]
"""All that are held to the oracle, for `backend_of`."""


def backend_of(name: str, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> AttentionBackend:
    if name.startswith("cpu-"):
        return NativeAttention(kv, windows, dtype, kernels_of(name.removeprefix("cpu-")))
    return choose_attention(kv, windows, dtype, name)


@dataclass(frozen=True)
class Rows:
    """Per row: how many tokens are there already, and how many are new."""

    starts: list[int]
    counts: list[int]


def make_batch(rows: Rows, block_size: int, num_blocks: int, seed: int, blocks_per_row: int | None = None) -> AttnBatch:
    """Rows get distinct blocks in a random order of ids, as many as they need or `blocks_per_row`."""
    shuffled = list(range(num_blocks))
    random.Random(seed).shuffle(shuffled)
    contexts = [start + count for start, count in zip(rows.starts, rows.counts, strict=True)]
    needed = [blocks_per_row or -(-context // block_size) for context in contexts]
    assert sum(needed) <= num_blocks
    table = torch.zeros(len(contexts), max(needed), dtype=torch.int32)
    write_slots: list[int] = []
    positions: list[int] = []
    query_starts = [0]
    fresh: list[int] = []
    for row, (start, context) in enumerate(zip(rows.starts, contexts, strict=True)):
        ids = [shuffled.pop() for _ in range(needed[row])]
        table[row] = ids[0]
        table[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        fresh.extend(ids if start == 0 else [])
        for position in range(start, context):
            write_slots.append(ids[position // block_size] * block_size + position % block_size)
            positions.append(position)
        query_starts.append(len(positions))
    return AttnBatch(
        query_starts=query_starts,
        context_lens=contexts,
        block_table=table,
        write_slots=torch.tensor(write_slots),
        positions=torch.tensor(positions),
        fresh_blocks=torch.tensor(fresh) if fresh else None,
    )


def random_pool(layout: BlockLayout, num_blocks: int, seed: int) -> torch.Tensor:
    pool = layout.allocate(num_blocks, CPU)
    pages = layout.pages(pool)
    values = torch.randn(pages.elements.shape, generator=torch.Generator().manual_seed(seed))
    if pages.scales is None:
        pages.elements.copy_(values)
    else:
        codes, scales = encode(values)
        pages.elements.copy_(codes)
        pages.scales.copy_(scales)
    return pool


def stored_at(layout: BlockLayout, pool: torch.Tensor, write_slots: torch.Tensor) -> torch.Tensor:
    """uint8 [slots, ...]: what the pool holds for these slots in all layers, scales included."""
    pages = layout.pages(pool)
    blocks, tokens = write_slots // layout.block_size, write_slots % layout.block_size
    stored = pages.elements.view(torch.uint8).permute(0, 4, 1, 2, 3, 5)[blocks, tokens]
    if pages.scales is not None:
        scales = pages.scales.permute(0, 4, 1, 2, 3)[blocks, tokens]
        stored = torch.cat((stored, scales[..., None].view(torch.uint8)), dim=-1)
    return stored


def random_heads(num_tokens: int, num_heads: int, head_dim: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, num_heads, head_dim, generator=generator).to(dtype)
