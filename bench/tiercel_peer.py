"""This stack as a peer: all services started with `infer-cli up`, driven over gRPC by the client."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.records import RequestRecord
from bench.workloads import BenchRequest, Workload
from tiercel.client import AsyncClient, Delta, WorkerStatus

INFER_CLI = Path(sys.executable).with_name("infer-cli")

AT_ONCE_INTERVAL = 16
"""Tokens of a message where throughput counts; where single tokens do, each is sent at once."""


class TiercelPeer:
    """Tokenizer, scheduler and one worker on a free port, with `flags` passed on to `infer-cli up`."""

    def __init__(self, checkpoint: Path, flags: tuple[str, ...] = (), name: str = "tiercel") -> None:
        self.name = name
        self._checkpoint = checkpoint
        self._flags = flags

    def start(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tiercel-bench-")
        ready = Path(self._folder.name) / "ready.json"
        words = ["up", "--detach", "--model", str(self._checkpoint), "--port", "0", "--ready-file", str(ready)]
        if "--cache-dir" not in self._flags:
            # A cold cache, and nothing left behind.
            words += ["--cache-dir", str(Path(self._folder.name) / "kv")]
        subprocess.run([INFER_CLI, *words, *self._flags], check=True, stdout=subprocess.DEVNULL)
        said = json.loads(ready.read_text())
        self.target = str(said["target"])
        self.pids: dict[str, list[int]] = said["pids"]

    def run(self, workload: Workload, stream_interval: int | None = None) -> list[RequestRecord]:
        if stream_interval is None:
            stream_interval = AT_ONCE_INTERVAL if workload.at_once else 1
        return asyncio.run(_run(self.target, workload, stream_interval))

    def worker_status(self) -> WorkerStatus:
        async def ask() -> WorkerStatus:
            async with AsyncClient(self.target) as client:
                status = await client.status()
                (worker,) = (service.worker for service in status.services if service.worker is not None)
                return worker

        return asyncio.run(ask())

    def stop(self) -> None:
        subprocess.run([INFER_CLI, "down", "--target", self.target], check=True, stdout=subprocess.DEVNULL)
        self._folder.cleanup()


async def _run(target: str, workload: Workload, stream_interval: int) -> list[RequestRecord]:
    async with AsyncClient(target) as client:
        if workload.at_once:
            each = (_one(client, request, stream_interval) for request in workload.requests)
            return list(await asyncio.gather(*each))
        return [await _one(client, request, stream_interval) for request in workload.requests]


async def _one(client: AsyncClient, request: BenchRequest, stream_interval: int) -> RequestRecord:
    sent = time.perf_counter()
    first = last = 0.0
    num_tokens = 0
    async for event in client.stream(
        list(request.prompt_ids),
        temperature=0.0,
        max_tokens=request.max_tokens,
        ignore_eos=True,
        stream_interval=stream_interval,
    ):
        if isinstance(event, Delta) and event.token_ids:
            last = time.perf_counter()
            first = first or last
            num_tokens += len(event.token_ids)
    return RequestRecord(sent, first, last, num_tokens)
