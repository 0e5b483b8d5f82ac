"""Whatever the collector does, requests do not notice: it hangs, rejects, dies and comes back."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine.errors import ConfigError
from services.common.config import ServiceConfig
from services.common.span_queue import SpanCounts
from services.common.telemetry import Telemetry, open_telemetry
from tests.fakes.trace_collector import TraceCollector, trace_collector
from tests.fakes.worker_service import FakeEngine
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import eventually, running_stack
from tests.services.test_generate import generate, request
from tiercel.otlp import OtlpTarget, Signal, otlp_target

MAX_QUEUED = 64


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(MAX_QUEUED))
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with trace_collector() as collector:
        yield collector


def counts(telemetry: Telemetry) -> SpanCounts:
    found = telemetry.span_counts
    assert found is not None
    return found


async def test_load_while_the_collector_hangs_rejects_dies_and_comes_back(
    model_directory: Path, collector: TraceCollector
) -> None:
    async with running_stack(model_directory, otlp=collector.endpoint) as stack:
        scheduler = await stack.start_scheduler([await stack.start_worker(FakeEngine(VOCAB_SIZE))])
        tokenizer = await stack.start_tokenizer(scheduler)
        await stack.serving(tokenizer)
        hosts = [
            stack.tokenizers[tokenizer].host,
            stack.schedulers[scheduler].host,
            *(worker.host for worker in stack.workers.values()),
        ]

        async def load() -> None:
            """More spans than a queue holds. Every request must finish."""
            messages = [request([5, 6, 7, number], max_tokens=3, ignore_eos=True) for number in range(20, 60)]
            answers = await asyncio.gather(*(generate(stack, tokenizer, message) for message in messages))
            assert all(answer.finished.choices[0].completion_tokens == 3 for answer in answers)
            for host in hosts:
                assert counts(host.telemetry).queued <= MAX_QUEUED

        async def exports_again() -> None:
            for host in hosts:
                before = counts(host.telemetry).exported

                async def has_more(telemetry: Telemetry = host.telemetry, before: int = before) -> bool:
                    await load()
                    return counts(telemetry).exported > before

                await eventually(has_more, "spans go out again")

        await load()
        await exports_again()

        collector.answers.clear()
        scheduling = hosts[1].telemetry
        lost = counts(scheduling)
        await load()
        await load()
        assert counts(scheduling).dropped > lost.dropped
        collector.answers.set()
        await exports_again()

        collector.rejection = grpc.StatusCode.PERMISSION_DENIED
        lost = counts(scheduling)
        await load()
        await eventually(lambda: counts(scheduling).failed > lost.failed, "rejected batches are counted")
        collector.rejection = None

        collector.die()
        lost = counts(scheduling)
        for _ in range(3):
            await load()
        assert counts(scheduling).dropped > lost.dropped
        await eventually(lambda: counts(scheduling).failed > lost.failed, "what nobody took is counted")
        collector.start()
        await exports_again()
        for host in hosts:
            total = counts(host.telemetry)
            assert total.exported
            assert total.queued <= MAX_QUEUED


async def test_a_collector_that_hangs_does_not_keep_a_process_alive(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bound it would wait for the exporter's timeout, and for thirty seconds on top."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    collector.answers.clear()
    telemetry = open_telemetry("worker", ServiceConfig(otlp=collector.endpoint))
    for _ in range(40):
        telemetry.tracer.start_span("one").end()
    await eventually(lambda: collector.num_exports > 0, "an export hangs")
    await asyncio.to_thread(telemetry.close)
    total = counts(telemetry)
    assert total.queued == 0
    assert total.exported == 0
    assert total.dropped + total.failed == 40
    telemetry.tracer.start_span("late").end()
    assert counts(telemetry).dropped + counts(telemetry).failed == 41


def test_what_is_queued_at_the_end_is_sent(collector: TraceCollector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    telemetry = open_telemetry("worker", ServiceConfig(otlp=collector.endpoint))
    for _ in range(5):
        telemetry.tracer.start_span("one").end()
    telemetry.close()
    assert [span.service for span in collector.spans] == ["tiercel-worker"] * 5
    assert counts(telemetry) == SpanCounts(exported=5)


def test_over_http_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies[self.path] = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    telemetry = open_telemetry("worker", ServiceConfig(otlp=f"http://127.0.0.1:{server.server_port}"))
    telemetry.tracer.start_span("one").end()
    telemetry.close()
    server.shutdown()
    server.server_close()
    serving.join()
    assert counts(telemetry) == SpanCounts(exported=1)
    (spans,) = ExportTraceServiceRequest.FromString(bodies["/v1/traces"]).resource_spans
    assert [span.name for scope in spans.scope_spans for span in scope.spans] == ["one"]


ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"


@pytest.mark.parametrize(
    ("flag", "environ", "expected"),
    [
        (None, {}, None),
        (None, {"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://c:4317"}, None),
        ("http://c:4317", {"OTEL_SDK_DISABLED": "true"}, None),
        ("http://c:4317", {}, OtlpTarget("http://c:4317", False)),
        ("c:4317", {}, OtlpTarget("http://c:4317", False)),
        ("https://c", {}, OtlpTarget("https://c", False)),
        ("http://c:4318", {}, OtlpTarget("http://c:4318/v1/traces", True)),
        ("http://c:4318", {PROTOCOL: "grpc"}, OtlpTarget("http://c:4318", False)),
        ("http://c:99/base/", {PROTOCOL: "http/protobuf"}, OtlpTarget("http://c:99/base/v1/traces", True)),
        (None, {ENDPOINT: "http://c:4317"}, OtlpTarget("http://c:4317", False)),
        (None, {ENDPOINT: "http://a:1", TRACES_ENDPOINT: "http://b:2"}, OtlpTarget("http://b:2", False)),
        (
            None,
            {TRACES_ENDPOINT: "http://b:2/own", PROTOCOL: "http/protobuf"},
            OtlpTarget("http://b:2/own", True),
        ),
        (None, {"OTEL_TRACES_EXPORTER": "otlp"}, OtlpTarget("http://localhost:4317", False)),
        ("http://c:1", {ENDPOINT: "http://a:2"}, OtlpTarget("http://c:1", False)),
    ],
)
def test_where_traces_go(flag: str | None, environ: dict[str, str], expected: OtlpTarget | None) -> None:
    assert otlp_target(Signal.TRACES, flag, environ) == expected


@pytest.mark.parametrize(
    ("flag", "environ", "named"),
    [
        ("http://", {}, "--otlp"),
        ("ftp://c:1", {}, "--otlp"),
        ("c:port", {}, "--otlp"),
        (None, {ENDPOINT: "http://c:99999"}, ENDPOINT),
        ("c:1", {PROTOCOL: "http/json"}, PROTOCOL),
        (None, {"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_an_endpoint_that_is_none_is_refused_by_name(flag: str | None, environ: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        otlp_target(Signal.TRACES, flag, environ)


def test_sizes_that_contradict_each_other_are_refused_at_start(
    collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000")
    with pytest.raises(ConfigError):
        open_telemetry("worker", ServiceConfig(otlp=collector.endpoint))
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    with pytest.raises(ConfigError, match="OTEL_BSP_MAX_QUEUE_SIZE"):
        open_telemetry("worker", ServiceConfig(otlp=collector.endpoint))
