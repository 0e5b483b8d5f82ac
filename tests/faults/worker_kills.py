"""Kill whole workers under traffic, at random moments, and look at what the next one finds.

    python -m tests.faults.worker_kills --loops 200

The worker is the real process with a small real checkpoint, driven by the real scheduler, tokenizer and client over
sockets. All workers go over the same directory. Each is killed with SIGKILL while it starts, while it answers from disk
or while it stores. Once the next one is ready, the directory must hold no bad record and no contradiction, every record
must have the K and V that an undisturbed worker has computed for its key, and of what was confirmed nothing may be
missing but what an unconfirmed last group may have evicted. All answers must be those of the undisturbed worker.
"""

import asyncio
import contextlib
import random
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import torch

from engine.ids import BlockKey
from kvstore.disk import DiskTier
from kvstore.disk_group import GROUP_ROWS
from kvstore.layout import BlockLayout
from kvstore.slab_file import slot_bytes
from services.scheduler.link import WorkerLink
from tests.checkpoints import make_checkpoint
from tests.disk_rows import contents
from tests.services.stack import Stack, eventually
from tests.services.stack import running_stack as running_services
from tiercel.client import AsyncClient
from tiercel.errors import TiercelError

VOCAB_SIZE, NUM_LAYERS, BLOCK_SIZE = 512, 4, 16
LAYOUT = BlockLayout(NUM_LAYERS, num_kv_heads=2, head_dim=16, block_size=BLOCK_SIZE, dtype=torch.float32)
SLOT_BYTES = slot_bytes(LAYOUT.block_bytes)
PROMPT_BLOCKS, OUTPUT_TOKENS = 20, 8
PROMPT_TOKENS = PROMPT_BLOCKS * BLOCK_SIZE + 5
AT_ONCE = 6
START_S, TRAFFIC_S = 4.0, 1.0
"""Kills while starting, or under traffic, come within these times."""
PATIENCE_S = 120.0


@dataclass
class Reference:
    """What an undisturbed worker has answered and stored."""

    answers: list[list[int]]
    payloads: dict[bytes, npt.NDArray[np.float32]]

    def check_payload(self, key: bytes, payload: bytes) -> None:
        """Batches differ, and with them the last bits of a sum; the record of another key differs by far more."""
        assert key in self.payloads, f"{key.hex()} is no key of any prompt"
        want = self.payloads[key]
        error = np.abs(np.frombuffer(payload, np.float32) - want).max()
        assert error <= 1e-4 * np.abs(want).max(), f"{key.hex()} has other K and V than its tokens give, by {error}"


@dataclass
class Tally:
    """What the loops saw."""

    loops: int = 0
    kills_while_starting: int = 0
    answers: int = 0
    broken: int = 0
    """Requests that a kill ended."""
    disk_tokens: int = 0
    """Of prompts, found on disk."""
    confirmed: int = 0
    """Records whose storing was confirmed, over all loops."""
    unconfirmed: int = 0
    """Records on disk that nobody had confirmed."""
    checked: int = 0
    """Records whose payload was compared, over all loops."""
    found: set[bytes] = field(default_factory=set)
    """What the directory held at the last look."""


