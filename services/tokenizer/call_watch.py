"""Watches each Generate call to its end: counts it, times it, and says in the log what became of it."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator

from engine.errors import Cancelled, InferError
from engine.scheduling.plan import TraceContext
from services.common import logs
from services.common.finish_reason_wire import finish_reason_from_wire
from services.common.telemetry import Telemetry
from services.tokenizer.call_clock import CallClock
from services.tokenizer.call_span import CallSpan
from services.tokenizer.live_call import LiveCall
from services.tokenizer.metrics import EndedCall, RequestMetrics
from services.tokenizer.reports import ReportBook
from tiercel.v1 import common_pb2, inference_pb2

_log = logs.get_logger(__name__)

_MAX_ID_CHARS = 200
"""Of what a client has sent, in a log line."""


class CallWatch:
    """On the loop's thread."""

    def __init__(self, metrics: RequestMetrics, telemetry: Telemetry, reports: ReportBook) -> None:
        self._metrics = metrics
        self._telemetry = telemetry
        self._reports = reports

    @contextlib.contextmanager
    def call(
        self, request: inference_pb2.GenerateRequest, tenant: str, caller: TraceContext
    ) -> Iterator["WatchedCall"]:
        """Around one call. Its errors pass through. `caller` is the client's span."""
        watched = WatchedCall(request, tenant, caller, self._telemetry)
        # For the whole task: what becomes an error's status is logged behind this block.
        logs.name_request(watched.request_id, watched.traceparent)
        try:
            yield watched
        except InferError as error:
            self._on_ended(watched, "refused", error)
            raise
        except asyncio.CancelledError as error:
            self._on_ended(watched, "cancelled", error)
            raise
        except Exception as error:
            self._on_ended(watched, "refused", error)
            raise
        self._on_finished(watched)

    def _on_finished(self, watched: "WatchedCall") -> None:
        finished = watched.finished
        if finished is None or not finished.choices:
            self._on_ended(watched, "cancelled", Cancelled("the client has left"))
            return
        reason = finish_reason_from_wire(finished.choices[0].reason).value
        longest = max(choice.completion_tokens for choice in finished.choices)
        self._metrics.on_ended(
            EndedCall(
                watched.operation,
                watched.model,
                watched.tenant,
                watched.traceparent,
                duration_ns=finished.report.e2e_ns,
                ttft_ns=finished.report.ttft_ns,
                outcome=reason,
                usage=finished.usage,
                report=finished.report,
                num_generated_tokens=longest - len(watched.request.resume_tokens),
            )
        )
        _log.info("request finished", extra=logs.fields(reason=reason, **_figures(finished), tenant=watched.tenant))
        reasons = [finish_reason_from_wire(choice.reason).value for choice in finished.choices]
        self._reports.add(finished.report, finished.usage)
        watched.record_answer(reasons)
        watched.span.end(finished.report, finished.usage, watched.model, reasons, None)

    def _on_ended(self, watched: "WatchedCall", outcome: str, error: BaseException) -> None:
        clock = watched.clock
        is_cancelled = outcome == "cancelled"
        kind = "" if is_cancelled else type(error).__name__
        self._metrics.on_ended(
            EndedCall(
                watched.operation,
                watched.model,
                watched.tenant,
                watched.traceparent,
                duration_ns=clock.since_received_ns(),
                ttft_ns=clock.ttft_ns,
                outcome=outcome,
                error=kind,
            )
        )
        after_ms = round(clock.since_received_ns() / 1e6, 3)
        report, usage = watched.failed(kind or "Cancelled", error)
        self._reports.add(report, usage)
        watched.span.end(report, usage, watched.model, (), error)
        if is_cancelled:
            _log.info("request cancelled", extra=logs.fields(after_ms=after_ms, tenant=watched.tenant))
        else:
            told = error.message if isinstance(error, InferError) else "internal error"
            _log.info(
                "request refused",
                extra=logs.fields(kind=kind, reason=told, after_ms=after_ms, tenant=watched.tenant),
            )


class WatchedCall:
    """What the handler of one call fills in as it goes."""

    def __init__(
        self, request: inference_pb2.GenerateRequest, tenant: str, caller: TraceContext, telemetry: Telemetry
    ) -> None:
        self.request = request
        self.request_id = request.request_id[:_MAX_ID_CHARS] or uuid.uuid4().hex
        self.tenant = tenant
        self.operation = "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"
        self.model = ""
        """As it is served; what a client asks for may be anything."""
        self.clock = CallClock()
        self.span = CallSpan(telemetry, caller, self.clock, request, self.request_id, self.operation)
        self.num_prompt_tokens = 0
        self.live: LiveCall | None = None
        """Once it is known what is to be generated."""
        self.finished: inference_pb2.Finished | None = None

    @property
    def traceparent(self) -> str:
        return self.span.trace.traceparent

    def record_prompt(self) -> None:
        """Only where the operator has asked for contents."""
        match self.request.WhichOneof("prompt"):
            case "chat":
                messages = [_message(each.role, each.content) for each in self.request.chat.messages]
            case "text":
                messages = [_message("user", self.request.text)]
            case _:
                return
        self.span.record_messages("input", messages)

    def record_answer(self, reasons: list[str]) -> None:
        if self.live is None or self.live.texts is None:
            return
        answers = zip(self.live.texts, reasons, strict=True)
        messages = [_message("assistant", "".join(texts)) | {"finish_reason": reason} for texts, reason in answers]
        self.span.record_messages("output", messages)

    def complete(self, report: common_pb2.RequestReport) -> None:
        """Nothing comes after this but the event that carries it."""
        report.request_id = self.request.request_id or self.request_id
        report.model = self.model
        report.trace_id = self.span.trace_id
        self.clock.fill(report, self.num_prompt_tokens)

    def failed(self, kind: str, error: BaseException) -> tuple[common_pb2.RequestReport, common_pb2.Usage]:
        """What there is to report of a call that did not finish."""
        report = common_pb2.RequestReport()
        usage = common_pb2.Usage(prompt_tokens=self.num_prompt_tokens)
        if self.live is not None:
            report.CopyFrom(self.live.report)
            usage = self.live.usage()
        report.error = kind
        if isinstance(error, InferError):
            report.error_message = error.message
        elif kind == "Cancelled":
            report.error_message = "the client has left, or its deadline has passed"
        else:
            report.error_message = "internal error"
        self.complete(report)
        report.request_id = self.request_id
        return report, usage


def _message(role: str, text: str) -> dict[str, object]:
    """As the GenAI conventions have it."""
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _figures(finished: inference_pb2.Finished) -> dict[str, object]:
    usage, report = finished.usage, finished.report
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": _cached(usage.cached_tokens),
        "worker": report.worker,
        "queue_ms": round(report.queue_ns / 1e6, 3),
        "ttft_ms": round(report.ttft_ns / 1e6, 3),
        "e2e_ms": round(report.e2e_ns / 1e6, 3),
    }


def _cached(cached: common_pb2.CachedTokens) -> int:
    return cached.device + cached.host + cached.disk
