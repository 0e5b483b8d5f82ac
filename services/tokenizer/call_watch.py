"""Watches each Generate call to its end: counts it, times it, and says in the log what became of it."""

import asyncio
import contextlib
import uuid
from collections.abc import Iterator

from engine.errors import InferError
from services.common import logs
from services.common.finish_reason_wire import finish_reason_from_wire
from services.tokenizer.live_call import CallClock
from services.tokenizer.metrics import EndedCall, RequestMetrics
from tiercel.v1 import common_pb2, inference_pb2

_log = logs.get_logger(__name__)

_MAX_ID_CHARS = 200
"""Of what a client has sent, in a log line."""


class CallWatch:
    """On the loop's thread."""

    def __init__(self, metrics: RequestMetrics) -> None:
        self._metrics = metrics

    @contextlib.contextmanager
    def call(self, request: inference_pb2.GenerateRequest, tenant: str, traceparent: str) -> Iterator["WatchedCall"]:
        """Around one call. Its errors pass through."""
        watched = WatchedCall(request, tenant, traceparent)
        with logs.of_request(watched.request_id, traceparent):
            try:
                yield watched
            except InferError as error:
                self._on_ended(watched, "refused", error)
                raise
            except asyncio.CancelledError:
                self._on_ended(watched, "cancelled", None)
                raise
            except Exception as error:
                self._on_ended(watched, "refused", error)
                raise
            self._on_finished(watched)

    def _on_finished(self, watched: "WatchedCall") -> None:
        finished = watched.finished
        if finished is None or not finished.choices:
            self._on_ended(watched, "cancelled", None)
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

    def _on_ended(self, watched: "WatchedCall", outcome: str, error: Exception | None) -> None:
        clock = watched.clock
        kind = "" if error is None else type(error).__name__
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
        if error is None:
            _log.info("request cancelled", extra=logs.fields(after_ms=after_ms, tenant=watched.tenant))
        else:
            told = error.message if isinstance(error, InferError) else "internal error"
            _log.info(
                "request refused",
                extra=logs.fields(kind=kind, reason=told, after_ms=after_ms, tenant=watched.tenant),
            )


class WatchedCall:
    """What the handler of one call fills in as it goes."""

    def __init__(self, request: inference_pb2.GenerateRequest, tenant: str, traceparent: str) -> None:
        self.request = request
        self.request_id = request.request_id[:_MAX_ID_CHARS] or uuid.uuid4().hex
        self.tenant = tenant
        self.traceparent = traceparent
        self.operation = "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"
        self.model = ""
        """As it is served; what a client asks for may be anything."""
        self.clock = CallClock()
        self.finished: inference_pb2.Finished | None = None


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
