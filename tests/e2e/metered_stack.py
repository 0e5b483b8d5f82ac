"""A real stack under real load, with caches so small that every tier is hit."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.stack import INFER_CLI, Stack, running_stack
from tests.e2e.tier_workload import run_chats
from tests.scrape import Scrape, scrape
from tiercel.v1 import common_pb2, inference_pb2, inference_pb2_grpc

BLOCK_BYTES = 21_120
"""Of the demo model with an FP8 cache."""
NUM_CHATS = 16
TENANTS = ("acme", "globex", "")

FLAGS = (
    *("--model", "demo", "--max-model-len", "640", "--max-batched-tokens", "256"),
    *("--device-cache", str(51 * BLOCK_BYTES), "--host-cache", str(60 * BLOCK_BYTES), "--disk-cache", "64MiB"),
)


@dataclass
class Load:
    """What clients have seen of a load."""

    reports: list[common_pb2.RequestReport] = field(default_factory=list)
    """Of the requests that were traced."""
    trace_ids: set[str] = field(default_factory=set)
    num_requests: int = 0
    num_refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: dict[str, int] = field(default_factory=lambda: {"device": 0, "host": 0, "disk": 0})


class MeteredStack:
    def __init__(self, stack: Stack, log_dir: Path) -> None:
        self.stack = stack
        self.log_dir = log_dir
        self._num_traced = 0

    @property
    def metrics(self) -> dict[str, list[str]]:
        """Addresses by role, as `--ready-file` has them."""
        return dict(self.stack.ready()["metrics"])

    def scrape(self, role: str) -> Scrape:
        (address,) = self.metrics[role]
        return scrape(address)

    def status(self) -> dict[str, Any]:
        words = [str(INFER_CLI), "status", "--json", "--target", self.stack.target]
        return dict(json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout))

    def worker_status(self) -> dict[str, Any]:
        return next(dict(service["worker"]) for service in self.status()["services"] if service["role"] == "worker")

    def load(self, salt: str) -> Load:
        """Chats over a few beginnings, traced requests of several tenants, and some that are refused."""
        return asyncio.run(self._load(salt))

    async def _load(self, salt: str) -> Load:
        load = Load()
        outcome = await run_chats(self.stack.target, num_chats=NUM_CHATS, salt=salt)
        load.num_requests += len(outcome.answers)
        load.input_tokens += outcome.prompt_tokens
        load.output_tokens += sum(len(ids) for ids in outcome.answers.values())
        for tier in load.cached_tokens:
            load.cached_tokens[tier] += getattr(outcome, f"{tier}_tokens")
        async with grpc.aio.insecure_channel(self.stack.target) as channel:
            stub = inference_pb2_grpc.InferenceStub(channel)
            for i in range(12):
                await self._traced(stub, load, TENANTS[i % len(TENANTS)], f"{salt} river {i}")
            for _ in range(3):
                await _refused(stub, load)
        return load

    async def _traced(self, stub: "inference_pb2_grpc.InferenceAsyncStub", load: Load, tenant: str, text: str) -> None:
        self._num_traced += 1
        trace_id = f"{self._num_traced:032x}"
        sampling = inference_pb2.SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        request = inference_pb2.GenerateRequest(text=text, sampling=sampling, tenant=tenant)
        traceparent = f"00-{trace_id}-00000000000000ff-01"
        async for event in stub.Generate(request, metadata=[("traceparent", traceparent)]):
            if event.HasField("finished"):
                finished = event.finished
        load.trace_ids.add(trace_id)
        load.reports.append(finished.report)
        load.num_requests += 1
        load.input_tokens += finished.usage.prompt_tokens
        load.output_tokens += finished.usage.completion_tokens
        for tier in load.cached_tokens:
            load.cached_tokens[tier] += getattr(finished.usage.cached_tokens, tier)


async def _refused(stub: "inference_pb2_grpc.InferenceAsyncStub", load: Load) -> None:
    sampling = inference_pb2.SamplingParams(temperature=-1.0)
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in stub.Generate(inference_pb2.GenerateRequest(text="x", sampling=sampling)):
            raise AssertionError("a negative temperature was accepted")
        raise AssertionError("a negative temperature was accepted")
    load.num_requests += 1
    load.num_refused += 1


@contextlib.contextmanager
def metered_stack(folder: Path) -> Iterator[MeteredStack]:
    config = folder / "tiercel.toml"
    # The demo model computes a block faster than a disk fetches it; here every tier shall be used.
    config.write_text("[scheduler]\nalways_bring = true\n")
    log_dir = folder / "logs"
    flags = ("--config", str(config), "--cache-dir", str(folder / "kv"), "--log-dir", str(log_dir))
    with running_stack(folder, *FLAGS, *flags) as stack:
        yield MeteredStack(stack, log_dir)
