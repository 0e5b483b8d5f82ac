"""The tiers below the device, measured beside what the machine gives.

    python -m bench.tiers moves [--block-bytes 921600] [--rows 256] [--rounds 5] [--json]
    python -m bench.tiers churn [--cap 512MiB] [--times 10] [--json]

`moves`: GB/s of spill, load, persist and fetch through the executor, with memcpy and a raw file in the same rounds.
`churn`: why the records lie in a slab file: the same traffic on LMDB with the records as values.
Both write to `--directory`, which decides the disk that is measured.
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.tier_churn import Churn, LmdbValues, SlabAndIndex, Way, measure_churn
from bench.tier_moves import measure_moves

CEILINGS = {
    "spill, scattered": "memcpy, one block at a time",
    "load, scattered": "memcpy, one block at a time",
    "spill, contiguous": "memcpy, in one piece",
    "load, contiguous": "memcpy, in one piece",
    "persist": "raw file, write",
    "fetch, warm": "raw file, read warm",
    "fetch, cold": "raw file, read cold",
}

_UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


def parse_size(_context: click.Context, _option: click.Parameter, text: str) -> int:
    for unit, scale in _UNITS.items():
        if text.endswith(unit):
            return int(text.removesuffix(unit)) * scale
    raise click.BadParameter("write a whole number of MiB or GiB, such as 512MiB")


directory_option = click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path(tempfile.gettempdir()),
    show_default=True,
    help="On the disk to measure.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
block_option = click.option("--block-bytes", type=click.IntRange(64), default=921600, show_default=True)


@click.group()
def main() -> None:
    """The tiers below the device."""


@main.command()
@block_option
@click.option("--rows", type=click.IntRange(16), default=256, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@directory_option
@json_option
def moves(block_bytes: int, rows: int, rounds: int, directory: Path, as_json: bool) -> None:
    """GB/s of the four moves beside their ceilings: medians over rounds, and their range."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(dir=directory) as folder, console.status("") as status:
        rates = measure_moves(
            Path(folder), block_bytes, rows, rounds, lambda number: status.update(f"round {number} of {rounds + 1}")
        )
    if as_json:
        click.echo(json.dumps({"block_bytes": block_bytes, "rows": rows, "gb_per_s": rates}))
        return
    table = Table(title=f"{rows} blocks of {block_bytes} bytes, GB/s, median of {rounds} rounds (lowest-highest)")
    table.add_column("move")
    for title in ("GB/s", "ceiling", "GB/s", "share"):
        table.add_column(title, justify="right")
    for move, ceiling in CEILINGS.items():
        # Of each round its own share: both were measured within the same second or two.
        share = statistics.median(a / b for a, b in zip(rates[move], rates[ceiling], strict=True))
        table.add_row(move, _spread(rates[move]), ceiling, _spread(rates[ceiling]), f"{share:.0%}")
    Console().print(table)


@main.command()
@block_option
@click.option("--cap", callback=parse_size, default="512MiB", show_default=True)
@click.option(
    "--times", type=click.FloatRange(1), default=10.0, show_default=True, help="How often the cap is written."
)
@directory_option
@json_option
def churn(block_bytes: int, cap: int, times: float, directory: Path, as_json: bool) -> None:
    """Growth of the file and bandwidth when several times the cap is written."""
    outcomes: list[Churn] = []
    makers: list[Callable[[Path], Way]] = [
        lambda folder: LmdbValues(folder, block_bytes, cap, sync=False),
        lambda folder: LmdbValues(folder, block_bytes, cap, sync=True),
        lambda folder: SlabAndIndex(folder, block_bytes, cap),
    ]
    console = Console(stderr=True)
    with console.status("") as status:
        for maker in makers:
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                way = maker(Path(folder))
                show = _progress(status.update, way.way)
                outcomes.append(measure_churn(way, block_bytes, cap, times, show))
    if as_json:
        click.echo(json.dumps([asdict(outcome) for outcome in outcomes]))
        return
    table = Table(title=f"records of {block_bytes} bytes, {times:g} times a cap of {cap >> 20} MiB written")
    table.add_column("")
    for title in ("write GB/s", "group ms", "file MiB", "file/live", "read GB/s", "read GB/s cold"):
        table.add_column(title, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.way,
            f"{outcome.write_gb_per_s:.2f}",
            f"{outcome.group_p50_ms:.1f} (max {outcome.group_max_ms:.0f})",
            f"{outcome.file_bytes / 2**20:.0f}",
            f"{outcome.file_per_live:.2f}",
            f"{outcome.read_warm_gb_per_s:.2f}",
            f"{outcome.read_cold_gb_per_s:.2f}",
        )
    Console().print(table)


def _progress(say: Callable[[str], None], name: str) -> Callable[[float], None]:
    return lambda share: say(f"{name}: {share:.0%}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
