"""Traces of a real stack at a real collector: where cached blocks come from, and that no time is unaccounted for."""

import asyncio
import itertools
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from tests.e2e.stack import INFER_CLI, running_stack
from tests.fakes.trace_collector import CollectedSpan, TraceCollector, trace_collector
from tiercel.client import AsyncClient, Client

BLOCK_BYTES = 81_920
"""Of the demo model in fp32."""

Tree = dict[str, list[CollectedSpan]]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with trace_collector() as collector:
        yield collector


def prompt(number: int) -> list[int]:
    """24 blocks and a bit, that no other prompt shares."""
    draw = random.Random(number)
    return [draw.randrange(5, 900) for _ in range(390)]


def ask(client: Client, number: int, request_id: str) -> str:
    client.generate(prompt(number), max_tokens=3, ignore_eos=True, temperature=0, request_id=request_id)
    return request_id


def moved(tree: Tree, waiting: str, moving: str) -> list[CollectedSpan]:
    """What the worker moved while the request waited in the one span of this name."""
    (wait,) = tree[waiting]
    wait_attributes = wait.attributes
    copies = [span for span in tree[moving] if span.parent_id == wait.span_id]
    assert copies
    assert {span.service for span in copies} == {"tiercel-worker"}
    assert sum(span.attributes["tiercel.kv.blocks"] for span in copies) == wait_attributes["tiercel.kv.blocks"]
    assert sum(span.attributes["tiercel.kv.bytes"] for span in copies) == wait_attributes["tiercel.kv.bytes"]
    for span in copies:
        assert wait.start_ns <= span.start_ns <= span.end_ns <= wait.end_ns
    return copies


def test_spans_say_which_tier_a_prompt_came_from(collector: TraceCollector, tmp_path: Path) -> None:
    config = tmp_path / "tiercel.toml"
    config.write_text(f'[scheduler]\nalways_bring = true\n[telemetry]\notlp = "{collector.endpoint}"\n')
    flags = [
        *("--model", "demo", "--dtype", "fp32", "--kv-dtype", "fp32", "--max-model-len", "640"),
        *("--device-cache", str(51 * BLOCK_BYTES), "--host-cache", str(400 * BLOCK_BYTES)),
        *("--disk-cache", "256MiB", "--cache-dir", str(tmp_path / "kv"), "--config", str(config)),
        *("--max-batched-tokens", "128"),
    ]
    with running_stack(tmp_path, *flags) as stack, Client(stack.target) as client:
        ask(client, 1, "cold")
        ask(client, 1, "device")
        for number in range(2, 6):
            ask(client, number, f"other-{number}")
        ask(client, 1, "host")
        drawn = subprocess.run(
            [INFER_CLI, "trace", "host", "--target", stack.target], check=True, capture_output=True, text=True
        ).stdout
        uploaded = subprocess.run(
            [INFER_CLI, "trace", "host", "--target", stack.target, "--format", "jaeger"],
            check=True,
            capture_output=True,
        ).stdout
        unknown = subprocess.run(
            [INFER_CLI, "trace", "nobody", "--target", stack.target], capture_output=True, text=True
        )
    with running_stack(tmp_path, *flags) as stack, Client(stack.target) as client:
        ask(client, 1, "disk")
    # Each process has sent all it had when it left.
    cold, device, host, disk = (collector.tree(name) for name in ("cold", "device", "host", "disk"))

    assert [span.attributes["tiercel.prefill.tokens"] for span in cold["prefill"]] == [128, 128, 128, 6]
    for tree in (cold, device):
        assert not {"kv.fetch", "kv.load", "kv.copy", "kv.disk"} & tree.keys()
    lookups = [tree["kv.lookup"][0].attributes for tree in (cold, device, host, disk)]
    found = [tuple(each[f"tiercel.cache.{tier}_tokens"] for tier in ("device", "host", "disk")) for each in lookups]
    assert found[:2] == [(0, 0, 0), (384, 0, 0)]
    assert found[2][1] > 0
    assert found[2][2] == 0
    assert found[3][2] > 0
    for span in moved(host, "kv.load", "kv.copy"):
        assert span.attributes["tiercel.kv.move"] == "load"
        assert (span.attributes["tiercel.kv.source_tier"], span.attributes["tiercel.kv.target_tier"]) == (
            "host",
            "device",
        )
    for span in moved(disk, "kv.fetch", "kv.disk"):
        assert span.attributes["tiercel.kv.move"] == "fetch"
        assert span.attributes["tiercel.kv.bytes"] == span.attributes["tiercel.kv.blocks"] * BLOCK_BYTES
    # Loads begin while the fetch goes on; the request waits in `kv.load` for what is left of them then.
    assert sum(span.attributes["tiercel.kv.blocks"] for span in disk["kv.copy"]) == 24
    waits = [*disk["kv.fetch"], *disk.get("kv.load", [])]
    assert {span.parent_id for span in disk["kv.copy"]} <= {span.span_id for span in waits}
    (generate,) = host["generate"]
    assert "kv.load" in drawn
    assert "from host" in drawn
    assert generate.trace_id in drawn
    assert "\x1b" not in drawn
    (opened,) = json.loads(uploaded)["data"]
    assert opened["traceID"] == generate.trace_id
    names = {span["operationName"] for span in opened["spans"]}
    assert names == {name for name in host if name not in ("kv.copy", "kv.disk")}
    assert unknown.returncode == 1
    assert "'nobody'" in unknown.stderr


