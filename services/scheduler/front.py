"""One tokenizer's stream as the scheduler sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc

from services.common import logs
from tiercel.v1 import scheduling_pb2

_log = logs.get_logger(__name__)

_MAX_OUTBOX = 10_000
"""Messages, one per step. A tokenizer that is this far behind has stopped reading."""

FrontContext = grpc.aio.ServicerContext[scheduling_pb2.FrontMessage, scheduling_pb2.SchedulerMessage]


class Front:
    """Its number makes the ids of its requests unique. `send` never blocks."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._outbox: asyncio.Queue[scheduling_pb2.SchedulerMessage | None] = asyncio.Queue()

    def engine_id(self, handle: int) -> str:
        return f"{self.number}/{handle}"

    def send(self, message: scheduling_pb2.SchedulerMessage) -> None:
        if self._outbox.qsize() == _MAX_OUTBOX:
            _log.error("tokenizer does not read, its stream is ended", extra=logs.fields(front=self.number))
            self.end()
        elif self._outbox.qsize() < _MAX_OUTBOX:
            self._outbox.put_nowait(message)

    def end(self) -> None:
        """Send what is queued, then end the stream."""
        self._outbox.put_nowait(None)

    async def run(
        self,
        messages: AsyncIterator[scheduling_pb2.FrontMessage],
        context: FrontContext,
        on_message: Callable[[scheduling_pb2.FrontMessage], None],
    ) -> None:
        """Until either side ends the stream."""
        reading = asyncio.create_task(self._read(messages, on_message))
        try:
            while (message := await self._outbox.get()) is not None:
                await context.write(message)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reading

    async def _read(
        self,
        messages: AsyncIterator[scheduling_pb2.FrontMessage],
        on_message: Callable[[scheduling_pb2.FrontMessage], None],
    ) -> None:
        try:
            async for message in messages:
                on_message(message)
        finally:
            self.end()