class Workers:
    """Starts one worker after the other at one address."""

    def __init__(self, folder: Path, checkpoint: Path, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = folder / "workers.log"
        self._flags = [
            *("--model", str(checkpoint), "--cache-dir", str(directory), "--port", self.address.rsplit(":", 1)[1]),
            *("--device", "cpu", "--dtype", "fp32", "--kv-dtype", "fp32", "--threads", "1", "--max-seqs", "16"),
            *("--block-size", str(BLOCK_SIZE)),
        ]

    @contextlib.asynccontextmanager
    async def running(self, *, device_blocks: int, host_blocks: int, disk_rows: int) -> AsyncIterator["WorkerProcess"]:
        caches = [
            *("--device-cache", str(device_blocks * LAYOUT.block_bytes)),
            *("--host-cache", str(host_blocks * LAYOUT.block_bytes), "--disk-cache", str(disk_rows * SLOT_BYTES)),
        ]
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.worker", *self._flags, *caches), stdout=log, stderr=log
            )
        try:
            yield WorkerProcess(process, self._log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def lives_for(self, seconds: float) -> None:
        """A moment that nothing else tells. The worker must not end by itself."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
            raise AssertionError(f"the worker ended by itself:\n{self._log.read_text()}")

    async def becomes_ready(self, link: WorkerLink) -> None:
        def is_ready() -> bool:
            assert self._process.returncode is None, f"the worker ended by itself:\n{self._log.read_text()}"
            return link.is_ready

        await eventually(is_ready, "the worker is ready", PATIENCE_S)

    async def kill(self, link: WorkerLink) -> None:
        self._process.kill()
        await self._process.wait()
        await eventually(lambda: not link.is_ready, "the scheduler has missed the worker", PATIENCE_S)

    async def leave(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert await self._process.wait() == 0, self._log.read_text()


@contextlib.asynccontextmanager
async def stack_of(checkpoint: Path, workers: Workers) -> AsyncIterator[tuple[Stack, AsyncClient, WorkerLink]]:
    """Everything but the worker."""
    async with running_services(checkpoint) as stack:
        scheduler = await stack.start_scheduler([workers.address], always_bring=True)
        tokenizer = await stack.start_tokenizer(scheduler)
        (link,) = stack.scheduler().dispatcher.links
        async with AsyncClient(tokenizer, retry=None) as client:
            yield stack, client, link


def prompt(number: int) -> list[int]:
    draw = random.Random(number)
    return [draw.randrange(10, VOCAB_SIZE) for _ in range(PROMPT_TOKENS)]


async def answer_of(client: AsyncClient, number: int, tally: Tally) -> list[int]:
    answer = await client.generate(
        prompt(number), temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True, keep_prefix=True
    )
    tally.answers += 1
    tally.disk_tokens += answer.usage.cached_tokens.disk
    return list(answer.token_ids)


async def undisturbed(folder: Path, checkpoint: Path, num_prompts: int) -> Reference:
    """One worker with room for everything, which leaves in peace and so keeps all of it."""
    directory = folder / "reference"
    workers = Workers(folder, checkpoint, directory)
    roomy = 2 * num_prompts * (PROMPT_BLOCKS + 1)
    async with (
        stack_of(checkpoint, workers) as (_, client, link),
        workers.running(device_blocks=roomy, host_blocks=roomy, disk_rows=roomy) as worker,
    ):
        await worker.becomes_ready(link)
        assert link.ready is not None
        namespace, gate = link.ready.namespace, asyncio.Semaphore(AT_ONCE)

        async def ask(number: int) -> list[int]:
            async with gate:
                return await answer_of(client, number, Tally())

        answers = await asyncio.gather(*map(ask, range(num_prompts)))
        await worker.leave()
    disk = open_directory(directory, namespace)
    payloads = {key: np.frombuffer(payload, np.float32) for key, payload in contents(disk).items()}
    disk.close()
    assert len(payloads) == num_prompts * (PROMPT_BLOCKS + (5 + OUTPUT_TOKENS - 1) // BLOCK_SIZE)
    return Reference(list(answers), payloads)


def open_directory(directory: Path, namespace: bytes) -> DiskTier:
    return DiskTier.open(directory, namespace=namespace, block_bytes=LAYOUT.block_bytes, cap_bytes=1 << 40)


class KillLoops:
    """Over one directory, which no loop cleans up."""

    def __init__(
        self, stack: Stack, client: AsyncClient, link: WorkerLink, workers: Workers, directory: Path, known: Reference
    ) -> None:
        self._stack, self._client, self._link, self._workers = stack, client, link, workers
        self._directory = directory
        self._reference = known
        self._num_rows = len(known.payloads)
        self._confirmed: set[BlockKey] = set()
        """What the scheduler knew to be on disk when the last worker died."""
        self._may_lack = 0
        self._answered: list[int] = []
        """Prompts of the last traffic, as far as they were answered."""
        self.tally = Tally()

    async def run_loop(self, moments: random.Random) -> None:
        """In one of three loops the disk has room for a quarter of the records: there each group evicts."""
        is_tight = moments.random() < 1 / 3
        disk_rows = self._num_rows // 4 if is_tight else 2 * self._num_rows
        async with self._workers.running(device_blocks=200, host_blocks=200, disk_rows=disk_rows) as worker:
            if moments.random() < 1 / 8:
                await worker.lives_for(moments.uniform(0, START_S))
                self.tally.kills_while_starting += 1
                await worker.kill(self._link)
            else:
                await worker.becomes_ready(self._link)
                self._check()
                await self._traffic(worker, moments)
                # Nothing less than the first group of a tighter cap evicts more than a share of the cap at once.
                num_too_many = max(0, len(self._confirmed) - disk_rows)
                self._may_lack = num_too_many + disk_rows // 64 + 2 * GROUP_ROWS if is_tight else 0
        self.tally.loops += 1

    async def finish(self) -> None:
        """Look at what the last loop has left."""
        async with self._workers.running(device_blocks=200, host_blocks=200, disk_rows=2 * self._num_rows) as worker:
            await worker.becomes_ready(self._link)
            self._check()

    def _check(self) -> None:
        assert self._link.ready is not None
        disk = open_directory(self._directory, self._link.ready.namespace)
        report = disk.care.verify()
        found = contents(disk)
        disk.close()
        assert report.is_sound, report
        assert report.num_records == len(found), "the index names records that are not served"
        for key, payload in found.items():
            self._reference.check_payload(key, payload)
        lost = self._confirmed - found.keys()
        assert len(lost) <= self._may_lack, f"{len(lost)} confirmed records are gone, {self._may_lack} may be"
        self.tally.checked += len(found)
        self.tally.unconfirmed += len(found.keys() - self._confirmed)
        self.tally.found = set(found)
        self._confirmed, self._may_lack = set(map(BlockKey, found)), 0

    async def _traffic(self, worker: WorkerProcess, moments: random.Random) -> None:
        assert self._link.ready is not None
        mirror = self._stack.scheduler().dispatcher.disk_mirror(self._link.ready)
        assert mirror is not None
        # What earlier workers evicted without a word is no promise of this one.
        stale = {key for key in mirror if key not in self.tally.found}
        first, self._answered = self._answered[-2:], []
        asking = [asyncio.create_task(self._ask(first, random.Random(moments.random()))) for _ in range(AT_ONCE)]
        await worker.lives_for(moments.uniform(0, TRAFFIC_S))
        await worker.kill(self._link)
        for ended in await asyncio.gather(*asking, return_exceptions=True):
            # Whatever is no refusal is a wrong answer, or a fault of ours.
            if not isinstance(ended, TiercelError):
                assert isinstance(ended, BaseException)
                raise ended
            self.tally.broken += 1
        confirmed = set(mirror) - stale
        self.tally.confirmed += len(confirmed - self._confirmed)
        self._confirmed = confirmed

    async def _ask(self, first: list[int], draw: random.Random) -> None:
        """Until the worker dies, which raises."""
        numbers = list(first)
        while True:
            number = numbers.pop() if numbers else draw.randrange(len(self._reference.answers))
            answer = await answer_of(self._client, number, self.tally)
            assert answer == self._reference.answers[number], f"prompt {number} is answered {answer}"
            self._answered.append(number)


async def run_loops(folder: Path, num_loops: int, num_prompts: int, seed: int) -> Tally:
    checkpoint = make_checkpoint(folder / "checkpoint", tokenizer=True, num_hidden_layers=NUM_LAYERS)
    known = await undisturbed(folder, checkpoint, num_prompts)
    directory, moments = folder / "kv", random.Random(seed)
    workers = Workers(folder, checkpoint, directory)
    async with stack_of(checkpoint, workers) as (stack, client, link):
        loops = KillLoops(stack, client, link, workers, directory, known)
        for _ in range(num_loops):
            await loops.run_loop(moments)
        await loops.finish()
    return loops.tally


@click.command()
@click.option("--loops", type=click.IntRange(1), default=200, show_default=True)
@click.option("--prompts", type=click.IntRange(1), default=120, show_default=True, help="Of 325 tokens each.")
@click.option("--seed", default=1, show_default=True)
def main(loops: int, prompts: int, seed: int) -> None:
    """Exit code 0 if nothing was ever wrong."""
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run_loops(Path(folder), loops, prompts, seed))
    click.echo(
        f"{tally.loops} workers killed, {tally.kills_while_starting} of them while starting: {tally.answers} answers, "
        f"all as undisturbed, {tally.disk_tokens} tokens of their prompts from disk; {tally.broken} requests ended by "
        f"a kill. {tally.confirmed} records were confirmed and none of them lost beyond the last group, "
        f"{tally.unconfirmed} were on disk unconfirmed; {tally.checked} payloads compared, no bad record, no "
        f"contradiction; {len(tally.found)} records at the end"
    )


if __name__ == "__main__":
    main()
