"""The life of a service process: listening, health, reflection, TLS, draining on a signal."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.errors import ConfigError
from engine.sampling import SamplingParams
from services.common.announce import Announcer
from services.common.config import ServiceConfig
from services.common.sampling_wire import sampling_to_wire
from services.common.server import ServiceHost, ServiceState
from tests.fakes.worker_service import FakeEngine, FakeWorkerService
from tests.services.stack import PATIENCE_S, eventually, port_of
from tiercel.v1 import scheduling_pb2, scheduling_pb2_grpc

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


async def test_what_comes_before_the_first_readiness_comes_once_and_before_anyone_knows() -> None:
    host = ServiceHost(SERVICE, ServiceConfig())
    states: list[ServiceState] = []
    host.before_first_ready = lambda: states.append(host.state)
    for is_ready in (False, True, False, True):
        await host.set_ready(is_ready)
    assert states == [ServiceState.STARTING]


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


def test_a_fifo_whose_reader_goes_away_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "announce"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    announcer = Announcer(path)
    announcer.listening("127.0.0.1:1", "127.0.0.1:2")
    assert json.loads(os.read(reader, 4096))["address"] == "127.0.0.1:1"
    os.close(reader)
    announcer.ready()
    announcer.draining()
    announcer.close()


@contextlib.asynccontextmanager
async def scheduler_process(tmp_path: Path, worker: str, *flags: str) -> AsyncIterator[tuple[Any, str]]:
    """The scheduler as its own process, and its address."""
    announce = tmp_path / "announce"
    command = ["-m", "services.scheduler", "--workers", worker, "--announce", str(announce), *flags]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.DEVNULL)
    try:
        await eventually(lambda: {"event": "ready"} in events_in(announce), "the scheduler announces that it is ready")
        yield process, events_in(announce)[0]["address"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def submission() -> scheduling_pb2.FrontMessage:
    sampling = sampling_to_wire(SamplingParams(temperature=0.0, max_tokens=30))
    submit = scheduling_pb2.Submit(handle=1, request_id="r", prompt_token_ids=[1, 2, 3], n=1, sampling=sampling)
    return scheduling_pb2.FrontMessage(submit=submit)


async def tokens_until_end(call: Any) -> int:
    num_tokens = 0
    async for message in call:
        num_tokens += len(message.output.tokens.handles)
        if message.output.finishes:
            break
    return num_tokens


async def test_sigterm_lets_running_work_finish(tmp_path: Path) -> None:
    engine = FakeEngine(vocab_size=64)
    worker = FakeWorkerService(engine, ServiceConfig())
    address = await worker.start()
    async with scheduler_process(tmp_path, address) as (process, target), grpc.aio.insecure_channel(target) as channel:
        engine.gate.clear()
        call = scheduling_pb2_grpc.SchedulingStub(channel).Connect()
        await call.write(submission())
        await eventually(lambda: engine.is_waiting, "the first step has begun")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: {"event": "draining"} in events_in(tmp_path / "announce"), "it drains")
        assert await check(channel, "tiercel.v1.Scheduling") == NOT_SERVING
        engine.gate.set()
        assert await tokens_until_end(call) == 30
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    await worker.stop()


@pytest.mark.parametrize("by_second_signal", [True, False])
async def test_a_drain_is_cut_short_by_its_time_limit_or_a_second_signal(
    tmp_path: Path, by_second_signal: bool
) -> None:
    engine = FakeEngine(vocab_size=64)
    worker = FakeWorkerService(engine, ServiceConfig())
    address = await worker.start()
    limit = ("--drain-timeout-s", "600" if by_second_signal else "0.1")
    async with (
        scheduler_process(tmp_path, address, *limit) as (process, target),
        grpc.aio.insecure_channel(target) as channel,
    ):
        engine.gate.clear()
        call = scheduling_pb2_grpc.SchedulingStub(channel).Connect()
        await call.write(submission())
        await eventually(lambda: engine.is_waiting, "the first step has begun")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: {"event": "draining"} in events_in(tmp_path / "announce"), "it drains")
        if by_second_signal:
            assert process.returncode is None
            process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    engine.gate.set()
    await worker.stop()
