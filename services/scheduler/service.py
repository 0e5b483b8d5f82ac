"""The gRPC face of the scheduler: streams of tokenizers on one side, links to workers on the other."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc

from engine.errors import ConfigError, Draining
from services.common import logs
from services.common.server import ServiceHost
from services.common.status import errors_as_status
from services.scheduler.cache_relay import CacheRelay
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.front import FrontContext
from services.scheduler.link import WorkerLink
from services.scheduler.metrics import SchedulerMetrics
from services.scheduler.request_spans import RequestSpans
from services.scheduler.status import service_rows
from tiercel.v1 import common_pb2, scheduling_pb2, scheduling_pb2_grpc

_log = logs.get_logger(__name__)

SERVICE_NAME = "tiercel.v1.Scheduling"


class SchedulerService:
    """Serves `Scheduling`. Ready while a worker is."""

    def __init__(self, host: ServiceHost, config: SchedulerServiceConfig) -> None:
        if not config.workers:
            raise ConfigError("no workers: give --workers HOST:PORT[,HOST:PORT...]")
        if len(set(config.workers)) < len(config.workers):
            raise ConfigError("--workers names an address twice; one worker serves one session")
        self._host = host
        self._config = config
        self.dispatcher = Dispatcher(config, RequestSpans(host.telemetry.spans))
        host.metrics.add(SchedulerMetrics(self.dispatcher).read)

    def register(self, server: grpc.aio.Server) -> None:
        scheduling_pb2_grpc.add_SchedulingServicer_to_server(cast(scheduling_pb2_grpc.SchedulingServicer, self), server)

    async def run(self) -> None:
        scheduler_id = uuid.uuid4().hex
        dispatcher = self.dispatcher
        dispatcher.links = [
            WorkerLink(address, scheduler_id, self._config, dispatcher) for address in self._config.workers
        ]
        async with asyncio.TaskGroup() as tasks:
            for link in dispatcher.links:
                tasks.create_task(link.run())
            tasks.create_task(self._follow_readiness())

    async def _follow_readiness(self) -> None:
        """Health follows what tokenizers are told."""
        while True:
            await self._host.set_ready(self.dispatcher.info.ready)
            await self.dispatcher.info_changed.wait()
            self.dispatcher.info_changed.clear()

    async def Connect(
        self, request_iterator: AsyncIterator[scheduling_pb2.FrontMessage], context: FrontContext
    ) -> None:
        """Written with `context.write` rather than as a generator, so that a broken stream is noticed at once."""
        async with errors_as_status(context, _log):
            if self.dispatcher.is_draining:
                raise Draining("the scheduler is shutting down")
            dispatcher = self.dispatcher
            front = dispatcher.add_front()
            _log.info("tokenizer connected", extra=logs.fields(front=front.number, peer=context.peer()))
            try:
                await front.run(request_iterator, context, lambda message: dispatcher.on_front_message(front, message))
            finally:
                dispatcher.remove_front(front)
                _log.info("tokenizer gone", extra=logs.fields(front=front.number))

    async def GetSchedulerStatus(
        self,
        request: scheduling_pb2.GetSchedulerStatusRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> scheduling_pb2.GetSchedulerStatusResponse:
        response = scheduling_pb2.GetSchedulerStatusResponse()
        async with errors_as_status(context, _log):
            response.services.extend(service_rows(self._host, self.dispatcher))
        return response

    async def ManageCache(
        self, request: common_pb2.ManageCacheRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        async with errors_as_status(context, _log):
            if self.dispatcher.is_draining:
                raise Draining("the scheduler is shutting down")
            async with contextlib.aclosing(CacheRelay(self.dispatcher, self._config).answer(request)) as events:
                async for event in events:
                    await context.write(event)

    async def drain(self) -> None:
        """Refuse what comes, finish what is there, keep on disk what is worth keeping."""
        self.dispatcher.is_draining = True
        await self.dispatcher.idle.wait()
        await asyncio.gather(*(link.drain() for link in self.dispatcher.links))

    async def close(self) -> None:
        self.dispatcher.end_fronts()
