"""The inference span of one call, by the OpenTelemetry GenAI conventions: `{operation} {model}`, of kind CLIENT.

Made with whatever tracer provider the program has set; without one nothing is made, and the context of a span that
is current goes to the server all the same.

Below it are two spans `transport`: what the client has seen of the call's time that the front door has not, before the
first piece of the answer and after it. Both are lengths of time by the client's clock, so no clock of a server matters.
"""

import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tiercel.client.events import Delta, Event, Finished, RequestReport, Started
from tiercel.errors import Cancelled, TiercelError
from tiercel.v1 import inference_pb2

_PROPAGATOR = TraceContextTextMapPropagator()


class CallTrace:
    """From the first attempt until the call is over. Ended once; what comes after that changes nothing."""

    def __init__(
        self, request: inference_pb2.GenerateRequest, metadata: Sequence[tuple[str, str]], target: str
    ) -> None:
        """`metadata` may have a context that the caller has set, which then is the span's parent."""
        operation = "chat" if request.WhichOneof("prompt") == "chat" else "text_completion"
        host, _, port = target.rpartition(":")
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "tiercel",
            "server.address": host or target,
        }
        if request.model:
            attributes["gen_ai.request.model"] = request.model
        if port.isdecimal():
            attributes["server.port"] = int(port)
        self._operation = operation
        tracer = trace.get_tracer("tiercel.client")
        given = {name: value for name, value in metadata if name in _PROPAGATOR.fields}
        context = _PROPAGATOR.extract(given) if given else None
        self._tracer = tracer
        self._start_unix_ns, self._start_ns = time.time_ns(), time.monotonic_ns()
        self._ttft_ns = 0
        self._span = tracer.start_span(
            f"{operation} {request.model}".strip(),
            context,
            SpanKind.CLIENT,
            attributes,
            start_time=self._start_unix_ns,
        )
        self._report: RequestReport | None = None
        self._has_ended = False

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What tells the server of the span."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span))
        return tuple(carrier.items())

    def on_event(self, event: Event) -> None:
        if not self._span.is_recording():
            return
        match event:
            case Delta():
                self._ttft_ns = self._ttft_ns or time.monotonic_ns() - self._start_ns
            case Started(request_id=request_id, model=model, prompt_tokens=num_tokens):
                self._span.update_name(f"{self._operation} {model}")
                self._span.set_attribute("gen_ai.request.model", model)
                self._span.set_attribute("gen_ai.response.model", model)
                self._span.set_attribute("gen_ai.response.id", request_id)
                self._span.set_attribute("gen_ai.usage.input_tokens", num_tokens)
            case Finished(choices=choices, usage=usage, report=report):
                self._span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
                self._span.set_attribute("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens.total)
                self._span.set_attribute("gen_ai.response.finish_reasons", [str(each.reason) for each in choices])
                self._span.set_attribute("gen_ai.response.time_to_first_chunk", self._ttft_ns / 1e9)
                # The call's status is still to come, and the caller waits for it.
                self._report = report
            case _:
                pass

    def _tell_transport(self, report: RequestReport, e2e_ns: int) -> None:
        total_ns = max(0, e2e_ns - report.e2e_ns)
        before_ns = min(total_ns, max(0, self._ttft_ns - report.ttft_ns)) if self._ttft_ns else total_ns
        context = trace.set_span_in_context(self._span)
        for direction, start_ns, length_ns in (
            ("request", 0, before_ns),
            ("response", before_ns + report.e2e_ns, total_ns - before_ns),
        ):
            attributes = {"tiercel.direction": direction}
            start_unix_ns = self._start_unix_ns + start_ns
            span = self._tracer.start_span("transport", context, attributes=attributes, start_time=start_unix_ns)
            span.end(start_unix_ns + length_ns)

    def end(self, error: TiercelError | None = None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        e2e_ns = time.monotonic_ns() - self._start_ns
        if self._report is not None:
            self._tell_transport(self._report, e2e_ns)
        elif error is not None and self._span.is_recording():
            self._span.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, Cancelled):
                self._span.set_status(Status(StatusCode.ERROR, error.message))
        self._span.end(self._start_unix_ns + e2e_ns)
