"""The attention kernels for CUDA, each alone: bytes or operations per second beside the device's own rates.

    python -m bench.gpu_attention [--only decode|prefill|moves]

Decode rows are counted by the K and V that they have to read, FP8 with its scales as it is stored; prefill by the
products that causality leaves. Launches are replayed from a CUDA graph over layers in turn, more of them than the
device's cache holds, so that neither Python nor the cache is in the figures. Both ceilings are of the same run.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.attention import batch_of
from bench.gpu_ceilings import DeviceCeilings, Sizes, least_seconds, measure_ceilings
from kernels.attention.choice import choose_attention
from kernels.attention.protocol import AttnBatch
from kvstore.layout import BlockLayout

_cuda: Any = torch.cuda  # its classes have no annotations

_BLOCK_SIZE = 16
PARTS = ("decode", "prefill", "moves")


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: float
    unit: str
    ceiling: float
    """In the same unit, measured in the same run."""
    share: float
    """`value / ceiling`"""


@dataclass(frozen=True, slots=True)
class Heads:
    num_heads: int
    kv_heads: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.num_heads}/{self.kv_heads}x{self.head_dim}"


@dataclass(frozen=True, slots=True)
class Cases:
    """What is measured; much smaller ones only show that it runs."""

    heads: tuple[Heads, ...] = (Heads(16, 8, 128), Heads(32, 8, 128))
    dtypes: tuple[torch.dtype, ...] = (torch.float8_e4m3fn, torch.bfloat16)
    decode: tuple[tuple[int, int], ...] = ((32, 1024), (32, 4096), (128, 1024), (8, 16384))
    """Rows and tokens of each row's context."""
    single: tuple[int, ...] = (4096, 32768)
    """Contexts of one row alone, which cannot fill the device for long."""
    prefill: tuple[tuple[int, int], ...] = ((0, 2048), (0, 8192), (24576, 2048))
    """Tokens that are there, and new ones."""
    backends: tuple[str, ...] = ("triton", "flash")
    moved_blocks: int = 4096
    past_cache_bytes: int = 512 << 20
    """At least this much is read between two visits of the same byte."""
    rounds: int = 10


@torch.inference_mode()
def measure_attention(
    device: torch.device,
    cases: Cases | None = None,
    ceilings: DeviceCeilings | None = None,
    parts: tuple[str, ...] = PARTS,
) -> list[Row]:
    """All figures; the ceilings are measured first unless they are given. Takes up to 9 GB of the device."""
    cases = cases or Cases()
    ceilings = ceilings or measure_ceilings(device, Sizes())
    rows: list[Row] = []
    for heads in cases.heads:
        for dtype in cases.dtypes:
            if "decode" in parts:
                rows += _decode_rows(device, cases, ceilings, heads, dtype)
            if "prefill" in parts:
                rows += _prefill_rows(device, cases, ceilings, heads, dtype)
    if "moves" in parts:
        rows += _move_rows(device, cases, ceilings)
    return rows


def _decode_rows(
    device: torch.device, cases: Cases, ceilings: DeviceCeilings, heads: Heads, dtype: torch.dtype
) -> list[Row]:
    rows = []
    sizes = [("decode attention", *size) for size in cases.decode]
    sizes += [("attention of a single query", 1, context) for context in cases.single]
    for label, num_rows, context in sizes:
        seconds = _seconds(device, cases, heads, dtype, "triton", [context - 1] * num_rows, [1] * num_rows)
        per_token = BlockLayout(1, heads.kv_heads, heads.head_dim, _BLOCK_SIZE, dtype).payload_bytes / _BLOCK_SIZE
        name = f"{label} {heads} {_name(dtype)} {num_rows} x {context}"
        rows.append(_row(name, num_rows * context * per_token / seconds / 1e9, "GB/s", ceilings.copy_bytes_per_s / 1e9))
    return rows


def _prefill_rows(
    device: torch.device, cases: Cases, ceilings: DeviceCeilings, heads: Heads, dtype: torch.dtype
) -> list[Row]:
    rows = []
    for backend in cases.backends:
        for start, count in cases.prefill:
            try:
                seconds = _seconds(device, cases, heads, dtype, backend, [start], [count])
            except ValueError:
                # flash-attn is an extra; whoever lacks it sees no figures of it.
                break
            products = 4 * heads.num_heads * heads.head_dim * sum(range(start + 1, start + count + 1))
            name = f"prefill attention {heads} {_name(dtype)} {count} after {start}, {backend}"
            rows.append(_row(name, products / seconds / 1e12, "TFLOP/s", ceilings.bf16_flops_per_s / 1e12))
    return rows


