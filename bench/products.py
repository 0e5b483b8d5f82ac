"""The decoder's products alone beside what the machine allows, as a table.

    python -m bench.products [--rounds 9] [--threads 2] [--json]

Few rows are a stream of weights: GB/s beside the streaming rate. Many are arithmetic: TFLOP/s beside the rate of tiles
in registers, and beside torch's own product of the same matrices. Each repetition multiplies by the next of several
copies of the weight, which together are larger than a core's caches, as a model's layers are. The rows' RMSNorm, their
rounding to int8 and the writing of the sums in fp32 are in our times; within a layer, sums go to memory as what is made
of them. The steps of many tokens are in `bench.roofline`.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.step_cost import bytes_per_weight
from kernels.cpu.decoder import CpuDecoder, DecoderShape, LayerWeights, LinearWeights
from kernels.cpu.library import Ceilings, CpuKernels, load_kernels

WEIGHTS = {"135m, gate and up": (576, 3072), "135m, down": (1536, 576), "0.6b, gate and up": (1024, 6144)}
"""Inputs and outputs."""

NUM_ROWS = (1, 8, 32, 64, 256)
COPIES_BYTES = 96 << 20
"""Of all copies of a weight together, in bf16."""


@dataclass(frozen=True, slots=True)
class Row:
    weight: str
    num_rows: int
    values: str
    """bf16 or int8, of the weight and the rows."""
    us: float
    """Microseconds of a product."""
    read_share: float
    """Of the streaming rate, the weight being all that is read."""
    ops_share: float
    """Of the rate of tiles in registers."""
    torch_ratio: float
    """Torch's time for bf16 over ours."""


def product(kernels: CpuKernels, weight: torch.Tensor, int8: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Normalised rows times a weight [outputs, inputs]: the last step of a decoder that has nothing before it."""
    outputs, inputs = weight.shape
    tiny = LinearWeights(torch.zeros(32, 32, dtype=torch.bfloat16))
    norm = torch.ones(inputs)
    layer = LayerWeights(norm, tiny, None, None, tiny, norm, tiny, tiny, None)
    shape = DecoderShape(inputs, inputs // 8, inputs // 8, 8, inputs, outputs, 1e-5)
    return CpuDecoder(kernels, shape, [layer], norm, weight[:1], weight, int8_weights=int8).logits


@torch.inference_mode()
def measure(kernels: CpuKernels, ceilings: Ceilings, name: str, rounds: int) -> list[Row]:
    inputs, outputs = WEIGHTS[name]
    num_copies = -(-COPIES_BYTES // (2 * inputs * outputs))
    weights = [torch.randn(outputs, inputs).bfloat16() for _ in range(num_copies)]
    ours = {"bf16": [product(kernels, weight, False) for weight in weights]}
    if ceilings.int8_ops_per_s:
        ours["int8"] = [product(kernels, weight, True) for weight in weights]
    found = []
    for num_rows in NUM_ROWS:
        rows = torch.randn(num_rows, inputs)
        narrow = rows.bfloat16()
        least = dict.fromkeys((*ours, "torch"), float("inf"))
        for number in range(rounds + 1):
            for way in least:
                started = time.perf_counter()
                for i in range(num_copies):
                    if way == "torch":
                        torch.mm(narrow, weights[i].T)
                    else:
                        ours[way][i](rows)
                if number:
                    least[way] = min(least[way], (time.perf_counter() - started) / num_copies)
        ops = 2 * num_rows * inputs * outputs
        rates = {"bf16": ceilings.bf16_flops_per_s or ceilings.fp32_flops_per_s, "int8": ceilings.int8_ops_per_s}
        for values in ("bf16", "int8"):
            if values in ours:
                seconds = least[values]
                num_bytes = bytes_per_weight(values, kernels.isa) * inputs * outputs
                read_share = num_bytes / seconds / ceilings.read_bytes_per_s
                ops_share = ops / seconds / rates[values]
                ratio = least["torch"] / seconds
                found.append(Row(name, num_rows, values, 1e6 * seconds, read_share, ops_share, ratio))
    return found


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(rounds: int, threads: int, as_json: bool) -> None:
    """Products by weight, rows and type of values."""
    torch.set_num_threads(threads)
    kernels = load_kernels()
    ceilings = kernels.ceilings()
    found: list[Row] = []
    for name in WEIGHTS:
        with Console(stderr=True).status(name):
            found += measure(kernels, ceilings, name, rounds)
    if as_json:
        click.echo(json.dumps({"isa": kernels.isa, "ceilings": asdict(ceilings), "rows": [asdict(r) for r in found]}))
        return
    click.echo(
        f"{kernels.isa}: reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s, bf16 "
        f"{(ceilings.bf16_flops_per_s or ceilings.fp32_flops_per_s) / 1e12:.2f} TFLOP/s, int8 "
        f"{ceilings.int8_ops_per_s / 1e12:.2f} TOP/s"
    )
    table = Table("weight", "rows", "values", "µs", "of reading", "of products", "torch's bf16 time")
    for row in found:
        shares = (f"{row.read_share:.0%}", f"{row.ops_share:.0%}", f"×{row.torch_ratio:.2f}")
        table.add_row(row.weight, str(row.num_rows), row.values, f"{row.us:.0f}", *shares)
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    main()
