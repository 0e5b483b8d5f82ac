"""Everything that is asked of a CUDA device, measured in one call beside its own ceilings, as a table.

    python -m bench.gpu [--json FILE] [--only ceilings|attention|steps|transfers]

Takes some minutes of one idle device; needs about 45 GB of its memory. Models have random weights, made on the device.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console

from bench.gpu_attention import measure_attention
from bench.gpu_ceilings import DeviceCeilings, Sizes, measure_ceilings
from bench.gpu_figures import Asked, Figure, table_of
from bench.gpu_models import LLAMA_8B, QWEN3_06B, random_model
from bench.gpu_steps import KV_DTYPE, StepSizes, measure_steps
from bench.gpu_transfers import measure_transfers
from engine.models.config import ModelConfig
from kvstore.layout import BlockLayout

ATTENTION_SHARE = 0.75
_TRANSFER_BYTES = 2 << 30

MODELS = {"0.6b": QWEN3_06B, "8b": LLAMA_8B}
PARTS = ("attention", "steps", "transfers")


def ceiling_figures(ceilings: DeviceCeilings) -> list[Figure]:
    return [
        Figure("ceiling: copy within the device", ceilings.copy_bytes_per_s / 1e9, "GB/s"),
        Figure("ceiling: bf16 product", ceilings.bf16_flops_per_s / 1e12, "TFLOP/s"),
        Figure("ceiling: page-locked memory to device", ceilings.to_device_bytes_per_s / 1e9, "GB/s"),
        Figure("ceiling: device to page-locked memory", ceilings.to_host_bytes_per_s / 1e9, "GB/s"),
    ]


def attention_figures(device: torch.device, ceilings: DeviceCeilings) -> list[Figure]:
    return [
        Figure(
            row.name,
            row.value,
            row.unit,
            row.ceiling,
            row.share,
            Asked(">=", ATTENTION_SHARE) if row.name.startswith("decode attention") else None,
        )
        for row in measure_attention(device, ceilings=ceilings)
    ]


def step_figures(
    models: dict[str, ModelConfig], ceilings: DeviceCeilings, sizes: StepSizes, device: torch.device
) -> list[Figure]:
    figures: list[Figure] = []
    for name, config in models.items():
        figures += measure_steps(name, random_model(config, sizes.longest, device), ceilings, sizes)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return figures


def transfer_figures(
    models: dict[str, ModelConfig], ceilings: DeviceCeilings, num_bytes: int, device: torch.device
) -> list[Figure]:
    figures: list[Figure] = []
    for config in models.values():
        layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, 16, KV_DTYPE)
        figures += measure_transfers(layout, num_bytes, ceilings, device)
    return figures


def report(device: torch.device, figures: list[Figure], failures: dict[str, str]) -> dict[str, object]:
    """The content of the JSON file."""
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "device": properties.name if properties is not None else "cpu",
        "memory_bytes": properties.total_memory if properties is not None else None,
        "torch": torch.__version__,
        "figures": [asdict(figure) | {"is_met": figure.is_met} for figure in figures],
        "failures": failures,
    }


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there as well.")
@click.option("--only", type=click.Choice(PARTS), help="One part, beside the ceilings.")
def main(json_file: Path | None, only: str | None) -> None:
    """Measure what is asked of a CUDA device."""
    if not torch.cuda.is_available():
        click.echo("bench.gpu measures a CUDA device, and torch finds none here", err=True)
        sys.exit(1)
    device = torch.device("cuda", torch.cuda.current_device())
    console = Console(width=max(Console().width, 130))
    ceilings = measure_ceilings(device, Sizes())
    torch.cuda.empty_cache()
    figures = ceiling_figures(ceilings)
    parts: dict[str, Callable[[], list[Figure]]] = {
        "attention": lambda: attention_figures(device, ceilings),
        "steps": lambda: step_figures(MODELS, ceilings, StepSizes(), device),
        "transfers": lambda: transfer_figures(MODELS, ceilings, _TRANSFER_BYTES, device),
    }
    failures: dict[str, str] = {}
    for name, measure in parts.items():
        if only not in (None, name):
            continue
        click.echo(f"measuring {name}", err=True)
        try:
            figures += measure()
        except Exception as error:  # the other parts' figures are worth having
            failures[name] = repr(error)
        if json_file is not None:
            json_file.write_text(json.dumps(report(device, figures, failures), indent=1))
        torch.cuda.empty_cache()
    console.print(table_of(figures, torch.cuda.get_device_name(device)))
    for name, message in failures.items():
        click.echo(f"{name} failed: {message}", err=True)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
