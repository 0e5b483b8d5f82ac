"""A fake of the front door: a real gRPC server whose "model" answers a prompt with the same text in upper case.

One token is one character and its id is the code point. What a test wants to go wrong is set on the object.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from tiercel.v1 import common_pb2, inference_pb2, inference_pb2_grpc

MODEL = "shout"


def rich_status(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    *,
    field: str | None = None,
    retry_after_s: float | None = None,
) -> grpc.Status:
    """A status as the services send it: with ErrorInfo and, where given, BadRequest and RetryInfo."""
    details: list[Message] = [ErrorInfo(reason=reason, domain="tiercel")]
    if field is not None:
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)]))
    if retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        holder = AnyMessage()
        holder.Pack(detail)
        packed.append(holder)
    status: grpc.Status = rpc_status.to_status(Status(code=code.value[0], message=message, details=packed))
    return status


class FakeInference(inference_pb2_grpc.InferenceServicer):
    def __init__(self) -> None:
        self.address = ""
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.refusals: deque[grpc.Status] = deque()
        """Each ends one call of Generate before its first event."""
        self.break_after_start: grpc.Status | None = None
        """Ends calls after Started and the first Delta."""
        self.hold_after_first_delta = False
        self.first_delta_sent = threading.Event()
        self.released = threading.Event()
        self.cache_requests: list[common_pb2.ManageCacheRequest] = []
        self.cache_events: list[common_pb2.ManageCacheEvent] = []
        """What ManageCache answers, to whatever is asked."""
        self.reports: list[inference_pb2.GetReportResponse] = []
        """What ListReports answers, and GetReport for their ids."""
        self.report_lists: list[inference_pb2.ListReportsRequest] = []
        self.tier_note = "the directory is on the moon"
        self.ended_by_client = threading.Event()
        """A call ended before its Finished: the client cancelled, or the deadline passed."""

    @property
    def num_calls(self) -> int:
        return len(self.requests)

    def Generate(self, request: inference_pb2.GenerateRequest, context: Any) -> Iterator[inference_pb2.GenerateEvent]:
        self.requests.append(request)
        self.metadata.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        finished = threading.Event()
        context.add_callback(lambda: self._on_end(finished.is_set()))
        if self.refusals:
            context.abort_with_status(self.refusals.popleft())
        prompt = self._text(request)
        answer = prompt.upper()
        reason = common_pb2.FINISH_REASON_STOP
        if request.sampling.HasField("max_tokens") and len(answer) > request.sampling.max_tokens:
            answer = answer[: request.sampling.max_tokens]
            reason = common_pb2.FINISH_REASON_LENGTH
        n = request.sampling.n or 1
        request_id = request.request_id or f"fake-{self.num_calls}"
        cached = common_pb2.CachedTokens(device=2, host=1)
        yield inference_pb2.GenerateEvent(
            started=inference_pb2.Started(
                request_id=request_id, model=MODEL, prompt_tokens=len(prompt), cached_tokens=cached
            )
        )
        if request.sampling.HasField("prompt_logprobs"):
            columns = self._columns([ord(c) for c in prompt[1:]], request.sampling.prompt_logprobs)
            yield inference_pb2.GenerateEvent(prompt_logprobs=inference_pb2.PromptLogprobs(logprobs=columns))
        for character in answer:
            for index in range(n):
                delta = inference_pb2.Delta(index=index, text=character, token_ids=[ord(character)])
                if request.sampling.HasField("logprobs"):
                    delta.logprobs.CopyFrom(self._columns([ord(character)], request.sampling.logprobs))
                yield inference_pb2.GenerateEvent(delta=delta)
            self.first_delta_sent.set()
            if self.break_after_start is not None:
                context.abort_with_status(self.break_after_start)
            if self.hold_after_first_delta:
                self.released.wait()
                if not context.is_active():
                    return
        finished.set()
        ends = [
            inference_pb2.ChoiceEnd(index=index, reason=reason, completion_tokens=len(answer)) for index in range(n)
        ]
        yield inference_pb2.GenerateEvent(
            finished=inference_pb2.Finished(
                choices=ends,
                usage=common_pb2.Usage(
                    prompt_tokens=len(prompt), completion_tokens=n * len(answer), cached_tokens=cached
                ),
                report=common_pb2.RequestReport(
                    request_id=request_id,
                    queue_ns=1_000_000,
                    prefill_ns=2_000_000,
                    decode_ns=30_000_000,
                    ttft_ns=3_500_000,
                    e2e_ns=34_000_000,
                    prefill_chunks=1,
                    worker="127.0.0.1:1",
                    fetch_ns=250_000,
                    load_ns=500_000,
                ),
            )
        )

    def Tokenize(self, request: inference_pb2.TokenizeRequest, _context: Any) -> inference_pb2.TokenizeResponse:
        return inference_pb2.TokenizeResponse(token_ids=[ord(c) for c in request.text], max_model_tokens=64)

    def Detokenize(self, request: inference_pb2.DetokenizeRequest, _context: Any) -> inference_pb2.DetokenizeResponse:
        return inference_pb2.DetokenizeResponse(text="".join(chr(i) for i in request.token_ids))

    def ListModels(self, _request: inference_pb2.ListModelsRequest, _context: Any) -> inference_pb2.ListModelsResponse:
        return inference_pb2.ListModelsResponse(models=[self._model()])

    def GetReport(self, request: inference_pb2.GetReportRequest, context: Any) -> inference_pb2.GetReportResponse:
        known = {each.report.request_id: each for each in self.reports}
        if request.request_id in known:
            return known[request.request_id]
        if not request.request_id.startswith("fake-"):
            context.abort_with_status(
                rich_status(
                    grpc.StatusCode.NOT_FOUND, f"no report of {request.request_id} is remembered", "ModelNotFound"
                )
            )
        return inference_pb2.GetReportResponse(
            report=common_pb2.RequestReport(request_id=request.request_id, queue_ns=7)
        )

    def ListReports(
        self, request: inference_pb2.ListReportsRequest, _context: Any
    ) -> inference_pb2.ListReportsResponse:
        self.report_lists.append(request)
        return inference_pb2.ListReportsResponse(reports=self.reports)

    def GetStatus(self, _request: inference_pb2.GetStatusRequest, _context: Any) -> inference_pb2.GetStatusResponse:
        tier = common_pb2.TierStatus(
            tier="device", capacity_blocks=8, in_use_blocks=3, cached_blocks=2, lookup_tokens=100, hit_tokens=25
        )
        disk = common_pb2.TierStatus(tier="disk", pinned_blocks=4, evicted_blocks=6, note=self.tier_note)
        fetch = common_pb2.MoveStatus(
            move="fetch",
            transfers=2,
            blocks=9,
            bytes=3 << 20,
            copy_ns=1 << 20,
            wait_ns=10,
            failed_transfers=1,
            failures={"corrupt": 1},
        )
        worker = common_pb2.WorkerStatus(
            model=MODEL,
            device="cpu",
            dtype="bf16",
            kv_dtype="bf16",
            block_bytes=1024,
            running=1,
            tiers=[tier, disk],
            moves=[fetch],
        )
        services = [
            common_pb2.ServiceStatus(role="tokenizer", address=self.address, pid=11, state="ready"),
            common_pb2.ServiceStatus(role="worker", address="127.0.0.1:1", pid=13, state="lost", worker=worker),
        ]
        return inference_pb2.GetStatusResponse(services=services, models=[self._model()])

    def ManageCache(
        self, request: common_pb2.ManageCacheRequest, _context: Any
    ) -> Iterator[common_pb2.ManageCacheEvent]:
        self.cache_requests.append(request)
        yield from self.cache_events

    def _on_end(self, is_complete: bool) -> None:
        if not is_complete:
            self.ended_by_client.set()
            self.released.set()

    @staticmethod
    def _model() -> inference_pb2.ModelInfo:
        return inference_pb2.ModelInfo(
            id=MODEL, fingerprint="ab" * 32, max_model_tokens=64, vocab_size=256, has_chat_template=True
        )

    @staticmethod
    def _text(request: inference_pb2.GenerateRequest) -> str:
        match request.WhichOneof("prompt"):
            case "token_ids":
                return "".join(chr(i) for i in request.token_ids.ids)
            case "chat":
                return request.chat.messages[-1].content
            case _:
                return request.text

    @staticmethod
    def _columns(token_ids: list[int], num_top: int) -> common_pb2.LogprobColumns:
        return common_pb2.LogprobColumns(
            token_ids=token_ids,
            logprobs=[-0.5] * len(token_ids),
            ranks=[1] * len(token_ids),
            num_top=[num_top] * len(token_ids),
            top_token_ids=[i + j for i in token_ids for j in range(num_top)],
            top_logprobs=[-0.5 - j for _ in token_ids for j in range(num_top)],
        )


@contextlib.contextmanager
def fake_stack(credentials: grpc.ServerCredentials | None = None) -> Iterator[FakeInference]:
    """The fake on a free port of this machine, with a health service that says it is ready."""
    service = FakeInference()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    inference_pb2_grpc.add_InferenceServicer_to_server(service, server)
    readiness = health.HealthServicer()
    readiness.set("tiercel.v1.Inference", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    service.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield service
    finally:
        service.released.set()
        server.stop(0).wait()
