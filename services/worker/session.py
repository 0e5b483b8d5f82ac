"""One scheduler's session on the worker: plans in, results and faults out, in order."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc

from engine.scheduling.plan import StepResult
from kvstore.transfer import PinKept, PinnedKeys, TierEvents, TierFault, TransferResult
from services.common.trace_context import trace_from_wire
from services.worker.engine_session import EngineSession, Outcome, StepFault
from services.worker.engine_thread import EngineThread
from services.worker.metrics import WorkerMetrics
from services.worker.tier_wire import (
    pin_from_wire,
    pin_kept_to_wire,
    pinned_to_wire,
    tier_events_to_wire,
    tier_fault_to_wire,
    transfer_result_to_wire,
    transfers_from_wire,
)
from services.worker.wire import fault_to_wire, plan_from_wire, result_to_wire
from services.worker.worker_spans import WorkerSpans
from tiercel.v1 import execution_pb2

SessionContext = grpc.aio.ServicerContext[execution_pb2.PlanMessage, execution_pb2.WorkerMessage]


class WorkerSession:
    """Lives on the loop's thread. `closed` is set when nothing of the session is left."""

    def __init__(self, engine: EngineThread, scheduler_id: str, metrics: WorkerMetrics, spans: WorkerSpans) -> None:
        self.scheduler_id = scheduler_id
        self.closed = asyncio.Event()
        self._engine = engine
        self._metrics = metrics
        self._spans = spans
        self._hold = EngineSession(self._on_outcome)
        # Bounded by the plans in flight, and by the progress reports while loading.
        self._outbox: asyncio.Queue[execution_pb2.WorkerMessage | None] = asyncio.Queue()

    def send(self, message: execution_pb2.WorkerMessage) -> None:
        self._outbox.put_nowait(message)

    def end(self) -> None:
        """Send what is queued, then end the stream."""
        self._outbox.put_nowait(None)

    def begin(self) -> None:
        self._metrics.num_sessions += 1
        self._engine.begin(self._hold)

    def _on_outcome(self, outcome: Outcome) -> None:
        match outcome:
            case StepResult():
                self.send(result_to_wire(outcome))
                self._metrics.on_step(outcome.timings)
                self._spans.on_result(outcome)
            case StepFault(slots=slots):
                self.send(fault_to_wire(outcome))
                self._metrics.on_fault(outcome)
                self._spans.on_fault(outcome)
                if not slots:
                    self.end()
            case TransferResult():
                self.send(transfer_result_to_wire(outcome))
                self._spans.on_transferred(outcome)
            case TierEvents():
                self.send(tier_events_to_wire(outcome))
                self._metrics.on_tier_events(outcome)
            case TierFault():
                self.send(tier_fault_to_wire(outcome))
                self._metrics.on_tier_fault(outcome)
            case PinnedKeys():
                self.send(pinned_to_wire(outcome))
            case PinKept():
                self.send(pin_kept_to_wire(outcome))

    async def run(self, messages: AsyncIterator[execution_pb2.PlanMessage], context: SessionContext) -> None:
        """Until either side ends the stream, or `end` is called."""
        reading = asyncio.create_task(self._read(messages))
        try:
            while (message := await self._outbox.get()) is not None:
                await context.write(message)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            self._engine.end(self._hold)
            self.closed.set()

    async def _read(self, messages: AsyncIterator[execution_pb2.PlanMessage]) -> None:
        try:
            async for message in messages:
                if message.HasField("plan"):
                    received_ns = time.monotonic_ns()
                    plan = plan_from_wire(message.plan, received_ns)
                    self._engine.run(self._hold, plan, received_ns)
                    self._metrics.on_plan(plan)
                    self._spans.on_plan(plan)
                elif message.HasField("transfers"):
                    self._move(message.transfers, time.monotonic_ns())
                elif message.HasField("pin") and self._engine.keeper is not None:
                    self._engine.keeper.pins.write(pin_from_wire(message.pin))
        finally:
            self.end()

    def _move(self, message: execution_pb2.Transfers, received_ns: int) -> None:
        transfers = transfers_from_wire(message)
        # First: a result may come before this returns to the loop, but not before it is known whose it is.
        for transfer, row in zip(transfers, message.transfers, strict=True):
            self._spans.on_transfer(transfer, trace_from_wire(row.trace, received_ns))
        self._engine.move(self._hold, transfers)
