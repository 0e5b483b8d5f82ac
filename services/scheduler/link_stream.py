"""The stream of one session with a worker: dialled, opened, written from a queue, watched beside."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channel import dial
from services.scheduler.config import SchedulerServiceConfig
from tiercel.v1 import execution_pb2, execution_pb2_grpc

PROTOCOL_VERSION = 1
WORKER_SERVICE = "tiercel.v1.Execution"

_Call = grpc.aio.StreamStreamCall[execution_pb2.PlanMessage, execution_pb2.WorkerMessage]


class LinkStream:
    """One session; not reusable. On the loop's thread."""

    def __init__(self, address: str, config: SchedulerServiceConfig, on_not_serving: Callable[[], None]) -> None:
        """`on_not_serving`: the worker was serving and is not any more; it finishes what runs and takes nothing new."""
        self._address = address
        self._config = config
        self._on_not_serving = on_not_serving
        self._outbox: asyncio.Queue[execution_pb2.PlanMessage | None] = asyncio.Queue()

    def send(self, message: execution_pb2.PlanMessage) -> None:
        self._outbox.put_nowait(message)

    def end(self) -> None:
        """Send what is queued, then end the session."""
        self._outbox.put_nowait(None)

    async def messages(self, scheduler_id: str) -> AsyncGenerator[execution_pb2.WorkerMessage, None]:
        """Everything the worker says, until either side ends the session. Raises AioRpcError where it breaks.

        To be closed by whoever stops reading.
        """
        async with dial(self._address, self._config) as channel:
            call = execution_pb2_grpc.ExecutionStub(channel).Session()
            opening = execution_pb2.Open(scheduler_id=scheduler_id, protocol_version=PROTOCOL_VERSION)
            await call.write(execution_pb2.PlanMessage(open=opening))
            helpers = [asyncio.create_task(self._write(call)), asyncio.create_task(self._watch_health(channel))]
            try:
                async for message in call:
                    yield message
            finally:
                for helper in helpers:
                    helper.cancel()
                call.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def _write(self, call: _Call) -> None:
        # A broken stream shows in the reader, which has its reason.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while (message := await self._outbox.get()) is not None:
                await call.write(message)
            await call.done_writing()

    async def _watch_health(self, channel: grpc.aio.Channel) -> None:
        was_serving = False
        request = health_pb2.HealthCheckRequest(service=WORKER_SERVICE)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(request):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    was_serving = True
                elif was_serving:
                    self._on_not_serving()
