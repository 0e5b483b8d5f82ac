"""Time to first token by where the prompt's blocks are: ``python -m bench.ttft --shape 135m --prompt-tokens 2048``.

Every prompt is new to its stack's caches before its first run, and each hit is checked against the usage that the
server reports. The device cache holds little more than one prompt, so that another prompt of the same length evicts it.
Where the time went is what the server's own report of each request says.
"""

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, Shape, checkpoint
from bench.tiercel_peer import TiercelPeer
from bench.workloads import FIRST_ID
from kernels.cpu.library import ISAS
from tiercel.client import AsyncClient, Delta, Finished

BLOCK_TOKENS = 16
PLACES = ("recompute", "device", "host", "disk, page cache warm", "disk, after restart, cold")


@dataclass(frozen=True)
class Sample:
    """One request: seconds to the first token, of these what the server names, and prompt tokens found by tier."""

    ttft_s: float
    fetch_s: float
    load_s: float
    prefill_s: float
    device: int
    host: int
    disk: int

    @property
    def other_s(self) -> float:
        return self.ttft_s - self.fetch_s - self.load_s - self.prefill_s


def block_bytes(shape: Shape, kv_dtype: str) -> int:
    """As `kvstore/layout.py` has it, which a client may not import."""
    element = {"fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4}[kv_dtype]
    scale = 2 if kv_dtype == "fp8" else 0
    rows = shape.num_hidden_layers * 2 * shape.num_key_value_heads * BLOCK_TOKENS
    return rows * (shape.head_dim * element + scale)


class Subject:
    """A stack over one cache directory, with room on the device for one prompt and a bit."""

    def __init__(self, shape: Shape, prompt_tokens: int, kv_dtype: str, settings: dict[str, str], folder: Path) -> None:
        """`settings` are the worker's."""
        config = folder / "tiercel.toml"
        config.write_text("\n".join(["[worker]", *(f'{key} = "{value}"' for key, value in settings.items()), ""]))
        self._folder = folder
        self._prompt_tokens = prompt_tokens
        self._vocab_size = shape.vocab_size
        blocks = prompt_tokens // BLOCK_TOKENS
        size = block_bytes(shape, kv_dtype)
        self._peer = TiercelPeer(
            checkpoint(shape),
            (
                *("--kv-dtype", kv_dtype),
                *("--max-model-len", str(prompt_tokens + 2 * BLOCK_TOKENS)),
                *("--device-cache", str((blocks + blocks // 4 + 8) * size)),
                *("--host-cache", str((4 * blocks) * size)),
                *("--disk-cache", str(max(64 << 20, 24 * blocks * size))),
                *("--cache-dir", str(folder / "kv"), "--config", str(config)),
            ),
        )

    def prompt(self, seed: int) -> list[int]:
        draw = random.Random(seed)
        return [draw.randrange(FIRST_ID, self._vocab_size) for _ in range(self._prompt_tokens)]

    def start(self) -> None:
        self._peer.start()
        # The first request warms the code up; it is of a length of its own and shares nothing.
        self.ask([FIRST_ID + 1] * (self._prompt_tokens // 2))

    def stop(self) -> None:
        self._peer.stop()

    def drop_page_cache(self) -> None:
        """Only of the cache's own files; needs no rights."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)

    def ask(self, prompt: list[int]) -> Sample:
        return asyncio.run(self._ask(prompt))

    async def _ask(self, prompt: list[int]) -> Sample:
        async with AsyncClient(self._peer.target) as client:
            sent = time.perf_counter()
            ttft_s = 0.0
            async for event in client.stream(prompt, temperature=0.0, max_tokens=1, ignore_eos=True):
                if isinstance(event, Delta) and event.token_ids:
                    ttft_s = time.perf_counter() - sent
                if isinstance(event, Finished):
                    cached, report = event.usage.cached_tokens, event.report
                    spans = (report.fetch_ns / 1e9, report.load_ns / 1e9, report.prefill_ns / 1e9)
                    return Sample(ttft_s, *spans, cached.device, cached.host, cached.disk)
        raise RuntimeError("the answer had no end")


def measure(
    shape: Shape, prompt_tokens: int, kv_dtype: str, rounds: int, settings: dict[str, str], folder: Path
) -> dict[str, list[Sample]]:
    """`rounds` samples for each place, every one with a prompt of its own. A restart lies before each disk hit."""
    samples: dict[str, list[Sample]] = {place: [] for place in PLACES}
    subject = Subject(shape, prompt_tokens, kv_dtype, settings, folder)
    subject.start()
    for number in range(rounds):
        prompt, others = subject.prompt(number), [subject.prompt(1000 * (1 + number) + i) for i in range(2)]
        samples["recompute"].append(subject.ask(prompt))
        samples["device"].append(subject.ask(prompt))
        for other in others:
            subject.ask(other)
        samples["host"].append(subject.ask(prompt))
    for place, is_cold in (("disk, page cache warm", False), ("disk, after restart, cold", True)):
        for number in range(rounds):
            subject.stop()
            if is_cold:
                subject.drop_page_cache()
            subject.start()
            samples[place].append(subject.ask(subject.prompt(number)))
    subject.stop()
    return samples


@click.command()
@click.option("--shape", "shape_name", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option(
    "--prompt-tokens",
    "lengths",
    type=click.IntRange(4 * BLOCK_TOKENS),
    multiple=True,
    default=(2048,),
    show_default=True,
    help="Tokens of each prompt, at most what the shape has positions for; may be given several times.",
)
@click.option("--kv-dtype", type=click.Choice(["fp8", "bf16", "fp16", "fp32"]), default="fp8", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Samples per place.")
@click.option("--disk-limit", default="0", show_default=True, help="SIZE a second that fetches may read; 0: no limit.")
@click.option(
    "--cpu-kernels",
    type=click.Choice(["auto", *ISAS, "off"]),
    default="auto",
    show_default=True,
    help="Best instruction set of the worker's kernels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def main(
    shape_name: str,
    lengths: tuple[int, ...],
    kv_dtype: str,
    rounds: int,
    disk_limit: str,
    cpu_kernels: str,
    as_json: bool,
) -> None:
    """Print TTFT for a prompt that is nowhere, on the device, in host memory and on disk."""
    shape = SHAPES[shape_name]
    settings = {"disk_read_limit": disk_limit, "cpu_kernels": cpu_kernels}
    found: dict[int, dict[str, list[Sample]]] = {}
    for length in lengths:
        # Two blocks of positions are left for the answer.
        prompt_tokens = min(length, shape.max_position_embeddings - 2 * BLOCK_TOKENS)
        with tempfile.TemporaryDirectory(prefix="tiercel-ttft-") as folder:
            found[prompt_tokens] = measure(shape, prompt_tokens, kv_dtype, rounds, settings, Path(folder))
    if as_json:
        click.echo(
            json.dumps(
                {
                    prompt_tokens: {place: [asdict(sample) for sample in each] for place, each in samples.items()}
                    for prompt_tokens, samples in found.items()
                }
            )
        )
        return
    columns = ("prompt", "its blocks", "TTFT ms", "range", "times faster", "fetch", "load", "prefill", "other")
    table = Table(*columns, "found: device / host / disk")
    for prompt_tokens, samples in found.items():
        _add_rows(table, prompt_tokens, samples)
    console = Console(width=max(Console().width, 130))
    console.print(
        f"{shape_name} shape, KV {kv_dtype}, kernels {cpu_kernels}, median of {rounds}; fetch to other: ms of TTFT"
    )
    console.print(table)


def _add_rows(table: Table, prompt_tokens: int, samples: dict[str, list[Sample]]) -> None:
    medians = {place: statistics.median(sample.ttft_s for sample in samples[place]) for place in PLACES}
    for place in PLACES:
        times = [1e3 * sample.ttft_s for sample in samples[place]]
        found = " / ".join(
            str(round(statistics.median(getattr(sample, tier) for sample in samples[place])))
            for tier in ("device", "host", "disk")
        )
        ratio = f"{medians['recompute'] / medians[place]:.1f}"
        spans = [
            f"{1e3 * statistics.median(part):.1f}"
            for part in zip(
                *((each.fetch_s, each.load_s, each.prefill_s, each.other_s) for each in samples[place]), strict=True
            )
        ]
        spread = f"{min(times):.1f}-{max(times):.1f}"
        table.add_row(str(prompt_tokens), place, f"{statistics.median(times):.1f}", spread, ratio, *spans, found)


if __name__ == "__main__":
    main()
