"""Attention over paged blocks on this machine: decode as bytes of K and V per second beside its streaming bandwidth,
prefill as operations per second beside its tiles' and torch's products; the torch backend beside it.

    python -m bench.attention [--seconds 0.3] [--only decode|prefill] [--quick true]
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.attention.choice import choose_attention
from kernels.attention.protocol import AttnBatch
from kernels.cpu.library import load_kernels
from kvstore.layout import BlockLayout

_BLOCK_SIZE = 16
_POOL_BYTES = 1 << 30
"""At least this much K and V is walked through between two visits of a block, so that it comes from memory."""


@dataclass(frozen=True)
class Heads:
    num_heads: int
    kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.num_heads}/{self.kv_heads}x{self.head_dim}"


SHAPES = (Heads(9, 3, 64), Heads(16, 8, 128))
DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """The best of some calls, as the machine's ceilings are: other work only ever slows one down."""
    call()
    taken: list[float] = []
    while sum(taken) < seconds or len(taken) < 3:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def batch_of(starts: Sequence[int], counts: Sequence[int], num_blocks: int, seed: int) -> AttnBatch:
    """Rows over blocks in a random order; block ids wrap around, as only reading is measured."""
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed))
    contexts = [start + count for start, count in zip(starts, counts, strict=True)]
    per_row = -(-max(contexts) // _BLOCK_SIZE)
    table = order[torch.arange(len(starts) * per_row) % num_blocks].view(len(starts), per_row)
    positions = torch.cat([torch.arange(start, start + count) for start, count in zip(starts, counts, strict=True)])
    rows = torch.arange(len(starts)).repeat_interleave(torch.tensor(counts))
    slots = table[rows, positions // _BLOCK_SIZE] * _BLOCK_SIZE + positions % _BLOCK_SIZE
    return AttnBatch(
        query_starts=[0, *itertools.accumulate(counts)],
        context_lens=contexts,
        block_table=table.to(torch.int32),
        write_slots=slots,
        positions=positions,
    )


def measure(name: str, shape: Heads, dtype: torch.dtype, starts: list[int], counts: list[int], seconds: float) -> float:
    """Seconds of one layer. Layers are taken in turn, over a pool that is larger than what is read in one."""
    per_layer = BlockLayout(1, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype).block_bytes
    num_blocks = sum(-(-(start + count) // _BLOCK_SIZE) for start, count in zip(starts, counts, strict=True))
    num_layers = max(1, _POOL_BYTES // (per_layer * num_blocks))
    layout = BlockLayout(num_layers, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype)
    pool = layout.allocate(num_blocks, torch.device("cpu"))
    pages = layout.pages(pool)
    numbers = torch.randn(_BLOCK_SIZE, shape.head_dim)
    pages.elements.copy_(numbers.to(dtype) if pages.scales is None else (numbers * 100).to(dtype))
    if pages.scales is not None:
        pages.scales.fill_(0.01)
    backend = choose_attention(pages, [None] * num_layers, torch.bfloat16, name)
    batch = batch_of(starts, counts, num_blocks, seed=1)
    q, k, v = (
        torch.randn(sum(counts), heads, shape.head_dim).bfloat16()
        for heads in (shape.num_heads, shape.kv_heads, shape.kv_heads)
    )
    plan = backend.plan(batch)
    layers = itertools.cycle(range(num_layers))
    with torch.inference_mode():
        return seconds_per_call(lambda: backend.run(q, k, v, next(layers), plan), seconds)


def decode(seconds: float, quick: bool) -> None:
    ceiling = load_kernels().ceilings().read_bytes_per_s
    print(f"streaming read: {ceiling / 1e9:.1f} GB/s")
    print(
        f"{'heads':>10} {'pages':>5} {'rows':>4} {'context':>7} {'us':>8} {'GB/s':>6} {'of stream':>9} {'torch us':>9}"
    )
    for shape, (label, dtype) in itertools.product(SHAPES, DTYPES.items()):
        for num_rows, context in itertools.product((1, 8, 32), (1024, 4096, 8192)):
            if quick and (num_rows, context) not in ((1, 4096), (8, 4096)):
                continue
            starts, counts = [context - 1] * num_rows, [1] * num_rows
            taken = measure("cpu", shape, dtype, starts, counts, seconds)
            num_bytes = BlockLayout(1, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype).payload_bytes
            rate = num_bytes / _BLOCK_SIZE * num_rows * context / taken
            other = 0.0 if quick else measure("torch", shape, dtype, starts, counts, seconds)
            print(
                f"{shape!s:>10} {label:>5} {num_rows:>4} {context:>7} {taken * 1e6:>8.0f} {rate / 1e9:>6.1f} "
                f"{rate / ceiling:>9.0%} {other * 1e6:>9.0f}",
                flush=True,
            )


def prefill(seconds: float, quick: bool) -> None:
    tiles = load_kernels().ceilings().bf16_flops_per_s
    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    product = 2 * 2048**3 / seconds_per_call(lambda: a @ b, max(seconds, 0.5))
    print(f"bf16 products: tiles {tiles / 1e12:.2f}, torch 2048^3 {product / 1e12:.2f} TFLOP/s")
    print(f"{'heads':>10} {'pages':>5} {'start':>5} {'new':>5} {'us':>8} {'TFLOP/s':>7} {'of gemm':>8} {'torch us':>9}")
    for shape, (label, dtype) in itertools.product(SHAPES, DTYPES.items()):
        for start, count in ((0, 512), (0, 2048), (6144, 2048)):
            if quick and start:
                continue
            taken = measure("cpu", shape, dtype, [start], [count], seconds)
            seen = sum(range(start + 1, start + count + 1))
            rate = 4 * shape.num_heads * shape.head_dim * seen / taken
            other = 0.0 if quick else measure("torch", shape, dtype, [start], [count], seconds)
            print(
                f"{shape!s:>10} {label:>5} {start:>5} {count:>5} {taken * 1e6:>8.0f} {rate / 1e12:>7.2f} "
                f"{rate / product:>8.0%} {other * 1e6:>9.0f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--only", choices=("decode", "prefill"), default=None)
    parser.add_argument("--quick", type=lambda text: text == "true", default=False, help="few cases, without torch's")
    arguments = parser.parse_args()
    if arguments.only != "prefill":
        decode(arguments.seconds, arguments.quick)
    if arguments.only != "decode":
        prefill(arguments.seconds, arguments.quick)


if __name__ == "__main__":
    main()
