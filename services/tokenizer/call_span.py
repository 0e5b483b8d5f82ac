"""The front door's part of a trace: the `generate` span of each call, and what the tokenizer does below it.

`generate` is ours and not the conventions' inference span (`{operation} {model}`), which belongs to whoever asks: our
client makes it, or the caller's own instrumentation. Were both called so, every request would count twice.
"""

import json
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanKind, Status, StatusCode, set_span_in_context

from engine.errors import Cancelled, InvalidRequest, ModelNotFound, PromptTooLong
from engine.scheduling.plan import TraceContext
from services.common.telemetry import Telemetry
from services.common.trace_context import new_child, remote_context, trace_of
from services.tokenizer.call_clock import CallClock
from tiercel.phases import AttributeValue, PhaseName, phase_attributes
from tiercel.v1 import common_pb2, inference_pb2

_OWN_PHASES = (PhaseName.TOKENIZE, PhaseName.TRANSIT, PhaseName.DETOKENIZE)

_CLIENTS_DOING = (InvalidRequest, PromptTooLong, ModelNotFound, Cancelled)
"""Errors that are no fault of the service: the span has an `error.type`, but its status stays unset."""

_SAMPLING = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "seed": "gen_ai.request.seed",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "n": "gen_ai.request.choice.count",
}


class CallSpan:
    """Of one call, from its receipt. Does nothing where nobody is told; passes the caller's context on all the same."""

    def __init__(
        self,
        telemetry: Telemetry,
        caller: TraceContext,
        clock: CallClock,
        request: inference_pb2.GenerateRequest,
        request_id: str,
        operation: str,
    ) -> None:
        self._writer = telemetry.spans
        self._clock = clock
        self._span: Span = INVALID_SPAN
        self.trace = TraceContext(caller.traceparent, caller.tracestate, clock.offset_ns)
        """To be sent on."""
        self.trace_id = ""
        """Hexadecimal; empty where the call is not traced."""
        self._is_recording = False
        if self._writer is None:
            return
        parent = remote_context(caller)
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())
        # All that is known is there from the start, so that samplers see it.
        self._span = telemetry.tracer.start_span(
            "generate",
            context,
            SpanKind.SERVER,
            _request_attributes(request, request_id, operation),
            start_time=clock.received_unix_ns,
        )
        self.trace = trace_of(self._span.get_span_context(), clock.offset_ns)
        self._is_recording = self._span.is_recording()
        if self._is_recording:
            self.trace_id = f"{self._span.get_span_context().trace_id:032x}"

    def record_messages(self, kind: str, messages: list[dict[str, object]]) -> None:
        """`kind` is `input` or `output`. Only where the operator has asked for contents."""
        if self._is_recording:
            self._span.set_attribute(f"gen_ai.{kind}.messages", json.dumps(messages, ensure_ascii=False))

    def end(
        self,
        report: common_pb2.RequestReport,
        usage: common_pb2.Usage,
        model: str,
        reasons: Sequence[str],
        error: BaseException | None,
    ) -> None:
        """`report` is complete. `reasons` are empty where the call did not finish."""
        if not self._is_recording or self._writer is None:
            return
        span, context = self._span, self._span.get_span_context()
        zero_ns = self._clock.received_unix_ns
        cached = usage.cached_tokens
        attributes: dict[str, AttributeValue] = {
            "gen_ai.response.model": model,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached.device + cached.host + cached.disk,
            "tiercel.worker": report.worker,
        }
        if report.ttft_ns:
            attributes["gen_ai.response.time_to_first_chunk"] = report.ttft_ns / 1e9
        if model:
            # A client may leave the model to us; dashboards group by this one all the same.
            attributes["gen_ai.request.model"] = model
        span.set_attributes(attributes)
        if reasons:
            span.set_attribute("gen_ai.response.finish_reasons", list(reasons))
        if error is not None:
            span.set_attribute("error.type", report.error)
            if not isinstance(error, _CLIENTS_DOING) and report.error != "Cancelled":
                span.set_status(Status(StatusCode.ERROR, report.error_message))
            if not isinstance(error, Cancelled) and report.error != "Cancelled":
                refusal = {"error.type": report.error, "exception.message": report.error_message}
                span.add_event("refused", refusal, zero_ns + report.e2e_ns)
        for phase in report.phases:
            if phase.name in _OWN_PHASES:
                start_ns = zero_ns + phase.start_ns
                self._writer.write(
                    phase.name,
                    new_child(context),
                    context,
                    start_ns,
                    start_ns + phase.duration_ns,
                    phase_attributes(phase),
                )
        span.end(zero_ns + report.e2e_ns)


def _request_attributes(
    request: inference_pb2.GenerateRequest, request_id: str, operation: str
) -> dict[str, AttributeValue | Sequence[str]]:
    sampling = request.sampling
    attributes: dict[str, AttributeValue | Sequence[str]] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "tiercel",
        "gen_ai.request.model": request.model[:200],
        "gen_ai.request.stream": True,
        "gen_ai.output.type": "text",
        "gen_ai.response.id": request_id,
        "tiercel.request.id": request_id,
        "tiercel.tenant": request.tenant[:200],
        "tiercel.priority": request.priority,
    }
    for field, name in _SAMPLING.items():
        if sampling.HasField(field):
            attributes[name] = getattr(sampling, field)
    if sampling.stop:
        attributes["gen_ai.request.stop_sequences"] = [stop[:200] for stop in sampling.stop[:16]]
    return attributes