def _move_rows(device: torch.device, cases: Cases, ceilings: DeviceCeilings) -> list[Row]:
    from kernels.triton.move_blocks import gather_blocks, scatter_blocks

    heads = cases.heads[0]
    layout = BlockLayout(28, heads.kv_heads, heads.head_dim, _BLOCK_SIZE, cases.dtypes[0])
    pool = layout.allocate(2 * cases.moved_blocks, device)
    staging = layout.allocate(cases.moved_blocks, device)
    ids = torch.randperm(len(pool), generator=torch.Generator().manual_seed(1))[: cases.moved_blocks].to(device)
    rows = []
    moves: dict[str, Callable[[], None]] = {
        "gathering": lambda: gather_blocks(pool, ids, staging),
        "scattering": lambda: scatter_blocks(staging, ids, pool),
    }
    for name, move in moves.items():
        rate = 2 * staging.numel() / least_seconds(move, device, cases.rounds)
        label = f"{name} {cases.moved_blocks} records of {layout.block_bytes} bytes"
        rows.append(_row(label, rate / 1e9, "GB/s", ceilings.copy_bytes_per_s / 1e9))
    return rows


def _seconds(
    device: torch.device,
    cases: Cases,
    heads: Heads,
    dtype: torch.dtype,
    name: str,
    starts: list[int],
    counts: list[int],
) -> float:
    """Of one layer, writing its K and V included. ValueError where there is no such backend here."""
    num_blocks = sum(-(-(start + count) // _BLOCK_SIZE) for start, count in zip(starts, counts, strict=True))
    per_layer = num_blocks * BlockLayout(1, heads.kv_heads, heads.head_dim, _BLOCK_SIZE, dtype).block_bytes
    num_layers = max(1, min(64, -(-cases.past_cache_bytes // per_layer)))
    layout = BlockLayout(num_layers, heads.kv_heads, heads.head_dim, _BLOCK_SIZE, dtype)
    pages = layout.pages(layout.allocate(num_blocks, device))
    numbers = torch.randn(_BLOCK_SIZE, heads.head_dim, device=device)
    pages.elements.copy_(numbers.to(dtype) if pages.scales is None else (numbers * 100).to(dtype))
    if pages.scales is not None:
        pages.scales.fill_(0.01)
    backend = choose_attention(pages, [None] * num_layers, torch.bfloat16, name)
    batch = _moved(batch_of(starts, counts, num_blocks, seed=1), device)
    q, k, v = (
        torch.randn(sum(counts), num, heads.head_dim, dtype=torch.bfloat16, device=device)
        for num in (heads.num_heads, heads.kv_heads, heads.kv_heads)
    )
    # The first plan of a backend is made before it has seen a query.
    backend.run(q, k, v, 0, backend.plan(batch))
    plan = backend.plan(batch)

    def layers() -> None:
        for layer in range(num_layers):
            backend.run(q, k, v, layer, plan)

    return least_seconds(_replayed(layers, device), device, cases.rounds) / num_layers


def _replayed(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The launches of `call` as a graph, where there are graphs."""
    if device.type != "cuda":
        return call
    call()
    graph = _cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    replay: Callable[[], None] = graph.replay
    return replay


def _moved(batch: AttnBatch, device: torch.device) -> AttnBatch:
    return AttnBatch(
        query_starts=batch.query_starts,
        context_lens=batch.context_lens,
        block_table=batch.block_table.to(device),
        write_slots=batch.write_slots.to(device),
        positions=batch.positions.to(device),
    )


def _row(name: str, value: float, unit: str, ceiling: float) -> Row:
    return Row(name, value, unit, ceiling, value / ceiling)


def _name(dtype: torch.dtype) -> str:
    return {torch.float8_e4m3fn: "fp8", torch.bfloat16: "bf16"}.get(dtype, str(dtype).removeprefix("torch."))


def table_of(rows: list[Row], title: str) -> Table:
    table = Table("kernel", title=title)
    for column in ("measured", "ceiling", "share"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.name, f"{row.value:,.4g} {row.unit}", f"{row.ceiling:,.4g}", f"{row.share:.0%}")
    return table


@click.command()
@click.option("--only", type=click.Choice(PARTS), help="One part.")
def main(only: str | None) -> None:
    """Measure the attention kernels of a CUDA device."""
    if not torch.cuda.is_available():
        click.echo("bench.gpu_attention measures a CUDA device, and torch finds none here", err=True)
        sys.exit(1)
    device = torch.device("cuda", torch.cuda.current_device())
    rows = measure_attention(device, parts=PARTS if only is None else (only,))
    Console(width=max(Console().width, 110)).print(table_of(rows, torch.cuda.get_device_name(device)))


if __name__ == "__main__":
    main()
