"""The life of a service process: listening, health, reflection, TLS, draining on a signal."""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.errors import ConfigError
from services.common.announce import Announcer
from services.common.config import ServiceConfig
from services.common.server import ServiceHost
from tests.fakes.worker_service import FakeEngine, FakeWorkerService
from tests.services.stack import PATIENCE_S, eventually, port_of

SERVICE = "tiercel.v1.Execution"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(channel: grpc.aio.Channel, service: str) -> Any:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return answer.status


async def test_health_answers_while_weights_load_and_turns_when_they_are_there() -> None:
    engine = FakeEngine(vocab_size=64)
    engine.loading_gate.clear()
    worker = FakeWorkerService(engine, ServiceConfig())
    address = await worker.start()
    async with grpc.aio.insecure_channel(address) as channel:
        assert await check(channel, SERVICE) == NOT_SERVING
        assert await check(channel, "") == NOT_SERVING
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == NOT_SERVING
        engine.loading_gate.set()
        assert (await watch.read()).status == SERVING
        assert await check(channel, "") == SERVING
        watch.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(channel, "tiercel.v1.Nothing")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await worker.stop()


async def test_reflection_lists_the_service() -> None:
    worker = FakeWorkerService(FakeEngine(vocab_size=64), ServiceConfig())
    address = await worker.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert {SERVICE, "grpc.health.v1.Health"} <= names
    await worker.stop()


async def test_a_port_in_use_is_a_config_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host = ServiceHost(SERVICE, ServiceConfig(port=taken.getsockname()[1]))
        with pytest.raises(ConfigError, match="the port is in use"):
            await host.start()
        await host.stop()


async def test_two_services_cannot_share_a_port() -> None:
    first = FakeWorkerService(FakeEngine(vocab_size=64), ServiceConfig())
    address = await first.start()
    second = ServiceHost(SERVICE, ServiceConfig(port=port_of(address)))
    with pytest.raises(ConfigError, match="the port is in use"):
        await second.start()
    await second.stop()
    await first.stop()


async def test_half_a_tls_pair_is_a_config_error(tmp_path: Path) -> None:
    host = ServiceHost(SERVICE, ServiceConfig(tls_cert=tmp_path / "cert.pem"))
    with pytest.raises(ConfigError, match="TLS needs cert and key together; key is not set"):
        await host.start()
    await host.stop()


async def test_a_tls_file_that_is_not_pem_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("not a certificate")
    host = ServiceHost(SERVICE, ServiceConfig(tls_cert=tmp_path / "x.pem", tls_key=tmp_path / "x.pem"))
    with pytest.raises(ConfigError, match="not in PEM format"):
        await host.start()
    await host.stop()


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_announcements_are_json_lines(tmp_path: Path) -> None:
    announcer = Announcer(tmp_path / "announce")
    announcer.loading(1, 2)
    announcer.ready()
    announcer.close()
    assert events_in(tmp_path / "announce") == [
        {"event": "loading", "loaded_bytes": 1, "total_bytes": 2},
        {"event": "ready"},
    ]


async def test_sigterm_ends_an_idle_scheduler_with_exit_code_0(tmp_path: Path) -> None:
    worker = FakeWorkerService(FakeEngine(vocab_size=64), ServiceConfig())
    address = await worker.start()
    announce = tmp_path / "announce"
    command = [sys.executable, "-m", "services.scheduler", "--workers", address, "--announce", str(announce)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        await eventually(lambda: {"event": "ready"} in events_in(announce), "the scheduler announces that it is ready")
        listening = events_in(announce)[0]
        assert listening["event"] == "listening"
        assert listening["pid"] == process.pid
        async with grpc.aio.insecure_channel(listening["address"]) as channel:
            assert await check(channel, "tiercel.v1.Scheduling") == SERVING
        process.send_signal(signal.SIGTERM)
        _, stderr = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 0
        assert events_in(announce)[-1] == {"event": "draining"}
        lines = [json.loads(line) for line in stderr.splitlines()]
        origins = {line["name"]: line["origin"] for line in lines if line["message"] == "setting"}
        assert origins["workers"] == "flag"
        assert origins["max_waiting"] == "default"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await worker.stop()
