"""What the services' `/metrics` say of real requests over real sockets; the model is a fake."""

import asyncio
import io
import json
import logging
import socket
from pathlib import Path

import grpc
import pytest

from engine.errors import ConfigError
from services.common import logs
from services.common.config import LogFormat, ServiceConfig
from services.common.server import ServiceHost
from services.common.telemetry import Telemetry, make_resource, open_telemetry
from tests.fakes.worker_service import FakeEngine
from tests.otlp_metrics_receiver import http_metrics_receiver, metrics_receiver
from tests.scrape import Scrape, scrape
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, eventually, running_stack
from tests.services.test_generate import generate, request, start
from tiercel.otlp import OtlpTarget
from tiercel.v1 import common_pb2, inference_pb2

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


async def scraped(host: ServiceHost) -> Scrape:
    return await asyncio.to_thread(scrape, host.metrics_address)


async def test_the_front_door_measures_requests_as_their_reports_do(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(vocab_size=VOCAB_SIZE))
        answers = [
            await generate(
                stack,
                address,
                request(max_tokens=n, ignore_eos=True, tenant="acme"),
                metadata=[("traceparent", TRACEPARENT)],
            )
            for n in (4, 9)
        ]
        found = await scraped(stack.tokenizers[address].host)
    reports = [answer.finished.report for answer in answers]
    about = {
        "gen_ai_operation_name": "text_completion",
        "gen_ai_provider_name": "tiercel",
        "gen_ai_request_model": "fake",
    }
    assert found.value("gen_ai_server_request_duration_seconds_count", **about, error_type="") == 2
    duration = found.value("gen_ai_server_request_duration_seconds_sum")
    assert duration == pytest.approx(sum(report.e2e_ns for report in reports) / 1e9)
    ttft = found.value("gen_ai_server_time_to_first_token_seconds_sum", **about)
    assert ttft == pytest.approx(sum(report.ttft_ns for report in reports) / 1e9)
    per_token = [(report.e2e_ns - report.ttft_ns) / (n - 1) for report, n in zip(reports, (4, 9), strict=True)]
    assert found.value("gen_ai_server_time_per_output_token_seconds_sum") == pytest.approx(sum(per_token) / 1e9)
    queue = found.value("tiercel_request_phase_duration_seconds_sum", phase="queue")
    assert queue == pytest.approx(sum(report.queue_ns for report in reports) / 1e9)
    assert found.value("tiercel_requests_total", outcome="length") == 2
    assert found.value("tiercel_tokens_total", gen_ai_token_type="output") == 13
    assert found.value("tiercel_tenant_tokens_total", tenant="acme", gen_ai_token_type="output") == 13
    assert found.value("tiercel_calls_open") == 0
    for histogram in ("request_duration", "time_to_first_token", "time_per_output_token"):
        name = f"gen_ai_server_{histogram}_seconds"
        exemplars = list(found.exemplars(name))
        assert exemplars, name
        assert all(exemplar.labels["trace_id"] == TRACE for exemplar in exemplars)


async def test_a_scraper_that_does_not_speak_openmetrics_gets_the_older_text(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(vocab_size=VOCAB_SIZE))
        await generate(stack, address, request(max_tokens=2), metadata=[("traceparent", TRACEPARENT)])
        host = stack.tokenizers[address].host
        old = await asyncio.to_thread(scrape, host.metrics_address, "text/plain")
        new = await scraped(host)
    assert old.content_type.startswith("text/plain")
    assert "# EOF" not in old.text
    assert TRACE not in old.text
    assert new.content_type.startswith("application/openmetrics-text")
    assert new.text.endswith("# EOF\n")
    assert old.value("tiercel_requests_total") == new.value("tiercel_requests_total") == 1


