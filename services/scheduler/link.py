"""One worker as the scheduler sees it: it is dialled, loads, runs plans, and may be lost at any moment.

All on the loop's thread. A result is applied and the next plan sent in the same callback, before the events of the
result are turned into messages, so that the worker never waits for them.
"""

import asyncio
import contextlib
import time

import grpc

from engine.errors import InferError, WorkerLost
from engine.ids import SeqSlot, StepId
from engine.scheduling.figures import Cleared
from engine.scheduling.request import FinishReason, Request, RequestTimes
from engine.scheduling.scheduler import Scheduler
from services.common import logs
from services.scheduler.alarm import Alarm
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.execution_wire import (
    plan_to_wire,
    result_from_wire,
    scheduler_config,
    tier_events_from_wire,
    transfer_result_from_wire,
    transfers_to_wire,
)
from services.scheduler.link_counters import LinkCounters
from services.scheduler.link_owner import LinkOwner, LinkState, SessionBroken
from services.scheduler.link_pins import LinkPins
from services.scheduler.link_stream import LinkStream
from tiercel.v1 import execution_pb2

_log = logs.get_logger(__name__)

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.05, 1.0
_MISMATCH_BACKOFF_S = 5.0


class WorkerLink:
    """Owns the session with one worker, and the engine's Scheduler while there is one."""

    def __init__(self, address: str, scheduler_id: str, config: SchedulerServiceConfig, owner: LinkOwner) -> None:
        self.address = address
        self.state = LinkState.LOST
        self.detail = "not reached yet"
        self.ready: execution_pb2.Ready | None = None
        """What the worker said of itself in this session."""
        self.scheduler: Scheduler | None = None
        self.counters = LinkCounters()
        self.ready_since_ns = 0
        self.tier_notes: dict[str, str] = {}
        """By tier: what is wrong with it, or worth knowing."""
        self.saved = asyncio.Event()
        """Set while nothing that shall go down at once is on its way to host memory or disk."""
        self.saved.set()
        self._lost = asyncio.Event()
        """Set while there is no session that has been ready."""
        self._lost.set()
        self._is_leaving = False
        self._scheduler_id = scheduler_id
        self._config = config
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._stream = LinkStream(address, config, self._on_not_serving)
        self._pump_handle: asyncio.Handle | None = None
        self._alarm = Alarm(self._loop, self._pump_soon)
        self._is_persisting = False
        self.pins = LinkPins(address)

    @property
    def is_ready(self) -> bool:
        return self.state is LinkState.READY

    @property
    def block_bytes(self) -> int:
        return 0 if self.ready is None else self.ready.block_bytes

    def submit(self, request: Request) -> None:
        """Raises what `Scheduler.submit` raises. Planning happens once for all submissions of this loop turn."""
        assert self.scheduler is not None
        self.scheduler.submit(request, time.monotonic_ns())
        self._pump_soon()

    def cancel(self, engine_id: str, index: int | None, reason: FinishReason) -> RequestTimes | None:
        """As `Scheduler.cancel`."""
        if self.scheduler is None:
            return None
        times = self.scheduler.cancel(engine_id, time.monotonic_ns(), index, reason)
        self._pump_soon()
        return times

    def unpin(self, name: str) -> bool:
        """Whether there was anything pinned under the name here."""
        was_pinned = self.pins.unpin(self.scheduler, name)
        self._pump_soon()
        return was_pinned

    def clear_cached(self) -> Cleared:
        """See `Scheduler.clear_cached`. Nothing where there is no session."""
        cleared = Cleared(0, 0, 0) if self.scheduler is None else self.scheduler.clear_cached()
        self._pump_soon()
        return cleared

    async def drain(self) -> None:
        """Finish what runs, keep on disk what is worth keeping, end the session. Returns when that is done."""
        self._is_leaving = True
        if self.is_ready:
            self._start_draining()
        await self._lost.wait()

    async def run(self) -> None:
        """Keep a session with the worker until `drain` is called. Cancelled when the service leaves."""
        backoff_s = _MIN_BACKOFF_S
        try:
            while not self._is_leaving:
                started_ns = time.monotonic_ns()
                try:
                    await self._session()
                    reason = "the worker ended the session"
                except grpc.aio.AioRpcError as error:
                    reason = error.details() or error.code().name
                except (SessionBroken, InferError) as error:
                    reason = str(error)
                except Exception as error:
                    _log.exception("session failed", extra=logs.fields(worker=self.address))
                    reason = f"{type(error).__name__}: {error}"
                is_mismatch = self.state is LinkState.MISMATCH
                if time.monotonic_ns() - started_ns > 1e9 * _MAX_BACKOFF_S:
                    backoff_s = _MIN_BACKOFF_S
                # A mismatch stays to be seen until the worker is asked again.
                if not is_mismatch:
                    self._lose(reason)
                await asyncio.sleep(_MISMATCH_BACKOFF_S if is_mismatch else backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
        finally:
            self._lose("the scheduler is shutting down")

    async def _session(self) -> None:
        """Until the worker or this link ends it, or it breaks."""
        self._stream = LinkStream(self.address, self._config, self._on_not_serving)
        self._is_persisting = False
        async with contextlib.aclosing(self._stream.messages(self._scheduler_id)) as messages:
            async for message in messages:
                self._on_message(message)
                if self.state is LinkState.MISMATCH:
                    return

    def _on_not_serving(self) -> None:
        if self.is_ready:
            self._start_draining()

    def _on_message(self, message: execution_pb2.WorkerMessage) -> None:
        match message.WhichOneof("message"):
            case "result":
                self._on_result(message.result)
            case "transfer_result":
                self._on_transfer_result(message.transfer_result)
            case "tier_events":
                self._on_tier_events(message.tier_events)
            case "tier_fault":
                self._on_tier_fault(message.tier_fault)
            case "pinned":
                if self.scheduler is not None:
                    self.pins.on_told(self.scheduler, message.pinned)
                    self._pump_soon()
            case "pin_kept":
                self.pins.on_kept(message.pin_kept)
                self._pump_soon()
            case "fault":
                self._on_fault(message.fault)
            case "loading":
                loading = message.loading
                percent = 100 * loading.loaded_bytes // loading.total_bytes if loading.total_bytes else 0
                self._set_state(LinkState.LOADING, f"loading weights, {percent} %")
            case "ready":
                self._on_ready(message.ready)
            case None:
                pass

    def _on_ready(self, ready: execution_pb2.Ready) -> None:
        self.ready = ready
        objection = self._owner.accepts(self, ready)
        if objection is not None:
            _log.error("worker not used", extra=logs.fields(worker=self.address, reason=objection))
            self._set_state(LinkState.MISMATCH, objection)
            return
        self.scheduler = Scheduler(scheduler_config(ready, self._config), self._owner.disk_mirror(ready))
        self.pins.begin(self.scheduler, ready)
        self.tier_notes = {"host": ready.host_note, "disk": ready.disk_note}
        self._lost.clear()
        self.ready_since_ns = time.monotonic_ns()
        self.counters = LinkCounters()
        _log.info(
            "worker ready",
            extra=logs.fields(
                worker=self.address,
                model=ready.model,
                blocks=ready.num_blocks,
                attention=ready.attention_backend,
                max_model_tokens=self.scheduler.config.max_model_tokens,
            ),
        )
        self._set_state(LinkState.READY, "")

    def _on_result(self, message: execution_pb2.StepResult) -> None:
        if self.scheduler is None:
            raise SessionBroken("the worker sent a result before it was ready")
        result = result_from_wire(message)
        self.counters.count_result(result)
        self.scheduler.apply(result, time.monotonic_ns())
        self._pump()

    def _on_transfer_result(self, message: execution_pb2.TransferResult) -> None:
        if self.scheduler is None:
            raise SessionBroken("the worker sent a transfer's result before it was ready")
        self.scheduler.apply_transfer(transfer_result_from_wire(message), time.monotonic_ns())
        self._pump_soon()

    def _on_tier_events(self, message: execution_pb2.TierEvents) -> None:
        if self.scheduler is not None:
            self.scheduler.apply_tier_events(tier_events_from_wire(message))

    def _on_tier_fault(self, fault: execution_pb2.TierFault) -> None:
        _log.error("tier fault", extra=logs.fields(worker=self.address, tier=fault.tier, reason=fault.message))
        self.tier_notes[fault.tier] = fault.message

    def _on_fault(self, fault: execution_pb2.Fault) -> None:
        _log.error(
            "worker fault",
            extra=logs.fields(worker=self.address, kind=fault.kind, reason=fault.message, slots=list(fault.slots)),
        )
        error = WorkerLost(
            f"the worker {self.address} failed in this step ({fault.kind}: {fault.message}); send it again"
        )
        if not fault.slots or self.scheduler is None:
            raise SessionBroken(f"{fault.kind}: {fault.message}")
        step_id = StepId(fault.step_id) if fault.HasField("step_id") else None
        self.scheduler.void_slots(list(map(SeqSlot, fault.slots)), error, time.monotonic_ns(), step_id)
        self._pump()

    def _pump_soon(self) -> None:
        if self._pump_handle is None:
            self._pump_handle = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Send every plan there is room for, then deliver what has happened, then set the timer."""
        if self._pump_handle is not None:
            self._pump_handle.cancel()
            self._pump_handle = None
        scheduler = self.scheduler
        if scheduler is None:
            return
        while (plan := scheduler.plan(time.monotonic_ns())) is not None:
            self._send_transfers(scheduler)
            self._stream.send(plan_to_wire(plan, self._owner.client_id))
            self.counters.count_plan(plan)
        self._send_transfers(scheduler)
        for pin in self.pins.take_messages(scheduler):
            self._stream.send(pin)
        if scheduler.is_saving or not self.pins.is_settled:
            self.saved.clear()
        else:
            self.saved.set()
        events = scheduler.take_events()
        if events:
            self._owner.on_events(events)
        if self.state is LinkState.DRAINING and scheduler.is_idle:
            self._finish_draining(scheduler)
        self._alarm.set(scheduler.next_deadline_ns())

    def _send_transfers(self, scheduler: Scheduler) -> None:
        transfers = scheduler.take_transfers(time.monotonic_ns())
        if transfers:
            self._stream.send(transfers_to_wire(transfers))

    def _finish_draining(self, scheduler: Scheduler) -> None:
        """Nothing runs any more: keep on disk what is worth keeping, then end the session."""
        if not self._is_persisting:
            self._is_persisting = True
            scheduler.begin_drain(time.monotonic_ns(), int(self._config.persist_timeout_s * 1e9))
            self._send_transfers(scheduler)
        if scheduler.is_drained and self.pins.is_settled:
            self._stream.end()

    def _start_draining(self) -> None:
        assert self.scheduler is not None
        waiting = self.scheduler.take_waiting()
        self._set_state(LinkState.DRAINING, "finishes what runs")
        self._owner.on_handed_back(waiting)
        self._pump_soon()

    def _lose(self, reason: str) -> None:
        """What had started is refused, what had not is handed back. The pool's content is forgotten."""
        self._alarm.set(None)
        if self.scheduler is not None and self.ready is not None:
            self.pins.end(self.scheduler)
        scheduler, self.scheduler, self.ready = self.scheduler, None, None
        self._lost.set()
        self.saved.set()
        was = self.state
        self._set_state(LinkState.LOST, reason)
        if scheduler is None:
            return
        if was is not LinkState.DRAINING or not scheduler.is_idle:
            _log.error("worker lost", extra=logs.fields(worker=self.address, reason=reason))
        waiting = scheduler.take_waiting()
        lost = WorkerLost(
            f"the worker {self.address} was lost while the request ran ({reason}); it is safe to send again"
        )
        scheduler.fail_all(lost, time.monotonic_ns())
        self._owner.on_events(scheduler.take_events())
        self._owner.on_handed_back(waiting)

    def _set_state(self, state: LinkState, detail: str) -> None:
        changed = state is not self.state
        self.state, self.detail = state, detail
        if changed:
            self._owner.on_link_changed(self)
