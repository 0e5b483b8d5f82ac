"""The sync client. Safe to share between threads; a stream belongs to the thread that reads it."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc

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
from tiercel.client.tracing import CallTrace
from tiercel.errors import Cancelled
from tiercel.v1 import common_pb2, inference_pb2
from tiercel.v1.inference_pb2_grpc import InferenceStub

DEFAULT_TARGET = "127.0.0.1:50051"
CONTROL_TIMEOUT_S = 30.0
"""For all calls but generate, stream and those that look after the cache."""
SETTLE_TIMEOUT_S = 30.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class CompletionStream:
    """The events of one answer, in order. Leaving the `with` block, `close` or `cancel` cancels the call.

    with client.stream("Once upon a time", max_tokens=64) as stream:
        for event in stream:
            if isinstance(event, Delta):
                print(event.text, end="", flush=True)
    """

    def __init__(self, open_call: "_OpenCall", call: GenerateCall, policy: RetryPolicy | None, target: str) -> None:
        self._open_call = open_call
        self._trace = CallTrace(call.request, call.metadata, target)
        self._call = call.traced(self._trace)
        self._attempts = Attempts(policy, call.timeout_s)
        self._target = target
        self._received = False
        self._cancelled = False
        self._rpc = open_call(self._call, self._attempts.remaining_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while True:
            try:
                message = next(self._rpc)
            except grpc.RpcError as error:
                self._wait_or_raise(error)
                continue
            except StopIteration:
                self._trace.end()
                raise
            self._received = True
            if (event := wire.event(message)) is not None:
                self._trace.on_event(event)
                return event

    def cancel(self) -> None:
        """Ends the call at once, from any thread; the server stops computing. Reading on raises Cancelled."""
        self._cancelled = True
        self._rpc.cancel()
        self._trace.end(_cancelled())

    close = cancel

    def __del__(self) -> None:
        # Whoever has seen `Finished` may read no further.
        self._trace.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _wait_or_raise(self, error: grpc.RpcError) -> None:
        failure = error_of(error, self._target)
        delay = None if self._cancelled else self._attempts.delay_s(failure, self._received)
        if delay is None:
            self._trace.end(failure)
            raise failure from None
        time.sleep(delay)
        if self._cancelled:
            raise _cancelled()
        self._rpc = self._open_call(self._call, self._attempts.remaining_s())


def _cancelled() -> Cancelled:
    return Cancelled("the call was cancelled", code="CANCELLED")


_OpenCall = Callable[[GenerateCall, float | None], "grpc._CallIterator[inference_pb2.GenerateEvent]"]


class Client:
    """A connection to a stack's front door.

        with Client("127.0.0.1:50051") as client:
            answer = client.generate("The sky is", max_tokens=16, temperature=0)
            print(answer.text, answer.usage.cached_tokens.device)

    `ca` switches TLS on and names the PEM file of the authority to trust. `tenant` goes with every request.
    `retry=None` switches retries off. Errors are those of `tiercel.errors`.
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
        options = channel_options(target, tls_server_name)
        if ca is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials(ca), options)
        self._stub = InferenceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that still run are cancelled."""
        self._channel.close()

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """The whole answer to a text, a list of token ids or a list of ChatMessage.

        client.generate([ChatMessage("user", "Who are you?")], max_tokens=32, stop="\\n").text
        """
        builder = CompletionBuilder()
        with self.stream(prompt, **(requests.WHOLE_ANSWER | options)) as stream:
            for event in stream:
                builder.add(event)
        return builder.build()

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> CompletionStream:
        """The answer as it comes: Started, then Deltas, then Finished. Options as for `generate`."""
        call = requests.generate_call(prompt, self._tenant, **options)
        return CompletionStream(self._open, call, self._retry, self.target)

    def tokenize(self, prompt: str | Sequence[ChatMessage], *, model: str = "") -> list[int]:
        """Token ids of a text, special tokens included, or of chat messages in the model's template."""
        return list(self._ask(self._stub.Tokenize, requests.tokenize_request(prompt, model)).token_ids)

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = True) -> str:
        request = requests.detokenize_request(token_ids, model, skip_special_tokens)
        return self._ask(self._stub.Detokenize, request).text

    def models(self) -> tuple[ModelInfo, ...]:
        response = self._ask(self._stub.ListModels, inference_pb2.ListModelsRequest())
        return tuple(wire.model_info(model) for model in response.models)

    def status(self) -> StackStatus:
        """Services, models, queue and cache by tier."""
        return wire.stack_status(self._ask(self._stub.GetStatus, inference_pb2.GetStatusRequest()))

    def cache(self) -> CacheReport:
        """What is on the disks, by namespace, and what is pinned. Sizes and hits by tier are in `status`."""
        return self._manage(cache_wire.describe_request()).report()

    def verify_cache(self, on_progress: CareProgress | None = None) -> CacheVerification:
        """Has every record of every disk read. Changes nothing; takes as long as it takes."""
        return self._manage(cache_wire.verify_request(), on_progress).verification()

    def clear_cache(self, *, all_namespaces: bool = False) -> CacheClearing:
        """Deletes the served namespace's records from disk, or those of all, and drops all pins."""
        return self._manage(cache_wire.clear_request(all_namespaces)).clearing()

    def unpin(self, name: str) -> bool:
        """Whether the name was pinned."""
        return bool(self._manage(cache_wire.unpin_request(name)).unpinned)

    def settle_cache(self, timeout: float = SETTLE_TIMEOUT_S) -> bool:
        """Waits until what was asked to be kept or pinned is in host memory and on disk, or given up.

        False: it took longer than `timeout` seconds per worker.
        """
        return self._manage(cache_wire.settle_request(timeout)).is_settled

    def report(self, request_id: str) -> RequestReport:
        """Where a request's time went, once it has ended. Raises NotFound once the server has forgotten it."""
        return self.ended_request(request_id).report

    def ended_request(self, request_id: str) -> EndedRequest:
        """As `report`, with the usage."""
        response = self._ask(self._stub.GetReport, inference_pb2.GetReportRequest(request_id=request_id))
        return wire.ended_request(response)

    def ended_requests(self, limit: int = 10, *, slowest: bool = False) -> tuple[EndedRequest, ...]:
        """The latest ones that this front door remembers, or the slowest, end to end; at most 1000."""
        response = self._ask(self._stub.ListReports, requests.list_reports(limit, slowest))
        return tuple(wire.ended_request(each) for each in response.reports)

    def _open(self, call: GenerateCall, timeout_s: float | None) -> "grpc._CallIterator[inference_pb2.GenerateEvent]":
        return self._stub.Generate(call.request, timeout=timeout_s, metadata=call.metadata)

    def _manage(self, request: common_pb2.ManageCacheRequest, on_progress: CareProgress | None = None) -> CareAnswers:
        attempts = Attempts(self._retry, None)
        received = False
        while True:
            answers = CareAnswers(on_progress)
            rpc = self._stub.ManageCache(request)
            try:
                for message in rpc:
                    received = True
                    answers.add(message)
                return answers
            except grpc.RpcError as error:
                failure = error_of(error, self.target)
                delay = attempts.delay_s(failure, received)
                if delay is None:
                    raise failure from None
            finally:
                # Also when the caller is interrupted: nobody shall go on reading a disk for it.
                rpc.cancel()
            time.sleep(delay)

    def _ask(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        attempts = Attempts(self._retry, CONTROL_TIMEOUT_S)
        while True:
            try:
                return method(request, timeout=attempts.remaining_s())
            except grpc.RpcError as error:
                failure = error_of(error, self.target)
                delay = attempts.delay_s(failure, received=False)
                if delay is None:
                    raise failure from None
            time.sleep(delay)
