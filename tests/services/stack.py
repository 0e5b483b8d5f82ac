"""A whole stack in one process: the real services over real sockets, with a fake in place of the model."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from services.common.channel import FRONT_DOOR_OPTIONS
from services.common.config import ServiceConfig
from services.common.server import DrainableService, ServiceHost
from services.common.telemetry import open_telemetry
from services.scheduler import service as scheduler_service
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.service import SchedulerService
from services.tokenizer import service as tokenizer_service
from services.tokenizer.config import TokenizerConfig
from services.tokenizer.service import TokenizerService
from tests.fakes.worker_service import FakeEngine, FakeWorkerService
from tiercel.v1 import inference_pb2_grpc, scheduling_pb2_grpc

PATIENCE_S = 20.0
"""For conditions that must come true; the machine may be busy."""


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return once the condition holds. Other tasks run between two looks; fails after the time limit."""
    deadline = time.monotonic() + timeout_s
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.002)


@dataclass
class RunningService:
    """One service on its own server, as `services.common.server.serve` runs it, but without signals."""

    host: ServiceHost
    service: DrainableService
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> str:
        self.service.register(self.host.server)
        address = await self.host.start()
        self.tasks.append(asyncio.create_task(self.service.run()))
        return address

    async def drain(self) -> None:
        await self.host.enter_drain()
        await self.service.drain()

    async def stop(self) -> None:
        """Abrupt: connections break as when the process dies."""
        await self.host.server.stop(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        await self.service.close()
        await self.host.stop()


def port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


class Stack:
    """Starts and stops services in any order. Every service keeps its port when it is started again."""

    def __init__(self, model_directory: Path, **settings: Any) -> None:
        self.model_directory = model_directory
        self.settings = settings
        self.workers: dict[str, FakeWorkerService] = {}
        self.schedulers: dict[str, RunningService] = {}
        self.tokenizers: dict[str, RunningService] = {}
        self.channels: list[grpc.aio.Channel] = []

    async def start_worker(self, engine: FakeEngine, port: int = 0) -> str:
        worker = FakeWorkerService(engine, ServiceConfig(port=port, **self.settings))
        address = await worker.start()
        self.workers[address] = worker
        return address

    async def start_scheduler(
        self,
        workers: list[str],
        *,
        port: int = 0,
        max_waiting: int = 64,
        worker_wait_s: float = 10.0,
        always_bring: bool = False,
    ) -> str:
        config = SchedulerServiceConfig(
            workers=tuple(workers),
            port=port,
            max_waiting=max_waiting,
            worker_wait_s=worker_wait_s,
            always_bring=always_bring,
            **self.settings,
        )
        host = ServiceHost(scheduler_service.SERVICE_NAME, config, telemetry=open_telemetry("scheduler", config))
        running = RunningService(host, SchedulerService(host, config))
        address = await running.start()
        self.schedulers[address] = running
        return address

    async def start_tokenizer(self, scheduler: str, *, port: int = 0, max_concurrent: int = 256) -> str:
        config = TokenizerConfig(
            model=str(self.model_directory),
            served_model_name="fake",
            scheduler=scheduler,
            port=port,
            max_concurrent=max_concurrent,
            **self.settings,
        )
        host = ServiceHost(
            tokenizer_service.SERVICE_NAME, config, FRONT_DOOR_OPTIONS, open_telemetry("tokenizer", config)
        )
        running = RunningService(host, TokenizerService(host, config))
        address = await running.start()
        self.tokenizers[address] = running
        return address

    async def stop_worker(self, address: str) -> None:
        await self.workers.pop(address).stop()

    async def stop_scheduler(self, address: str) -> None:
        await self.schedulers.pop(address).stop()

    async def stop_tokenizer(self, address: str) -> None:
        await self.tokenizers.pop(address).stop()

    def scheduler(self) -> SchedulerService:
        (running,) = self.schedulers.values()
        assert isinstance(running.service, SchedulerService)
        return running.service

    async def serving(self, address: str) -> None:
        """Wait until a tokenizer or scheduler says that it is ready."""
        running = self.tokenizers.get(address) or self.schedulers[address]
        await eventually(lambda: running.host.state == "ready", f"{address} is ready")

    def inference(self, address: str, **options: int) -> "inference_pb2_grpc.InferenceAsyncStub":
        """A stub on its own connection; `options` are channel options without their `grpc.`."""
        chosen = [(f"grpc.{name}", value) for name, value in options.items()]
        channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1), *chosen])
        self.channels.append(channel)
        return inference_pb2_grpc.InferenceStub(channel)

    def scheduling(self, address: str) -> "scheduling_pb2_grpc.SchedulingAsyncStub":
        channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.channels.append(channel)
        return scheduling_pb2_grpc.SchedulingStub(channel)

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()
        for tokenizer in list(self.tokenizers):
            await self.stop_tokenizer(tokenizer)
        for scheduler in list(self.schedulers):
            await self.stop_scheduler(scheduler)
        for worker in list(self.workers):
            await self.stop_worker(worker)


@contextlib.asynccontextmanager
async def running_stack(model_directory: Path, **settings: Any) -> AsyncIterator[Stack]:
    stack = Stack(model_directory, **settings)
    try:
        yield stack
    finally:
        await stack.close()
