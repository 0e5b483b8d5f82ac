"""One model step beside what the machine allows: time, share of the roofline, and torch's operations, as a table.

    python -m bench.roofline [--shape 135m] [--kv-dtype fp8] [--weights int8] [--rounds 9] [--threads 2] [--json]

The roofline of a step is the larger of two times: its bytes (all weights once, the K and V that it reads) over the
rate at which as many bytes are streamed again and again, much of which the last cache may hold, and its multiplications
over the rate of products in registers, AMX tiles or dot products in vectors, of int8 or bf16 (of fp32 where there are
none). All ceilings are measured in the same run. A step is the whole forward pass without sampling, its logits
included; native and torch steps take turns, and the table shows the least over rounds, which other work disturbs least.
"""

import json
import time
from dataclasses import asdict, dataclass

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.kv_cost import CPU, KV_DTYPES, WORK, step_of
from bench.step_cost import Cost, bytes_per_weight, cost_of
from engine.execution.loading import load_model
from kernels.cpu.library import Ceilings, CpuKernels, load_kernels


def arithmetic_s(cost: Cost, ceilings: Ceilings) -> float:
    bf16 = ceilings.bf16_flops_per_s or ceilings.fp32_flops_per_s
    products = bf16 if cost.weight_bytes > 1 else ceilings.int8_ops_per_s or bf16
    return cost.product_flops / products + cost.attention_flops / bf16


def least_s(cost: Cost, ceilings: Ceilings) -> float:
    return max(cost.num_bytes / ceilings.read_bytes_per_s, arithmetic_s(cost, ceilings))


@dataclass(frozen=True, slots=True)
class Measured:
    native_ms: float
    torch_ms: float
    least_ms: float
    """The roofline."""
    read_share: float
    """Of the streaming rate."""
    arithmetic_share: float
    """Of the rate of products in registers."""


@torch.inference_mode()
def measure(
    shape: str, kv_dtype: torch.dtype, int8_weights: bool, rounds: int, kernels: CpuKernels
) -> dict[str, Measured]:
    path = checkpoint(SHAPES[shape])
    native, plain = load_model(path, device=CPU, int8_weights=int8_weights), load_model(path, device=CPU, isa=None)
    weight_bytes = bytes_per_weight("int8" if int8_weights else "bf16", kernels.isa)
    results = {}
    for work in WORK:
        steps = {"native": step_of(native, work, kv_dtype), "torch": step_of(plain, work, kv_dtype, "torch")}
        least = dict.fromkeys(steps, float("inf"))
        for number in range(rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if number:
                    least[name] = min(least[name], time.perf_counter() - started)
        cost = cost_of(work, native.config, kv_dtype, weight_bytes)
        ceilings = kernels.ceilings(int(cost.num_bytes))
        results[work.name] = Measured(
            native_ms=1000 * least["native"],
            torch_ms=1000 * least["torch"],
            least_ms=1000 * least_s(cost, ceilings),
            read_share=cost.num_bytes / least["native"] / ceilings.read_bytes_per_s,
            arithmetic_share=arithmetic_s(cost, ceilings) / least["native"],
        )
    return results


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--kv-dtype", type=click.Choice(list(KV_DTYPES)), default="fp8", show_default=True)
@click.option("--weights", type=click.Choice(["auto", "int8"]), default="auto", show_default=True, help="Ours.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(shape: str, kv_dtype: str, weights: str, rounds: int, threads: int, as_json: bool) -> None:
    """A model step beside what the machine allows."""
    torch.set_num_threads(threads)
    kernels = load_kernels()
    ceilings = kernels.ceilings()
    with Console(stderr=True).status("measuring"):
        results = measure(shape, KV_DTYPES[kv_dtype], weights == "int8", rounds, kernels)
    if as_json:
        steps = {name: asdict(each) for name, each in results.items()}
        click.echo(json.dumps({"isa": kernels.isa, "ceilings": asdict(ceilings), "steps": steps}))
        return
    click.echo(
        f"{kernels.isa}: reads {ceilings.read_bytes_per_s / 1e9:.1f} GB/s (of 1 GiB), copies "
        f"{ceilings.copy_bytes_per_s / 1e9:.1f} GB/s, fp32 {ceilings.fp32_flops_per_s / 1e12:.2f} TFLOP/s, bf16 "
        f"{ceilings.bf16_flops_per_s / 1e12:.2f} TFLOP/s, int8 {ceilings.int8_ops_per_s / 1e12:.2f} TOP/s"
    )
    table = Table(
        f"{shape}, weights {weights}, {kv_dtype} blocks",
        "native ms",
        "torch ms",
        "ratio",
        "roofline ms",
        "of reading",
        "of products",
    )
    for name, each in results.items():
        table.add_row(
            name,
            f"{each.native_ms:.2f}",
            f"{each.torch_ms:.2f}",
            f"×{each.torch_ms / each.native_ms:.1f}",
            f"{each.least_ms:.2f}",
            f"{each.read_share:.0%}",
            f"{each.arithmetic_share:.0%}",
        )
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
