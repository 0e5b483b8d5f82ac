"""Memory of the services: what the worker accounts for beside what its process takes, and whether anything grows.

    python -m bench.memory [--shape 135m --shape 0.6b] [--weights int8] [--steps 100000] [--json FILE]

For each shape a stack serves W1 and a long prompt; then the sizes that the worker states (weights, device pool, host
tier) stand beside its peak resident memory. After that the demo model runs through as many steps as asked, a few short
requests at a time, in caches so small that they are soon full; resident memory of each service is read after each batch
of requests, and medians over the first and the last third show whether it grows. Linux only: it reads /proc.
"""

import asyncio
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.checkpoints import SHAPES, checkpoint
from bench.tiercel_peer import TiercelPeer
from bench.workloads import prefill, running, throughput
from tiercel.client import AsyncClient, StackStatus

MIB = 1 << 20
SIZES = ("--device-cache", "1GiB", "--host-cache", "512MiB", "--max-model-len", "8192")
SMALL_CACHES = ("--device-cache", "16MiB", "--host-cache", "16MiB", "--disk-cache", "64MiB")


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes."""

    libraries: int
    """Of a process that has imported the engine and its libraries and loaded nothing."""
    weights: int
    device: int
    host: int
    peak_rss: int

    @property
    def accounted(self) -> int:
        return self.libraries + self.weights + self.device + self.host


@dataclass(frozen=True, slots=True)
class Growth:
    """Medians of resident bytes over the readings of the first and of the last third."""

    first: int
    last: int

    @classmethod
    def of(cls, readings: Sequence[int]) -> "Growth":
        third = max(1, len(readings) // 3)
        return cls(int(statistics.median(readings[:third])), int(statistics.median(readings[-third:])))

    @property
    def share(self) -> float:
        return self.last / self.first - 1


def proc_bytes(pid: int | str, key: str) -> int:
    """A size of `/proc/PID/status`: VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise KeyError(key)


def library_bytes() -> int:
    code = "import bench.memory as m, engine.execution.loading; print(m.proc_bytes('self', 'VmRSS'))"
    return int(subprocess.check_output([sys.executable, "-c", code], text=True))


def status_of(peer: TiercelPeer) -> StackStatus:
    async def ask() -> StackStatus:
        async with AsyncClient(peer.target) as client:
            return await client.status()

    return asyncio.run(ask())


def footprint(peer: TiercelPeer, vocab_size: int) -> Footprint:
    peer.start()
    try:
        peer.run(throughput(vocab_size, 7))
        peer.run(prefill(vocab_size, 8, 4096))
        (service,) = (each for each in status_of(peer).services if each.worker is not None)
        worker = service.worker
        assert worker is not None
        blocks = {tier.tier: tier.capacity_blocks for tier in worker.tiers}
        return Footprint(
            libraries=library_bytes(),
            weights=worker.weight_bytes,
            device=blocks.get("device", 0) * worker.block_bytes,
            host=blocks.get("host", 0) * worker.block_bytes,
            peak_rss=proc_bytes(service.pid, "VmHWM"),
        )
    finally:
        peer.stop()


def growth(steps: int, console: Console) -> tuple[int, dict[str, Growth]]:
    """Steps that ran, and the growth of each service."""
    peer = TiercelPeer(Path("demo"), SMALL_CACHES)
    readings: dict[str, list[int]] = defaultdict(list)
    peer.start()
    try:
        (vocab_size,) = (model.vocab_size for model in status_of(peer).models)
        ran = number = 0
        with console.status("") as status:
            while ran < steps:
                peer.run(running(vocab_size, number, 8, 128, 96))
                number += 1
                services = status_of(peer).services
                ran = sum(service.worker.steps for service in services if service.worker is not None)
                for service in services:
                    readings[service.role].append(proc_bytes(service.pid, "VmRSS"))
                status.update(f"{ran} of {steps} steps")
    finally:
        peer.stop()
    return ran, {role: Growth.of(each) for role, each in readings.items()}


@click.command()
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, help="Default: each.")
@click.option("--weights", type=click.Choice(["auto", "int8"]), default="auto", show_default=True)
@click.option("--steps", type=click.IntRange(0), default=100_000, show_default=True, help="0: leave this part out.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def main(shapes: tuple[str, ...], weights: str, steps: int, json_path: Path | None) -> None:
    """The worker's memory by part, and the growth of all services over many steps."""
    console = Console(stderr=True)
    footprints: dict[str, Footprint] = {}
    table = Table(
        "shape", "libraries", "weights", "device pool", "host tier", "accounted MiB", "peak RSS MiB", "beyond MiB"
    )
    for shape in shapes or SHAPES:
        with console.status(f"serving {shape}"):
            peer = TiercelPeer(checkpoint(SHAPES[shape]), ("--weights", weights, *SIZES))
            each = footprints[shape] = footprint(peer, SHAPES[shape].vocab_size)
        sizes = (
            each.libraries,
            each.weights,
            each.device,
            each.host,
            each.accounted,
            each.peak_rss,
            each.peak_rss - each.accounted,
        )
        table.add_row(shape, *(f"{size / MIB:.0f}" for size in sizes))
    Console().print(table)
    growths: dict[str, Growth] = {}
    if steps:
        ran, growths = growth(steps, console)
        for role, change in growths.items():
            click.echo(
                f"{role}: {change.first / MIB:.1f} MiB in the first third of {ran} steps, "
                f"{change.last / MIB:.1f} in the last ({change.share:+.1%})"
            )
    if json_path is not None:
        figures = {
            "footprints": {shape: asdict(each) for shape, each in footprints.items()},
            "growth": {role: asdict(each) for role, each in growths.items()},
        }
        json_path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
