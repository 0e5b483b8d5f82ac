"""The one stream to the scheduler, which carries all requests of this tokenizer.

It is kept up by `run`: when it breaks, live calls end with WorkerLost and it is dialled again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import grpc

from engine.errors import InferError, WorkerLost
from engine.logprobs import Logprobs
from engine.scheduling.request import FinishReason
from services.common import logs
from services.common.channel import dial
from services.common.finish_reason_wire import finish_reason_to_wire
from services.common.logprobs_wire import logprobs_from_wire, split_entries
from services.common.status import error_of_call, error_of_kind
from services.tokenizer.config import TokenizerConfig
from tiercel.v1 import common_pb2, scheduling_pb2, scheduling_pb2_grpc

_log = logs.get_logger(__name__)

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.05, 1.0
_STATUS_TIMEOUT_S = 1.0

_Call = grpc.aio.StreamStreamCall[scheduling_pb2.FrontMessage, scheduling_pb2.SchedulerMessage]


class SubmittedCall(Protocol):
    """Who gets what the scheduler says about one request. Called on the loop's thread; must not block or raise."""

    def on_started(self, cached: common_pb2.CachedTokens) -> None: ...
    def on_prompt_scored(self, columns: common_pb2.LogprobColumns) -> None: ...
    def on_token(self, index: int, token_id: int, is_stop_token: bool, logprobs: Logprobs | None) -> None: ...
    def on_finished(self, finish: scheduling_pb2.Finish) -> None: ...
    def on_refused(self, error: InferError, report: common_pb2.RequestReport | None) -> None:
        """`report` is what the scheduler says of where it was; None where there is no scheduler to say it."""
        ...