def test_every_millisecond_of_a_hundred_requests_is_accounted_for(
    collector: TraceCollector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Random requests, eight at once, from a client that traces: the spans without parts cover what it has waited."""
    provider = TracerProvider(resource=Resource({"service.name": "client"}))
    # Exported after the load: meanwhile it would compete with the client for the interpreter, outside of any span.
    exporter = OTLPSpanExporter(collector.endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1e6, max_export_batch_size=512))
    # Not `set_tracer_provider`, which is for ever.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    waited_ns: dict[str, int] = {}

    async def load(target: str) -> None:
        draw = random.Random(3)
        gate = asyncio.Semaphore(8)

        async def one(client: AsyncClient, number: int) -> None:
            ids = [draw.randrange(5, 900) for _ in range(draw.randint(4, 400))]
            async with gate:
                start_ns = time.monotonic_ns()
                await client.generate(
                    ids, max_tokens=draw.randint(20, 80), ignore_eos=True, request_id=f"request-{number}"
                )
                waited_ns[f"request-{number}"] = time.monotonic_ns() - start_ns

        async with AsyncClient(target) as client:
            await client.generate([1, 2, 3], max_tokens=1)
            await asyncio.gather(*(one(client, number) for number in range(100)))

    with running_stack(tmp_path, "--model", "demo", "--otlp", collector.endpoint) as stack:
        asyncio.run(load(stack.target))
    provider.force_flush()
    trees = {name: collector.tree(name) for name in waited_ns}
    coverage = sorted(_leaves_ns(trees[name]) / waited_ns[name] for name in waited_ns)
    in_stack = sorted(_leaves_ns(trees[name], of_client=False) / waited_ns[name] for name in waited_ns)
    for what, shares in (("coverage", coverage), ("coverage of the stack alone", in_stack)):
        figures = f"min {shares[0]:.4f}, p5 {shares[5]:.4f}, p50 {shares[50]:.4f}"
        record_property(what, figures)
        print(f"{what}: {figures}")
    assert coverage[0] >= 0.95
    assert coverage[-1] <= 1.0


def _leaves_ns(tree: Tree, *, of_client: bool = True) -> int:
    """Of the spans on the critical path that have no parts; what lies within `decode` is a part of it."""
    (root,), (schedule,) = tree["generate"], tree["schedule"]
    parents = {root.span_id, schedule.span_id}
    if of_client:
        parents.add(root.parent_id)
    leaves = [
        span
        for spans in tree.values()
        for span in spans
        if span.parent_id in parents and span.name not in ("generate", "schedule")
    ]
    # Within each process, one after the other.
    for parent in (root, schedule):
        parts = sorted((span for span in leaves if span.parent_id == parent.span_id), key=lambda span: span.start_ns)
        assert all(first.end_ns <= second.start_ns for first, second in itertools.pairwise(parts))
    return sum(span.duration_ns for span in leaves)
