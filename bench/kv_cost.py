"""What the KV dtype costs in time: one model step by work and dtype of the blocks, as a table.

    python -m bench.kv_cost [--shape 135m] [--rounds 9] [--threads 2] [--json]

A step is the whole forward pass, without sampling. The dtypes take turns within each round, so that a slow minute of
the machine hits all alike; the table shows the least over rounds, which other work disturbs least, and its ratio to
bf16.
"""

import json
import time
from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.step_cost import StepWork
from engine.execution.loading import LoadedModel, load_model
from kernels.attention.choice import choose_attention
from kernels.attention.protocol import AttnBatch
from kvstore.layout import BlockLayout

BLOCK_SIZE = 16
CPU = torch.device("cpu")
KV_DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "fp16": torch.float16, "fp32": torch.float32}


WORK = (
    StepWork("decode, 1 row at 128", 1, 127, 1),
    StepWork("decode, 8 rows at 512", 8, 511, 1),
    StepWork("decode, 32 rows at 300", 32, 299, 1),
    StepWork("decode, 1 row at 4096", 1, 4095, 1),
    StepWork("prefill, 64 after 512", 1, 512, 64),
    StepWork("prefill of 2048", 1, 0, 2048),
    StepWork("prefill, 512 after 1536", 1, 1536, 512),
)


def batch_of(work: StepWork) -> AttnBatch:
    """Rows take blocks in turn, so that no row's blocks lie side by side."""
    context = work.start + work.num_new
    blocks_per_row = -(-context // BLOCK_SIZE)
    table = torch.arange(work.num_rows)[:, None] + work.num_rows * torch.arange(blocks_per_row)
    positions = torch.arange(work.start, context)
    slots = table[:, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    return AttnBatch(
        query_starts=list(range(0, work.num_rows * work.num_new + 1, work.num_new)),
        context_lens=[context] * work.num_rows,
        block_table=table.int(),
        write_slots=slots.view(-1),
        positions=positions.repeat(work.num_rows),
    )


def step_of(
    loaded: LoadedModel, work: StepWork, kv_dtype: torch.dtype, backend: str | None = None
) -> Callable[[], torch.Tensor]:
    """A forward pass over a pool of its own, ready to run; `backend` as for `choose_attention`."""
    config, model, batch = loaded.config, loaded.model, batch_of(work)
    layout = BlockLayout(config.num_layers, config.num_kv_heads, config.head_dim, BLOCK_SIZE, kv_dtype)
    pool = layout.allocate(batch.block_table.numel(), CPU)
    attention = choose_attention(layout.pages(pool), config.windows, model.dtype, backend)
    ids = torch.randint(0, config.vocab_size, (batch.num_tokens,), generator=torch.Generator().manual_seed(1)).int()
    last = torch.tensor(batch.query_starts[1:]) - 1

    def step() -> torch.Tensor:
        hidden = model.hidden(ids, batch.positions, None, attention, attention.plan(batch))
        return model.logits(hidden[last])

    return step


@torch.inference_mode()
def measure(loaded: LoadedModel, work: StepWork, rounds: int) -> dict[str, float]:
    """Least milliseconds of a step by KV dtype."""
    steps = {name: step_of(loaded, work, kv_dtype) for name, kv_dtype in KV_DTYPES.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if number:
                times[name].append(time.perf_counter() - started)
    return {name: 1000 * min(each) for name, each in times.items()}


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(shape: str, rounds: int, threads: int, as_json: bool) -> None:
    """Time of one model step by work and KV dtype."""
    torch.set_num_threads(threads)
    console = Console(stderr=True)
    with console.status("making and loading the checkpoint"):
        loaded = load_model(checkpoint(SHAPES[shape]), device=CPU)
    results: dict[str, dict[str, float]] = {}
    for work in WORK:
        with console.status(work.name):
            results[work.name] = measure(loaded, work, rounds)
    if as_json:
        click.echo(json.dumps({"shape": shape, "rounds": rounds, "threads": threads, "step_ms": results}))
        return
    table = Table(f"{shape}, ms per step", *KV_DTYPES)
    for name, times in results.items():
        table.add_row(name, *(f"{each:.2f}  ×{each / times['bf16']:.2f}" for each in times.values()))
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
