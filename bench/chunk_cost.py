"""What a step of few new tokens costs beside a step of one, which is the reading of all weights: a table by tokens.

    python -m bench.chunk_cost [--shape 135m] [--kv-dtype bf16] [--start 0] [--rounds 9] [--threads 2] [--json]

Such steps are what a prompt costs whose beginning is cached, and what chunks beside decode are. A step is the whole
forward pass of one row without sampling, the logits of its last token included. Sizes and types of weights take turns
within each round; the table shows the least over rounds, which other work disturbs least.
"""

import json
import time

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.kv_cost import CPU, KV_DTYPES, step_of
from bench.step_cost import StepWork
from engine.execution.loading import load_model

NUM_NEW = (1, 8, 16, 32, 48, 64, 80, 96, 128, 160, 256)
STEPS_IN_TURN = 2
"""The first brings back into the caches what the others have driven out, as the step before it would have."""


@torch.inference_mode()
def measure(shape: str, kv_dtype: torch.dtype, start: int, rounds: int) -> dict[str, dict[int, float]]:
    """Least milliseconds by type of weights and number of new tokens."""
    path = checkpoint(SHAPES[shape])
    models = {name: load_model(path, device=CPU, int8_weights=name == "int8") for name in ("bf16", "int8")}
    steps = {
        (name, num_new): step_of(model, StepWork("chunk", 1, start, num_new), kv_dtype)
        for name, model in models.items()
        for num_new in NUM_NEW
    }
    least: dict[str, dict[int, float]] = {name: dict.fromkeys(NUM_NEW, float("inf")) for name in models}
    for _ in range(rounds):
        for (name, num_new), step in steps.items():
            for _ in range(STEPS_IN_TURN):
                started = time.perf_counter()
                step()
                least[name][num_new] = min(least[name][num_new], 1000 * (time.perf_counter() - started))
    return least


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--kv-dtype", type=click.Choice(list(KV_DTYPES)), default="bf16", show_default=True)
@click.option("--start", type=click.IntRange(0), default=0, show_default=True, help="Tokens that are there already.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(shape: str, kv_dtype: str, start: int, rounds: int, threads: int, as_json: bool) -> None:
    """Time of a step by new tokens, beside that of one."""
    torch.set_num_threads(threads)
    with Console(stderr=True).status("measuring"):
        least = measure(shape, KV_DTYPES[kv_dtype], start, rounds)
    if as_json:
        click.echo(json.dumps({"shape": shape, "kv_dtype": kv_dtype, "start": start, "step_ms": least}))
        return
    table = Table(f"{shape}, {kv_dtype} blocks, new tokens after {start}", *(f"{name}, ms" for name in least))
    for num_new in NUM_NEW:
        table.add_row(str(num_new), *(f"{ms[num_new]:.1f}  ×{ms[num_new] / ms[1]:.2f}" for ms in least.values()))
    Console(width=max(Console().width, 80)).print(table)


if __name__ == "__main__":
    main()
