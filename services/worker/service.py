"""The gRPC face of a worker: health from the first moment, one session at a time, progress while weights load."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc

from engine.errors import Draining, InvalidRequest, WorkerLost
from services.common import logs
from services.common.server import ServiceHost
from services.common.status import errors_as_status
from services.worker.cache_call import look_after
from services.worker.cache_wire import no_disk_to_wire
from services.worker.engine_thread import EngineThread
from services.worker.loaded_engine import LoadEngine
from services.worker.metrics import WorkerMetrics
from services.worker.session import SessionContext, WorkerSession
from services.worker.wire import ready_to_wire
from services.worker.worker_spans import WorkerSpans
from tiercel.v1 import common_pb2, execution_pb2, execution_pb2_grpc

_log = logs.get_logger(__name__)

SERVICE_NAME = "tiercel.v1.Execution"
PROTOCOL_VERSION = 1

_PROGRESS_INTERVAL_NS = 100_000_000
_DISK_IS_OFF = "the disk tier is switched off; start with --disk-cache and --host-cache above 0"


class WorkerService:
    """Serves `Execution`. Everything but the engine's thread happens on the loop."""

    def __init__(self, host: ServiceHost, load: LoadEngine) -> None:
        self._host = host
        self._load = load
        self._engine: EngineThread | None = None
        self._session: WorkerSession | None = None
        self._is_draining = False
        self._metrics = WorkerMetrics(host.metrics)
        self._loaded_bytes = (0, 0)
        self._reported_ns = 0

    def register(self, server: grpc.aio.Server) -> None:
        execution_pb2_grpc.add_ExecutionServicer_to_server(cast(execution_pb2_grpc.ExecutionServicer, self), server)

    async def run(self) -> None:
        engine = self._engine = EngineThread(self._load, self._on_progress)
        engine.start()
        facts = await engine.facts()
        self._metrics.on_loaded(facts, engine.keeper)
        _log.info(
            "model loaded",
            extra=logs.fields(
                model=facts.model,
                fingerprint=facts.fingerprint[:16],
                device=facts.device,
                dtype=facts.dtype,
                kv_dtype=facts.kv_dtype,
                attention=facts.attention_backend,
                weights=facts.weights,
                weight_bytes=facts.weight_bytes,
                blocks=facts.num_blocks,
                block_bytes=facts.block_bytes,
                max_model_tokens=facts.max_model_tokens,
            ),
        )
        await self._host.set_ready(True)
        await engine.died()

    def _on_progress(self, loaded_bytes: int, total_bytes: int) -> None:
        self._loaded_bytes = (loaded_bytes, total_bytes)
        self._metrics.loaded_bytes = loaded_bytes
        now_ns = time.monotonic_ns()
        if loaded_bytes < total_bytes and now_ns - self._reported_ns < _PROGRESS_INTERVAL_NS:
            return
        self._reported_ns = now_ns
        self._host.announcer.loading(loaded_bytes, total_bytes)
        if self._session is not None:
            self._session.send(self._loading_message())

    def _loading_message(self) -> execution_pb2.WorkerMessage:
        loaded_bytes, total_bytes = self._loaded_bytes
        return execution_pb2.WorkerMessage(
            loading=execution_pb2.Loading(loaded_bytes=loaded_bytes, total_bytes=total_bytes)
        )

    async def Session(
        self, request_iterator: AsyncIterator[execution_pb2.PlanMessage], context: SessionContext
    ) -> None:
        """Written with `context.write` rather than as a generator, so that a broken stream is noticed at once."""
        async with errors_as_status(context, _log):
            if self._is_draining or self._engine is None:
                raise Draining("the worker is shutting down and takes no new session; use another worker")
            opening = await anext(request_iterator, None)
            scheduler_id = _check_open(opening)
            await self._supersede(scheduler_id)
            session = self._session = WorkerSession(
                self._engine, scheduler_id, self._metrics, WorkerSpans(self._host.telemetry)
            )
            _log.info("session opened", extra=logs.fields(scheduler=scheduler_id))
            session.send(self._loading_message())
            becoming_ready = asyncio.create_task(self._begin_when_loaded(session, self._engine))
            try:
                await session.run(request_iterator, context)
            finally:
                becoming_ready.cancel()
                if self._session is session:
                    self._session = None
                _log.info("session ended", extra=logs.fields(scheduler=scheduler_id))

    async def ManageCache(
        self, request: common_pb2.ManageCacheRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Beside the session, which goes on undisturbed."""
        async with errors_as_status(context, _log):
            if self._is_draining or self._engine is None:
                raise Draining("the worker is shutting down; ask another one")
            facts = await self._engine.facts()
            keeper = self._engine.keeper
            if keeper is None:
                await context.write(no_disk_to_wire(facts.disk_note or _DISK_IS_OFF))
                return
            async with contextlib.aclosing(look_after(keeper, request)) as events:
                async for event in events:
                    await context.write(event)

    async def _begin_when_loaded(self, session: WorkerSession, engine: EngineThread) -> None:
        try:
            facts = await engine.facts()
        except Exception:
            # `run` ends the process with this error; the session only has to end.
            session.end()
            return
        session.begin()
        session.send(ready_to_wire(facts, os.getpid(), self._host.metrics_address))

    async def _supersede(self, scheduler_id: str) -> None:
        """A scheduler that comes back after a crash must not wait until its old connection is found dead."""
        if self._session is not None:
            _log.warning(
                "a new session ends the one before",
                extra=logs.fields(old=self._session.scheduler_id, new=scheduler_id),
            )
            old = self._session
            old.end()
            await old.closed.wait()
        if self._is_draining:
            raise WorkerLost("the worker is shutting down; use another worker")

    async def drain(self) -> None:
        """The scheduler sees NOT_SERVING, sends nothing new, and ends the session once its last sequence has ended."""
        self._is_draining = True
        if self._session is not None:
            await self._session.closed.wait()

    async def close(self) -> None:
        self._is_draining = True
        if self._session is not None:
            self._session.end()
        if self._engine is not None:
            await self._engine.stop()


def _check_open(message: execution_pb2.PlanMessage | None) -> str:
    if message is None or not message.HasField("open"):
        raise InvalidRequest("a session starts with Open; send it first")
    if message.open.protocol_version != PROTOCOL_VERSION:
        raise InvalidRequest(
            f"the scheduler speaks protocol version {message.open.protocol_version}, this worker {PROTOCOL_VERSION}; "
            "run the same release of both",
            field="open.protocol_version",
        )
    return message.open.scheduler_id