async def test_refusals_and_cancellations_are_counted_by_reason(model_directory: Path) -> None:
    engine = FakeEngine(vocab_size=VOCAB_SIZE)
    async with running_stack(model_directory) as stack:
        address = await start(stack, engine)
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(stack, address, request(temperature=-1.0, tenant="acme"))
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(stack, address, request(model="another"))
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(stack, address, request([1] * 600))
        call = stack.inference(address).Generate(request(max_tokens=400, ignore_eos=True))
        await call.read()
        call.cancel()
        host = stack.tokenizers[address].host

        async def has_been_counted() -> bool:
            return (await scraped(host)).value("tiercel_requests_total", outcome="cancelled") == 1

        await eventually(has_been_counted, "the cancelled call is counted")
        found = await scraped(host)
    assert found.value("tiercel_requests_total", outcome="refused") == 3
    reasons = {s.labels["reason"]: s.value for s in found.samples("tiercel_refusals_total") if s.value}
    assert reasons == {"InvalidRequest": 1, "ModelNotFound": 1, "PromptTooLong": 1}
    assert found.value("tiercel_tenant_requests_total", tenant="acme", outcome="refused") == 1
    kinds = {s.labels["error_type"] for s in found.samples("gen_ai_server_request_duration_seconds_count")}
    assert {"InvalidRequest", "ModelNotFound", "PromptTooLong"} <= kinds
    # What a client calls a model may be anything, and is no label.
    assert "another" not in found.text


async def test_scheduler_and_worker_agree_with_the_status(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(vocab_size=VOCAB_SIZE))
        for _ in range(3):
            await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        scheduler = next(iter(stack.schedulers.values())).host
        worker = next(iter(stack.workers.values())).host
        status = next(row for row in await _status(stack, address) if row.role == "worker")
        decided, computed = await scraped(scheduler), await scraped(worker)
    assert status.metrics_address == worker.metrics_address
    tier = status.worker.tiers[0]
    assert decided.value("tiercel_steps_total", worker=status.address) == status.worker.steps
    assert decided.value("tiercel_computed_completion_tokens_total") == status.worker.completion_tokens
    assert decided.value("tiercel_kv_hit_tokens_total", tier="device") == tier.hit_tokens > 0
    assert decided.value("tiercel_kv_blocks", tier="device", state="cached") == tier.cached_blocks
    assert decided.value("tiercel_scheduler_endings_total", outcome="finished") == 3
    assert computed.value("tiercel_step_duration_seconds_count") == status.worker.steps
    assert computed.value("tiercel_step_tokens_count") <= status.worker.steps
    assert computed.value("tiercel_worker_sessions_total") == 1


async def test_a_step_that_fails_is_a_fault_and_its_requests_are_refusals(model_directory: Path) -> None:
    engine = FakeEngine(vocab_size=VOCAB_SIZE)
    async with running_stack(model_directory) as stack:
        address = await start(stack, engine)
        engine.fail_next_step = RuntimeError("broken")
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(stack, address, request(max_tokens=5))
        worker = next(iter(stack.workers.values())).host
        found = await scraped(worker)
        front = await scraped(stack.tokenizers[address].host)
    assert found.value("tiercel_worker_faults_total", void="session") == 1
    assert front.value("tiercel_refusals_total", reason="WorkerLost") == 1


async def _status(stack: Stack, address: str) -> list[common_pb2.ServiceStatus]:
    return list((await stack.inference(address).GetStatus(inference_pb2.GetStatusRequest())).services)


async def started_host(config: ServiceConfig, telemetry: Telemetry | None = None) -> ServiceHost:
    host = ServiceHost("tiercel.v1.Inference", config, telemetry=telemetry)
    await host.start()
    return host


async def test_metrics_can_be_switched_off() -> None:
    host = await started_host(ServiceConfig(metrics_port=0))
    assert host.metrics_address == ""
    await host.stop()


