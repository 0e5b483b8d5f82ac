"""An OTLP collector for traces: a real gRPC server with opentelemetry-proto's TraceService, which keeps what it gets.

It can be made to hang, to reject and to die, and comes back at the same port.
"""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class CollectedSpan:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty: a root."""
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[tuple[str, int, dict[str, Any]], ...]
    links: tuple[str, ...]
    """Span ids."""
    error: str | None
    """Description of an error status; None: no error."""

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


class TraceCollector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.num_exports = 0
        self.rejection: grpc.StatusCode | None = None
        self.answers = threading.Event()
        """Cleared: exports hang."""
        self.answers.set()
        self._server: grpc.Server | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    def die(self) -> None:
        self.answers.set()
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def Export(self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext) -> Any:
        self.num_exports += 1
        self.answers.wait()
        if self.rejection is not None:
            context.abort(self.rejection, "the collector wants none of it")
        for resource_spans in request.resource_spans:
            service = _values(resource_spans.resource.attributes).get("service.name", "")
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_collected(service, span) for span in scope_spans.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def has(self, request_id: str) -> bool:
        """Whether the request's two roots have come. Each is the last of its process."""
        return {"generate", "schedule"} <= {span.name for span in self._of(request_id)}

    def tree(self, request_id: str) -> dict[str, list[CollectedSpan]]:
        """The spans of one request's trace by name, in order."""
        trace_id = self._of(request_id)[0].trace_id
        tree: dict[str, list[CollectedSpan]] = {}
        for span in sorted(self.spans, key=lambda span: (span.start_ns, span.end_ns)):
            if span.trace_id == trace_id:
                tree.setdefault(span.name, []).append(span)
        return tree

    def steps(self, schedule: CollectedSpan) -> list[CollectedSpan]:
        """Those that say that they worked on this request."""
        return [span for span in self.spans if span.name == "step" and schedule.span_id in span.links]

    def _of(self, request_id: str) -> list[CollectedSpan]:
        return [span for span in self.spans if span.attributes.get("tiercel.request.id") == request_id]


def _collected(service: str, span: trace_pb2.Span) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        events=tuple((event.name, event.time_unix_nano, _values(event.attributes)) for event in span.events),
        links=tuple(link.span_id.hex() for link in span.links),
        error=span.status.message if span.status.code == trace_pb2.Status.STATUS_CODE_ERROR else None,
    )


def _values(attributes: Any) -> dict[str, Any]:
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@contextmanager
def trace_collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    collector.start()
    try:
        yield collector
    finally:
        collector.die()
