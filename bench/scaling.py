"""How the stack scales: output tokens/s against running sequences, and TPOT against context, beside the roofline.

    python -m bench.scaling [--shape 135m] [--rounds 3] [--plots docs/figures] [--json FILE]

Everything goes through the whole stack over gRPC. Prompts are computed before (and found in the cache), so that the
figures are of decoding alone. The roofline is the bytes that a step cannot do without, which are the weights once and K
and V of every sequence, over the rate at which this machine reads as many bytes again and again, which is higher where
they fit into its caches; it is measured first. Each kind of weights has a stack of its own; they take turns within a
round and idle meanwhile.
"""

import functools
import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.scaling_plots import draw
from bench.step_cost import bytes_per_weight, weights_of_products
from bench.tiercel_peer import TiercelPeer
from bench.workloads import Workload, running
from engine.models.config import ModelConfig
from kernels.cpu.library import load_kernels
from tiercel.client import WorkerStatus

NUM_RUNNING = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 512, 1024, 2048, 4096, 8192)
CONTEXT_OF_MANY = 256
OUTPUT_TOKENS = 64
WEIGHTS = ("auto", "int8")
STRIDE = 64 << 20
SIZES = ("--device-cache", "2GiB", "--host-cache", "0", "--max-model-len", "8192")


@dataclass(frozen=True, slots=True)
class Point:
    """One number of sequences at one context; the step times of all rounds are per output token of a sequence."""

    weights: str
    num_running: int
    context: int
    """Tokens of each sequence as its last one is computed."""
    tpot_ms: list[float]
    roofline_ms: float

    @property
    def tokens_per_s(self) -> list[float]:
        return [1000 * self.num_running / each for each in self.tpot_ms]

    @property
    def roofline_tokens_per_s(self) -> float:
        return 1000 * self.num_running / self.roofline_ms


class Roofline:
    """Least time of a step by the bytes that it reads."""

    def __init__(self, config: ModelConfig, isa: str, read_bytes_per_s: Callable[[int], float]) -> None:
        """`read_bytes_per_s` measures the rate for a number of bytes; once for each 64 MiB of them."""
        self._num_weights = sum(weights_of_products(config))
        self._isa = isa
        self._read_bytes_per_s = functools.cache(read_bytes_per_s)

    def step_ms(self, worker: WorkerStatus, num_running: int, mean_context: float) -> float:
        kv_bytes = num_running * mean_context * worker.block_bytes / worker.block_size_tokens
        num_bytes = self._num_weights * bytes_per_weight(worker.weights, self._isa) + kv_bytes
        return 1000 * num_bytes / self._read_bytes_per_s(max(1, round(num_bytes / STRIDE)) * STRIDE)


def decode_tpot_ms(peer: TiercelPeer, workload: Workload) -> float:
    """Median over the sequences, their prompts being in the cache."""
    peer.run(workload.with_output(1))
    records = peer.run(workload)
    return 1000 * statistics.median(record.tpot_s for record in records if record.tpot_s is not None)


def cases(max_model_tokens: int) -> list[tuple[int, int]]:
    """Running sequences and context."""
    many = [(num_running, CONTEXT_OF_MANY) for num_running in NUM_RUNNING]
    return many + [(1, context) for context in CONTEXTS if context <= max_model_tokens]


def measure(
    peers: dict[str, TiercelPeer], vocab_size: int, rounds: int, roofline: Roofline, console: Console
) -> list[Point]:
    workers = {weights: peer.worker_status() for weights, peer in peers.items()}
    model_tokens = min(worker.max_model_tokens for worker in workers.values())
    points = {}
    with console.status("measuring how fast memory is read"):
        for num_running, context in cases(model_tokens):
            for weights, worker in workers.items():
                least = roofline.step_ms(worker, num_running, context - OUTPUT_TOKENS / 2)
                points[weights, num_running, context] = Point(worker.weights, num_running, context, [], least)
    for number in range(rounds):
        for num_running, context in cases(model_tokens):
            seed = 10_000_000 * number + 10_000 * num_running + context
            workload = running(vocab_size, seed, num_running, context, OUTPUT_TOKENS)
            for weights, peer in peers.items():
                point = points[weights, num_running, context]
                where = f"{num_running} at {context}, weights {point.weights}"
                with console.status(f"round {number + 1} of {rounds}: {where}"):
                    point.tpot_ms.append(decode_tpot_ms(peer, workload))
    return list(points.values())


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--weights", type=click.Choice(WEIGHTS), multiple=True, help="As for infer-cli up; default: each.")
@click.option("--kv-dtype", default="fp8", show_default=True, help="Of the blocks.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Draw the curves into this folder.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def main(
    shape: str, rounds: int, weights: tuple[str, ...], kv_dtype: str, plots: Path | None, json_path: Path | None
) -> None:
    """Curves of decoding through the whole stack: by running sequences and by context."""
    console = Console(stderr=True)
    path = checkpoint(SHAPES[shape])
    kernels = load_kernels()
    config = ModelConfig.from_hf(path)
    roofline = Roofline(config, kernels.isa, lambda num_bytes: kernels.ceilings(num_bytes).read_bytes_per_s)
    with ExitStack() as stops:
        peers = {}
        for each in weights or WEIGHTS:
            with console.status(f"starting the stack with weights {each}"):
                peers[each] = TiercelPeer(path, ("--kv-dtype", kv_dtype, "--weights", each, *SIZES))
                peers[each].start()
                stops.callback(peers[each].stop)
        points = measure(peers, SHAPES[shape].vocab_size, rounds, roofline, console)
    show(points, f"{shape}, {kv_dtype} blocks, median of {rounds}")
    if json_path is not None:
        facts = {"shape": shape, "kv_dtype": kv_dtype}
        json_path.write_text(json.dumps(facts | {"points": [asdict(point) for point in points]}, indent=1) + "\n")
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        draw(points, plots, shape, CONTEXT_OF_MANY)


def show(points: Sequence[Point], heading: str) -> None:
    table = Table("weights", "running", "context", "TPOT ms", "tok/s", "roofline tok/s", "of it", title=heading)
    for point in points:
        tokens_per_s = statistics.median(point.tokens_per_s)
        table.add_row(
            point.weights,
            str(point.num_running),
            str(point.context),
            f"{statistics.median(point.tpot_ms):.2f} ({min(point.tpot_ms):.2f}-{max(point.tpot_ms):.2f})",
            f"{tokens_per_s:.0f}",
            f"{point.roofline_tokens_per_s:.0f}",
            f"{tokens_per_s / point.roofline_tokens_per_s:.0%}",
        )
    Console(width=max(Console().width, 110)).print(table)


if __name__ == "__main__":
    main()
