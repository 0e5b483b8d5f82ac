"""The asyncio client. Everything happens on the loop that first uses it."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from grpc import aio

from tiercel.client import cache_wire, wire
from tiercel.client import request as requests
from tiercel.client.cache import CacheClearing, CacheReport, CacheVerification, CareProgress
from tiercel.client.cache_wire import CareAnswers
from tiercel.client.channel import CA, channel_options, credentials
from tiercel.client.completion import Completion, CompletionBuilder
from tiercel.client.events import EndedRequest, Event, RequestReport
from tiercel.client.failure import error_of
from tiercel.client.request import ChatMessage, GenerateCall, GenerateOptions, Prompt
from tiercel.client.retry import Attempts, RetryPolicy
from tiercel.client.status import ModelInfo, StackStatus
from tiercel.client.sync import CONTROL_TIMEOUT_S, DEFAULT_TARGET, SETTLE_TIMEOUT_S
from tiercel.client.tracing import CallTrace
from tiercel.errors import Cancelled
from tiercel.v1 import common_pb2, inference_pb2
from tiercel.v1.inference_pb2_grpc import InferenceStub

if TYPE_CHECKING:
    from tiercel.v1.inference_pb2_grpc import InferenceAsyncStub  # exists in the stub file alone

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncCompletionStream:
    """The events of one answer, in order. The call is cancelled when the block is left or the task is cancelled.

    async with client.stream("Once upon a time", max_tokens=64) as stream:
        async for event in stream:
            ...
    """

    def __init__(self, open_call: "_OpenCall", call: GenerateCall, policy: RetryPolicy | None, target: str) -> None:
        self._open_call = open_call
        self._untraced = call
        self._call = call
        self._trace: CallTrace | None = None
        self._policy = policy
        self._target = target
        self._received = False
        self._cancelled = False
        self._attempts: Attempts | None = None
        self._rpc: aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateEvent] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._is_cancelled():
                raise Cancelled("the call was cancelled", code="CANCELLED")
            if self._trace is None:
                self._trace = CallTrace(self._untraced.request, self._untraced.metadata, self._target)
                self._call = self._untraced.traced(self._trace)
            if self._attempts is None:
                self._attempts = Attempts(self._policy, self._call.timeout_s)
            if self._rpc is None:
                self._rpc = self._open_call(self._call, self._attempts.remaining_s())
            try:
                message = await self._rpc.read()
            except aio.AioRpcError as error:
                failure = error_of(error, self._target)
                delay = None if self._is_cancelled() else self._attempts.delay_s(failure, self._received)
                if delay is None:
                    self._trace.end(failure)
                    raise failure from None
                self._rpc = None
                await asyncio.sleep(delay)
                continue
            except asyncio.CancelledError:
                # A call cancelled by `cancel` reads like a cancelled task; only the latter may pass.
                if self._is_cancelled() and not _task_is_cancelled():
                    continue
                raise
            if not isinstance(message, inference_pb2.GenerateEvent):
                self._trace.end()
                raise StopAsyncIteration
            self._received = True
            if (event := wire.event(message)) is not None:
                self._trace.on_event(event)
                return event

    def cancel(self) -> None:
        """Ends the call at once; the server stops computing. Reading on raises Cancelled."""
        self._cancelled = True
        if self._rpc is not None:
            self._rpc.cancel()
        if self._trace is not None:
            self._trace.end(Cancelled("the call was cancelled", code="CANCELLED"))

    def _is_cancelled(self) -> bool:
        return self._cancelled

    async def aclose(self) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Whoever has seen `Finished` may read no further.
        if self._trace is not None:
            self._trace.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


_OpenCall = Callable[
    [GenerateCall, float | None], "aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateEvent]"
]


def _task_is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class AsyncClient:
    """A connection to a stack's front door, for asyncio.

        async with AsyncClient("127.0.0.1:50051") as client:
            async for event in client.stream("The sky is", max_tokens=16):
                ...

    Arguments and errors are those of `Client`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        ca: CA | None = None,
        tls_server_name: str | None = None,
        tenant: str = "",
        retry: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
    ) -> None:
        self.target = target
        self._tenant = tenant
        self._retry = retry
        self._options = channel_options(target, tls_server_name)
        self._credentials = None if ca is None else credentials(ca)
        self._channel: aio.Channel | None = None
        self._stub: InferenceAsyncStub | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer to a text, a list of token ids or a list of ChatMessage."""
        builder = CompletionBuilder()
        async with self.stream(prompt, **(requests.WHOLE_ANSWER | options)) as stream:
            async for event in stream:
                builder.add(event)
        return builder.build()

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncCompletionStream:
        """The answer as it comes: Started, then Deltas, then Finished. The call starts with the first read."""
        call = requests.generate_call(prompt, self._tenant, **options)
        return AsyncCompletionStream(self._open, call, self._retry, self.target)

    async def tokenize(self, prompt: str | Sequence[ChatMessage], *, model: str = "") -> list[int]:
        """Token ids of a text, special tokens included, or of chat messages in the model's template."""
        response = await self._ask(self._connected().Tokenize, requests.tokenize_request(prompt, model))
        return list(response.token_ids)

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = True) -> str:
        request = requests.detokenize_request(token_ids, model, skip_special_tokens)
        return (await self._ask(self._connected().Detokenize, request)).text

    async def models(self) -> tuple[ModelInfo, ...]:
        response = await self._ask(self._connected().ListModels, inference_pb2.ListModelsRequest())
        return tuple(wire.model_info(model) for model in response.models)

    async def status(self) -> StackStatus:
        """Services, models, queue and cache by tier."""
        return wire.stack_status(await self._ask(self._connected().GetStatus, inference_pb2.GetStatusRequest()))

    async def cache(self) -> CacheReport:
        """What is on the disks, by namespace, and what is pinned. Sizes and hits by tier are in `status`."""
        return (await self._manage(cache_wire.describe_request())).report()

    async def verify_cache(self, on_progress: CareProgress | None = None) -> CacheVerification:
        """Has every record of every disk read. Changes nothing; takes as long as it takes."""
        return (await self._manage(cache_wire.verify_request(), on_progress)).verification()

    async def clear_cache(self, *, all_namespaces: bool = False) -> CacheClearing:
        """Deletes the served namespace's records from disk, or those of all, and drops all pins."""
        return (await self._manage(cache_wire.clear_request(all_namespaces))).clearing()

    async def unpin(self, name: str) -> bool:
        """Whether the name was pinned."""
        return bool((await self._manage(cache_wire.unpin_request(name))).unpinned)

    async def settle_cache(self, timeout: float = SETTLE_TIMEOUT_S) -> bool:
        """Waits until what was asked to be kept or pinned is in host memory and on disk, or given up.

        False: it took longer than `timeout` seconds per worker.
        """
        return (await self._manage(cache_wire.settle_request(timeout))).is_settled

    async def report(self, request_id: str) -> RequestReport:
        """Where a request's time went, once it has ended. Raises NotFound once the server has forgotten it."""
        return (await self.ended_request(request_id)).report

    async def ended_request(self, request_id: str) -> EndedRequest:
        """As `report`, with the usage."""
        request = inference_pb2.GetReportRequest(request_id=request_id)
        return wire.ended_request(await self._ask(self._connected().GetReport, request))

    async def ended_requests(self, limit: int = 10, *, slowest: bool = False) -> tuple[EndedRequest, ...]:
        """The latest ones that this front door remembers, or the slowest, end to end; at most 1000."""
        response = await self._ask(self._connected().ListReports, requests.list_reports(limit, slowest))
        return tuple(wire.ended_request(each) for each in response.reports)

    def _connected(self) -> "InferenceAsyncStub":
        # Not in __init__: a channel belongs to the loop that runs when it is made.
        if self._stub is None:
            if self._credentials is None:
                self._channel = aio.insecure_channel(self.target, self._options)
            else:
                self._channel = aio.secure_channel(self.target, self._credentials, self._options)
            self._stub = InferenceStub(self._channel)
        return self._stub

    def _open(
        self, call: GenerateCall, timeout_s: float | None
    ) -> "aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateEvent]":
        return self._connected().Generate(call.request, timeout=timeout_s, metadata=call.metadata)

    async def _manage(
        self, request: common_pb2.ManageCacheRequest, on_progress: CareProgress | None = None
    ) -> CareAnswers:
        attempts = Attempts(self._retry, None)
        received = False
        while True:
            answers = CareAnswers(on_progress)
            rpc = self._connected().ManageCache(request)
            try:
                async for message in rpc:
                    received = True
                    answers.add(message)
                return answers
            except aio.AioRpcError as error:
                failure = error_of(error, self.target)
                delay = attempts.delay_s(failure, received)
                if delay is None:
                    raise failure from None
            finally:
                rpc.cancel()
            await asyncio.sleep(delay)

    async def _ask(self, method: "aio.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        attempts = Attempts(self._retry, CONTROL_TIMEOUT_S)
        while True:
            try:
                return await method(request, timeout=attempts.remaining_s())
            except aio.AioRpcError as error:
                failure = error_of(error, self.target)
                delay = attempts.delay_s(failure, received=False)
                if delay is None:
                    raise failure from None
            await asyncio.sleep(delay)
