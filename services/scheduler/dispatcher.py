"""Brings requests, tokenizer streams and workers together: who gets a request, and whom its events belong to.

All on the loop's thread; nothing here waits.
"""

import asyncio
import time

from engine.blocks.disk import DiskMirror
from engine.errors import Draining, InferError, WorkerLost
from engine.scheduling.request import Event, Finished, FinishReason, Refused, Request, RequestTimes
from engine.scheduling.router import Router
from services.common import logs
from services.common.status import error_kind
from services.common.trace_context import trace_from_wire
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.front import Front
from services.scheduler.front_wire import OutputColumns, cancel_reason, request_from_wire
from services.scheduler.link import WorkerLink
from services.scheduler.link_owner import LinkState
from services.scheduler.request_record import RequestRecord
from services.scheduler.request_spans import RequestSpans
from services.scheduler.routed_request import DispatcherCounters, FrontEntry, RoutedRequest
from services.scheduler.waiting_room import WaitingRoom
from tiercel.v1 import common_pb2, execution_pb2, scheduling_pb2

_log = logs.get_logger(__name__)


class Dispatcher:
    """Implements `LinkOwner`. `info` is what tokenizers are told."""

    def __init__(self, config: SchedulerServiceConfig, spans: RequestSpans) -> None:
        self.links: list[WorkerLink] = []
        self.counters = DispatcherCounters()
        self.is_draining = False
        self.info_changed = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while no request is live."""
        self.idle.set()
        self._config = config
        self._spans = spans
        self._router = Router()
        self._live: dict[str, RoutedRequest] = {}
        self._fronts: dict[int, FrontEntry] = {}
        self._num_fronts = 0
        self._disk_mirrors: dict[tuple[bytes, bytes], DiskMirror] = {}
        self._info = scheduling_pb2.SchedulerInfo(max_waiting=config.max_waiting)
        self._waiting_room = WaitingRoom(
            config.max_waiting, config.worker_wait_s, self._is_worker_loading, self._refuse_by_id
        )

    @property
    def info(self) -> scheduling_pb2.SchedulerInfo:
        return self._info

    @property
    def num_fronts(self) -> int:
        return len(self._fronts)

    @property
    def num_live(self) -> int:
        return len(self._live)

    @property
    def num_unrouted(self) -> int:
        return len(self._waiting_room)

    @property
    def ready_links(self) -> list[WorkerLink]:
        return [link for link in self.links if link.is_ready]

    # Tokenizer streams.

    def add_front(self) -> Front:
        self._num_fronts += 1
        front = Front(self._num_fronts)
        self._fronts[front.number] = FrontEntry(front)
        front.send(scheduling_pb2.SchedulerMessage(info=self._info))
        return front

    def remove_front(self, front: Front) -> None:
        """Nobody listens any more: everything that was submitted on the stream is cancelled."""
        entry = self._fronts.pop(front.number)
        for engine_id in list(entry.engine_ids):
            self._cancel(engine_id, None, FinishReason.CANCELLED)

    def end_fronts(self) -> None:
        for entry in self._fronts.values():
            entry.front.end()

    def on_front_message(self, front: Front, message: scheduling_pb2.FrontMessage) -> None:
        match message.WhichOneof("message"):
            case "submit":
                self._submit(front, message.submit)
            case "cancel":
                cancel = message.cancel
                index = cancel.index if cancel.HasField("index") else None
                self._cancel(front.engine_id(cancel.handle), index, cancel_reason(cancel))
            case None:
                pass

    def _submit(self, front: Front, message: scheduling_pb2.Submit) -> None:
        self.counters.submitted += 1
        received_ns = time.monotonic_ns()
        engine_id = front.engine_id(message.handle)
        if engine_id in self._live:
            # Its events could not be told from those of the request that has the handle now.
            with logs.of_request(message.request_id, message.trace.traceparent):
                _log.error("handle used twice, submission ignored", extra=logs.fields(handle=message.handle))
            return
        record = RequestRecord(received_ns, len(message.prompt_token_ids))
        trace = self._spans.enter(record, trace_from_wire(message.trace, received_ns))
        request = request_from_wire(message, engine_id, received_ns, trace)
        self._live[engine_id] = RoutedRequest(
            front, message.handle, message.request_id, trace.traceparent, set(range(request.n)), record
        )
        self._fronts[front.number].engine_ids.add(engine_id)
        self.idle.clear()
        try:
            if self.is_draining:
                raise Draining("the scheduler is shutting down and takes no new requests; send it to another stack")
            self._route(request, may_wait=self._is_worker_loading())
        except InferError as error:
            self._refuse_by_id(engine_id, error)

    def _route(self, request: Request, *, may_wait: bool) -> None:
        """Raises what the worker's scheduler says against the request, or WorkerLost."""
        links = self.ready_links
        if links:
            schedulers = [link.scheduler for link in links if link.scheduler is not None]
            link = links[self._router.choose(request, schedulers) if len(links) > 1 else 0]
            live = self._live[request.request_id]
            live.link = link
            link.submit(request)
            live.record.on_routed(link.address, link.block_bytes, time.monotonic_ns())
        elif may_wait:
            live = self._live[request.request_id]
            live.link = None
            self._waiting_room.add(request)
            live.record.on_parked(time.monotonic_ns())
        else:
            states = "; ".join(f"{link.address} is {link.state} ({link.detail})" for link in self.links)
            raise WorkerLost(f"no worker is ready: {states}; try again when one is")

    def _cancel(self, engine_id: str, index: int | None, reason: FinishReason) -> None:
        live = self._live.get(engine_id)
        if live is None:
            return
        if live.link is None:
            # It has produced nothing, so whatever the reason, there is nothing to confirm.
            self._waiting_room.remove(engine_id)
            self._on_cancelled(engine_id, live, None)
            return
        times = live.link.cancel(engine_id, index, reason)
        if reason is FinishReason.CANCELLED:
            live.open_choices -= {index} if index is not None else live.open_choices
            if not live.open_choices:
                self._on_cancelled(engine_id, live, times)

    def _on_cancelled(self, engine_id: str, live: RoutedRequest, times: RequestTimes | None) -> None:
        """`times` None: it was nowhere any more, or had not got anywhere."""
        self._forget(engine_id)
        self.counters.cancelled += 1
        times = times or RequestTimes(end_ns=time.monotonic_ns())
        self._report(live, times, outcome="cancelled")

    def _report(
        self, live: RoutedRequest, times: RequestTimes, error: InferError | None = None, outcome: str = ""
    ) -> common_pb2.RequestReport:
        """The request has ended."""
        report = live.record.report(times, error)
        outcome = outcome or ("" if error is None else error_kind(error))
        self._spans.leave(live.record, report, live.client_id, times.cached, outcome)
        return report

    def _refuse_by_id(self, engine_id: str, error: InferError) -> None:
        live = self._live[engine_id]
        columns = OutputColumns()
        columns.refuse(live.handle, error, self._report(live, RequestTimes(end_ns=time.monotonic_ns()), error))
        self._forget(engine_id)
        self._count_refusal(live, error)
        live.front.send(columns.to_wire())

    def _count_refusal(self, live: RoutedRequest, error: InferError) -> None:
        self.counters.refused += 1
        self.counters.refusals[error_kind(error)] += 1
        with logs.of_request(live.client_id, live.traceparent):
            where = None if live.link is None else live.link.address
            _log.info("request refused", extra=logs.fields(kind=error_kind(error), reason=error.message, worker=where))

    def _forget(self, engine_id: str) -> None:
        live = self._live.pop(engine_id)
        entry = self._fronts.get(live.front.number)
        if entry is not None:
            entry.engine_ids.discard(engine_id)
        if not self._live:
            self.idle.set()

    # Workers.

    def accepts(self, link: WorkerLink, ready: execution_pb2.Ready) -> str | None:
        """Workers beside one that serves must serve the same model; the first one decides which."""
        serving = next((each.ready for each in self.ready_links if each is not link), None)
        if serving is None or serving.fingerprint == ready.fingerprint:
            return None
        return (
            f"it serves {ready.model} ({ready.fingerprint[:16]}), but the other workers serve "
            f"{serving.model} ({serving.fingerprint[:16]})"
        )

    def disk_mirror(self, ready: execution_pb2.Ready) -> DiskMirror | None:
        """Workers that name the same disk and namespace share what is known of it; it outlives their sessions."""
        if not ready.disk_id:
            return None
        return self._disk_mirrors.setdefault((ready.disk_id, ready.namespace), DiskMirror())

    def on_link_changed(self, link: WorkerLink) -> None:
        if link.is_ready:
            self._route_again(self._waiting_room.take_all())
        self._update_info()

    def on_handed_back(self, requests: list[Request]) -> None:
        self._route_again(requests)

    def _route_again(self, requests: list[Request]) -> None:
        for request in requests:
            try:
                self._route(request, may_wait=not self.is_draining)
            except InferError as error:
                self._refuse_by_id(request.request_id, error)

    def _update_info(self) -> None:
        ready = [link.ready for link in self.ready_links if link.ready is not None]
        info = scheduling_pb2.SchedulerInfo(max_waiting=self._config.max_waiting)
        if ready:
            limits = [link.scheduler.config.max_model_tokens for link in self.ready_links if link.scheduler is not None]
            info.ready = True
            info.model = ready[0].model
            info.fingerprint = ready[0].fingerprint
            info.max_model_tokens = min(limits)
            info.vocab_size = ready[0].vocab_size
        if info != self._info:
            self._info = info
            self.info_changed.set()
            for entry in self._fronts.values():
                entry.front.send(scheduling_pb2.SchedulerMessage(info=info))

    def on_events(self, events: list[Event]) -> None:
        """One message per tokenizer, whatever the number of its requests in the step."""
        columns: dict[int, OutputColumns] = {}
        for event in events:
            live = self._live.get(event.request_id)
            if live is None:
                # Cancelled while the step ran.
                continue
            output = columns.get(live.front.number)
            if output is None:
                output = columns[live.front.number] = OutputColumns()
            report: common_pb2.RequestReport | None = None
            match event:
                case Finished(times=RequestTimes() as times, reason=reason):
                    report = self._report(live, times, outcome=reason.value)
                case Refused(error=error, times=times):
                    report = self._report(live, times, error)
                case _:
                    pass
            output.add(live.handle, event, report)
            match event:
                case Finished(index=index):
                    live.open_choices.discard(index)
                    if report is not None or not live.open_choices:
                        self._forget(event.request_id)
                        self.counters.finished += 1
                case Refused(error=error):
                    self._forget(event.request_id)
                    self._count_refusal(live, error)
                case _:
                    pass
        for number, output in columns.items():
            entry = self._fronts.get(number)
            if entry is not None:
                entry.front.send(output.to_wire())

    def client_id(self, engine_id: str) -> str:
        live = self._live.get(engine_id)
        return live.client_id if live is not None else engine_id

    def _is_worker_loading(self) -> bool:
        return any(link.state is LinkState.LOADING for link in self.links)
