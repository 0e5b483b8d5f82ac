"""Kill processes that store, at random moments, and look at what they leave behind.

    python -m tests.faults.kill_loops --loops 200

All loops go over the same directory. In each, one or two processes store; one is killed with SIGKILL in the middle of
it. Then the directory must hold no bad record and no contradiction, every record must have the bytes of its key, and
of what the processes had confirmed nothing may be missing but what the last, unconfirmed group of each may have
evicted.
"""

import contextlib
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import click

from tests.disk_rows import contents, open_disk, payload_of
from tests.faults.storing_child import BLOCK_BYTES, NUM_KEYS, ROWS

ROOMY_ROWS = 2 * NUM_KEYS
TIGHT_ROWS = 128
EVICTED_AT_ONCE = TIGHT_ROWS // 64 + 2 * ROWS
"""More than a group of a tight cap ever evicts."""


@dataclass
class Tally:
    """What the loops saw."""

    loops: int = 0
    groups: int = 0
    records: int = 0
    unconfirmed: int = 0
    """Records on the disk that nobody had confirmed: their process died between commit and word."""
    present: set[bytes] = field(default_factory=set)
    """What the directory held after the last loop."""


class Storing:
    """A child that stores until it is killed."""

    def __init__(self, directory: Path, seed: int, cap_rows: int) -> None:
        command = [sys.executable, "-m", "tests.faults.storing_child", str(directory), str(seed), str(cap_rows)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.lines: list[bytes] = []
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n", "the child did not get its tier"

    def wait_for_groups(self, count: int) -> None:
        assert self.process.stdout is not None
        for _ in range(count):
            line = self.process.stdout.readline()
            assert line.endswith(b"\n"), "the child died on its own"
            self.lines.append(line)

    def kill(self) -> None:
        self.process.kill()
        rest, _ = self.process.communicate()
        # A line without its end was never said.
        self.lines += [line for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]


def run_loop(directory: Path, moments: random.Random, tally: Tally) -> None:
    """Two in three loops have room for everything, so there nothing confirmed may be missing at all."""
    is_tight = moments.random() < 1 / 3
    cap_rows = TIGHT_ROWS if is_tight else ROOMY_ROWS
    children = [Storing(directory, moments.randrange(2**31), cap_rows) for _ in range(moments.choice((1, 2)))]
    children[0].wait_for_groups(moments.randint(1, 12))
    with contextlib.suppress(subprocess.TimeoutExpired):
        # Up to some groups further: a moment that no line tells.
        children[0].process.wait(moments.uniform(0, 0.03))
    children[0].kill()
    for other in children[1:]:
        other.wait_for_groups(3)  # the death of the first does not hold it up
        other.kill()
    check(directory, children, is_tight, tally)


def check(directory: Path, children: list[Storing], is_tight: bool, tally: Tally) -> None:
    stored, evicted = set(tally.present), set[bytes]()
    for child in children:
        for line in child.lines:
            tally.groups += 1
            for word in line.decode().split():
                (evicted if word.startswith("-") else stored).add(bytes.fromhex(word.removeprefix("-")))
    disk = open_disk(directory, cap_rows=ROOMY_ROWS, block_bytes=BLOCK_BYTES)
    report = disk.care.verify()
    assert report.is_sound, report
    found = contents(disk)
    disk.close()
    for key, payload in found.items():
        assert payload == payload_of(key, BLOCK_BYTES), f"{key.hex()} has the bytes of another record"
    lost = stored - evicted - found.keys()
    allowed = EVICTED_AT_ONCE * len(children) if is_tight else 0
    assert len(lost) <= allowed, f"{len(lost)} confirmed records are gone, {allowed} may be"
    tally.loops += 1
    tally.records = len(found)
    tally.unconfirmed += len(found.keys() - stored)
    tally.present = set(found)


def run_loops(directory: Path, num_loops: int, seed: int) -> Tally:
    tally, moments = Tally(), random.Random(seed)
    for _ in range(num_loops):
        run_loop(directory, moments, tally)
    return tally


@click.command()
@click.option("--loops", type=click.IntRange(1), default=200, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(loops: int, seed: int) -> None:
    """Exit code 0 if nothing was ever wrong."""
    with tempfile.TemporaryDirectory() as directory:
        tally = run_loops(Path(directory), loops, seed)
    click.echo(
        f"{tally.loops} kills over {tally.groups} confirmed groups: no bad record, no contradiction, no confirmed "
        f"group lost; {tally.unconfirmed} records were committed but not confirmed; {tally.records} records at the end"
    )


if __name__ == "__main__":
    main()
