"""Attention over paged blocks on this machine: decode as bytes of K and V per second beside its streaming bandwidth,
prefill as operations per second beside torch's products; the torch backend beside it. And the writing of new K and V,
quantised on the way where blocks are FP8, as bytes written per second beside those that a copy of memory writes.

    python -m bench.attention [--seconds 0.3] [--only decode|prefill|store] [--quick true] [--json]
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from kernels.attention.choice import choose_attention
from kernels.attention.native import NativeAttention
from kernels.attention.pages import PagedKv
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


@dataclass(frozen=True)
class Options:
    seconds: float
    """For each figure."""
    quick: bool


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


@dataclass(frozen=True)
class Case:
    """A step over all layers of a pool, which are taken in turn and together larger than any cache."""

    pages: PagedKv
    batch: AttnBatch
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def case_of(shape: Heads, dtype: torch.dtype, starts: list[int], counts: list[int]) -> Case:
    per_layer = BlockLayout(1, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype).block_bytes
    num_blocks = sum(-(-(start + count) // _BLOCK_SIZE) for start, count in zip(starts, counts, strict=True))
    num_layers = max(1, _POOL_BYTES // (per_layer * num_blocks))
    layout = BlockLayout(num_layers, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype)
    pages = layout.pages(layout.allocate(num_blocks, torch.device("cpu")))
    numbers = torch.randn(_BLOCK_SIZE, shape.head_dim)
    pages.elements.copy_(numbers.to(dtype) if pages.scales is None else (numbers * 100).to(dtype))
    if pages.scales is not None:
        pages.scales.fill_(0.01)
    q, k, v = (
        torch.randn(sum(counts), heads, shape.head_dim).bfloat16()
        for heads in (shape.num_heads, shape.kv_heads, shape.kv_heads)
    )
    return Case(pages, batch_of(starts, counts, num_blocks, seed=1), q, k, v)


@torch.inference_mode()
def attend(name: str, case: Case, seconds: float) -> float:
    """Seconds of one layer, its writing included."""
    backend = choose_attention(case.pages, [None] * case.pages.num_layers, torch.bfloat16, name)
    plan = backend.plan(case.batch)
    layers = itertools.cycle(range(case.pages.num_layers))
    return seconds_per_call(lambda: backend.run(case.q, case.k, case.v, next(layers), plan), seconds)


@torch.inference_mode()
def write(case: Case, seconds: float) -> float:
    """Seconds of one layer's writing."""
    backend = NativeAttention(case.pages, [None] * case.pages.num_layers, torch.bfloat16, load_kernels())
    plan = backend.plan(case.batch)
    layers = itertools.cycle(range(case.pages.num_layers))
    return seconds_per_call(lambda: backend.store(case.k, case.v, next(layers), plan), seconds)


@dataclass(frozen=True)
class Result:
    """One case beside the ceiling that was measured in the same run; rates in bytes or operations per second."""

    kind: str
    heads: str
    pages: str
    rows: int
    start: int
    new: int
    seconds: float
    rate: float
    ceiling: float
    share: float
    torch_seconds: float | None
    """None where torch's way was not asked for."""


HEADER = (
    f"{'':>7} {'heads':>10} {'pages':>5} {'rows':>4} {'start':>5} {'new':>5} {'us':>8} {'rate':>14} {'ceiling':>8} "
    f"{'share':>5} {'torch us':>9}"
)


def show(result: Result) -> None:
    unit, size = ("TFLOP/s", 1e12) if result.kind == "prefill" else ("GB/s", 1e9)
    other = "" if result.torch_seconds is None else f"{result.torch_seconds * 1e6:.0f}"
    print(
        f"{result.kind:>7} {result.heads:>10} {result.pages:>5} {result.rows:>4} {result.start:>5} {result.new:>5} "
        f"{result.seconds * 1e6:>8.0f} {result.rate / size:>6.2f} {unit:>7} {result.ceiling / size:>8.2f} "
        f"{result.share:>5.0%} {other:>9}",
        flush=True,
    )


def result_of(
    kind: str,
    shape: Heads,
    pages: str,
    starts: list[int],
    counts: list[int],
    work: float,
    ceiling: float,
    options: Options,
) -> Result:
    """Measure one case; `work` is what it cannot do without, in the ceiling's unit."""
    case = case_of(shape, DTYPES[pages], starts, counts)
    taken = attend("cpu", case, options.seconds)
    other = None if options.quick else attend("torch", case, options.seconds)
    rate = work / taken
    return Result(
        kind, str(shape), pages, len(starts), starts[0], counts[0], taken, rate, ceiling, rate / ceiling, other
    )


def decode(options: Options) -> Iterator[Result]:
    """K and V that are read, FP8's scales included, beside the rate of reading memory in a row."""
    ceiling = load_kernels().ceilings().read_bytes_per_s
    for shape, (label, dtype) in itertools.product(SHAPES, DTYPES.items()):
        per_token = BlockLayout(1, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype).payload_bytes / _BLOCK_SIZE
        for num_rows, context in itertools.product((1, 8, 32), (1024, 4096, 8192)):
            if options.quick and (num_rows, context) not in ((1, 4096), (8, 4096)):
                continue
            work = per_token * num_rows * context
            yield result_of("decode", shape, label, [context - 1] * num_rows, [1] * num_rows, work, ceiling, options)


def prefill(options: Options) -> Iterator[Result]:
    """The causal operations, counted exactly, beside torch's bf16 product of square matrices (oneDNN's)."""
    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    ceiling = 2 * 2048**3 / seconds_per_call(lambda: a @ b, max(options.seconds, 0.5))
    for shape, label in itertools.product(SHAPES, DTYPES):
        for start, count in ((0, 512), (0, 2048), (6144, 2048)):
            if options.quick and start:
                continue
            work = 4 * shape.num_heads * shape.head_dim * sum(range(start + 1, start + count + 1))
            yield result_of("prefill", shape, label, [start], [count], work, ceiling, options)


def store(options: Options) -> Iterator[Result]:
    """K and V that are written, FP8's scales included, beside the bytes that a copy of memory writes."""
    ceiling = load_kernels().ceilings().copy_bytes_per_s
    for shape, (label, dtype) in itertools.product(SHAPES, DTYPES.items()):
        per_token = BlockLayout(1, shape.kv_heads, shape.head_dim, _BLOCK_SIZE, dtype).payload_bytes / _BLOCK_SIZE
        for count in (2048,) if options.quick else (32, 512, 2048):
            taken = write(case_of(shape, dtype, [0], [count]), options.seconds)
            rate = per_token * count / taken
            yield Result("store", str(shape), label, 1, 0, count, taken, rate, ceiling, rate / ceiling, None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--only", choices=("decode", "prefill", "store"), default=None)
    parser.add_argument("--quick", type=lambda text: text == "true", default=False, help="few cases, without torch's")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    arguments = parser.parse_args()
    options = Options(arguments.seconds, arguments.quick)
    cases = {"decode": decode, "prefill": prefill, "store": store}
    results = []
    if not arguments.json:
        print(f"{load_kernels().isa}, {torch.get_num_threads()} threads\n{HEADER}")
    for kind, run in cases.items():
        if arguments.only not in (None, kind):
            continue
        for result in run(options):
            results.append(result)
            if not arguments.json:
                show(result)
    if arguments.json:
        described = {"isa": load_kernels().isa, "threads": torch.get_num_threads()}
        print(json.dumps({**described, "results": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