class SchedulerStream:
    """`info` is None while the scheduler is not connected; `on_changed` is called when it is another one."""

    def __init__(self, config: TokenizerConfig, on_changed: Callable[[], None]) -> None:
        self.info: scheduling_pb2.SchedulerInfo | None = None
        self._config = config
        self._on_changed = on_changed
        self._calls: dict[int, SubmittedCall] = {}
        self._num_handles = 0
        self._outbox: asyncio.Queue[scheduling_pb2.FrontMessage] = asyncio.Queue()
        self._channel = dial(config.scheduler, config)
        self._lost_reason = "not connected yet"

    @property
    def is_ready(self) -> bool:
        return self.info is not None and self.info.ready

    @property
    def num_live(self) -> int:
        return len(self._calls)

    def submit(self, call: SubmittedCall, message: scheduling_pb2.Submit) -> int:
        """Send a request; `message.handle` is filled in and returned. Raises WorkerLost when not connected."""
        if self.info is None:
            raise self._unreachable()
        self._num_handles += 1
        message.handle = self._num_handles
        self._calls[message.handle] = call
        self._outbox.put_nowait(scheduling_pb2.FrontMessage(submit=message))
        return message.handle

    def stop(self, handle: int, index: int) -> None:
        """A stop string was found: the choice ends normally, which its Finish will confirm."""
        self._send_cancel(handle, index, FinishReason.STOP)

    def leave(self, handle: int) -> None:
        """Nobody waits for the request any more. Nothing happens if it has ended."""
        if self._calls.pop(handle, None) is not None:
            self._send_cancel(handle, None, FinishReason.CANCELLED)

    def forget(self, handle: int) -> None:
        """The request has ended."""
        self._calls.pop(handle, None)

    def _send_cancel(self, handle: int, index: int | None, reason: FinishReason) -> None:
        cancel = scheduling_pb2.Cancel(handle=handle, index=index, reason=finish_reason_to_wire(reason))
        self._outbox.put_nowait(scheduling_pb2.FrontMessage(cancel=cancel))

    async def scheduler_rows(self) -> list[common_pb2.ServiceStatus]:
        """The scheduler and its workers; one row that says `lost` where it does not answer."""
        stub = scheduling_pb2_grpc.SchedulingStub(self._channel)
        try:
            response = await stub.GetSchedulerStatus(
                scheduling_pb2.GetSchedulerStatusRequest(), timeout=_STATUS_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            detail = error.details() or error.code().name
            return [
                common_pb2.ServiceStatus(role="scheduler", address=self._config.scheduler, state="lost", detail=detail)
            ]
        return list(response.services)

    async def manage_cache(
        self, request: common_pb2.ManageCacheRequest
    ) -> AsyncGenerator[common_pb2.ManageCacheEvent, None]:
        """What the scheduler answers. Raises an InferError."""
        try:
            async for event in scheduling_pb2_grpc.SchedulingStub(self._channel).ManageCache(request):
                yield event
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error, f"the scheduler at {self._config.scheduler}") from error

    async def run(self) -> None:
        """For ever; cancelled when the service leaves."""
        backoff_s = _MIN_BACKOFF_S
        try:
            while True:
                try:
                    await self._connect()
                    reason = "the scheduler ended the stream"
                except grpc.aio.AioRpcError as error:
                    reason = error.details() or error.code().name
                if self.info is not None:
                    backoff_s = _MIN_BACKOFF_S
                self._lose(reason)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)
        finally:
            self._lose("the service is shutting down")
            await self._channel.close()

    async def _connect(self) -> None:
        self._outbox = asyncio.Queue()
        call = scheduling_pb2_grpc.SchedulingStub(self._channel).Connect()
        writing = asyncio.create_task(self._write(call))
        try:
            async for message in call:
                match message.WhichOneof("message"):
                    case "output":
                        self._on_output(message.output)
                    case "info":
                        self._on_info(message.info)
                    case None:
                        pass
        finally:
            writing.cancel()
            call.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, call: _Call) -> None:
        # A broken stream shows in the reader, which has its reason.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await call.write(await self._outbox.get())

    def _on_info(self, info: scheduling_pb2.SchedulerInfo) -> None:
        if self.info is None:
            _log.info("scheduler connected", extra=logs.fields(scheduler=self._config.scheduler, ready=info.ready))
        self.info = info
        self._on_changed()

    def _on_output(self, output: scheduling_pb2.StepOutput) -> None:
        calls = self._calls
        for start in output.starts:
            if (call := calls.get(start.handle)) is not None:
                call.on_started(start.cached_tokens)
        for scores in output.prompt_scores:
            if (call := calls.get(scores.handle)) is not None:
                call.on_prompt_scored(scores.logprobs)
        self._on_tokens(output)
        for finish in output.finishes:
            if (call := calls.get(finish.handle)) is not None:
                call.on_finished(finish)
        for refusal in output.refusals:
            if (call := calls.pop(refusal.handle, None)) is not None:
                retry_after_s = refusal.retry_after_ns / 1e9 if refusal.HasField("retry_after_ns") else None
                report = refusal.report if refusal.HasField("report") else None
                call.on_refused(error_of_kind(refusal.kind, refusal.message, retry_after_s), report)

    def _on_tokens(self, output: scheduling_pb2.StepOutput) -> None:
        """A stop token comes in the same output as the Finish that it causes."""
        tokens = output.tokens
        stops = {
            (finish.handle, finish.index): finish.stop_token_id
            for finish in output.finishes
            if finish.HasField("stop_token_id")
        }
        scores: dict[int, Logprobs] = {}
        if tokens.logprob_rows:
            scores = dict(zip(tokens.logprob_rows, split_entries(logprobs_from_wire(tokens.logprobs)), strict=True))
        rows = zip(tokens.handles, tokens.indices, tokens.token_ids, strict=True)
        for row, (handle, index, token_id) in enumerate(rows):
            call = self._calls.get(handle)
            if call is not None:
                call.on_token(index, token_id, stops.get((handle, index)) == token_id, scores.get(row))

    def _lose(self, reason: str) -> None:
        self._lost_reason = reason
        if self.info is not None:
            _log.error("scheduler lost", extra=logs.fields(scheduler=self._config.scheduler, reason=reason))
        self.info = None
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.on_refused(
                WorkerLost(f"the scheduler was lost while the request ran ({reason}); it is safe to send again"), None
            )
        self._on_changed()

    def _unreachable(self) -> WorkerLost:
        return WorkerLost(
            f"the scheduler at {self._config.scheduler} is not reachable ({self._lost_reason}); try again later"
        )