async def test_a_given_port_that_is_taken_is_an_error_and_a_default_one_is_passed_over() -> None:
    first = await started_host(ServiceConfig())
    second = await started_host(ServiceConfig())
    assert first.metrics_address != second.metrics_address
    await asyncio.to_thread(scrape, second.metrics_address)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="--metrics-port"):
        await started_host(ServiceConfig(metrics_port=taken.getsockname()[1]))
    with pytest.raises(ConfigError, match="--metrics-host"):
        await started_host(ServiceConfig(metrics_host="203.0.113.1"))
    with pytest.raises(ConfigError, match="--metrics-port"):
        await started_host(ServiceConfig(metrics_port=70_000))
    await first.stop()
    await second.stop()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_metrics_arrive_at_a_collector_as_a_service_leaves(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = metrics_receiver() if protocol == "grpc" else http_metrics_receiver()
    with running as receiver:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        telemetry = await asyncio.to_thread(open_telemetry, "tokenizer", ServiceConfig(otlp=receiver.endpoint))
        assert not telemetry.is_tracing
        host = await started_host(ServiceConfig(), telemetry)
        await host.set_ready(True)
        await host.stop()
        ready = receiver.wait_for("tiercel-tokenizer", "tiercel.ready")
    assert [point.as_int for point in ready.gauge.data_points] == [1]


async def test_a_collector_that_hangs_holds_up_neither_scrapes_nor_the_end() -> None:
    with metrics_receiver() as receiver:
        receiver.hangs.set()
        telemetry = Telemetry(make_resource("worker"))
        telemetry.meter_to(OtlpTarget(receiver.endpoint, is_http=False))
        host = await started_host(ServiceConfig(), telemetry)
        assert (await scraped(host)).value("tiercel_ready") == 0
        await asyncio.wait_for(host.stop(), 15)


async def test_a_collector_that_refuses_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "50")
    with metrics_receiver() as receiver:
        receiver.refuses = True
        telemetry = Telemetry(make_resource("worker"))
        telemetry.meter_to(OtlpTarget(receiver.endpoint, is_http=False))
        host = await started_host(ServiceConfig(), telemetry)

        async def is_counted() -> bool:
            return (await scraped(host)).value("tiercel_telemetry_metric_exports_total", result="failed") > 0

        await eventually(is_counted, "a failed export is counted")
        receiver.refuses = False
        await asyncio.to_thread(receiver.wait_for, "tiercel-worker", "tiercel.ready")
        await host.stop()


def test_a_wrong_interval_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "soon")
    with pytest.raises(ConfigError, match="OTEL_METRIC_EXPORT_INTERVAL"):
        open_telemetry("worker", ServiceConfig(otlp="http://127.0.0.1:1"))


async def test_every_line_about_a_request_names_it_and_its_trace(model_directory: Path) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("stack", LogFormat.JSON, stream)
    try:
        async with running_stack(model_directory) as stack:
            address = await start(stack, FakeEngine(vocab_size=VOCAB_SIZE))
            metadata = [("traceparent", TRACEPARENT)]
            await generate(stack, address, request(max_tokens=3, request_id="good"), metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError):
                await generate(stack, address, request(top_p=7.0, request_id="bad"), metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError):
                await generate(stack, address, request([1] * 100, request_id="late"), timeout=0.0001, metadata=metadata)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("services.tokenizer.service.validate", lambda *_: 1 // 0)
                with pytest.raises(grpc.aio.AioRpcError, match="internal error"):
                    await generate(stack, address, request(request_id="ours"), metadata=metadata)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    about = [line for line in lines if line["message"].startswith("request ")]
    assert {"good", "bad"} <= {line["request_id"] for line in about}
    assert {line["trace_id"] for line in about} == {TRACE}
    (finished,) = [line for line in about if line["message"] == "request finished"]
    assert finished["request_id"] == "good"
    assert finished["completion_tokens"] == 3
    (internal,) = [line for line in lines if line["message"].startswith("internal error")]
    assert (internal["request_id"], internal["trace_id"]) == ("ours", TRACE)
    assert "ZeroDivisionError" in internal["exception"]
    (refused,) = [line for line in about if line["request_id"] == "bad"]
    assert (refused["kind"], "top_p" in refused["reason"]) == ("InvalidRequest", True)
    # Lines that belong to no request say nothing of one.
    assert all("request_id" not in line for line in lines if line["message"] == "listening")
