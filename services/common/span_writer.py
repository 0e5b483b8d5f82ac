"""Spans written from recorded times, after what they tell of has ended.

A `Tracer` makes spans as they begin, on the path that they measure, and chooses their ids. Here ids are known before,
since others have been told them, and times are known already; so the finished form is made directly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

AttributeValue = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    name: str
    unix_ns: int
    attributes: Attributes = field(default_factory=dict)


class SpanWriter:
    """Any thread. Hands spans to the processor, which never blocks."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, processor: SpanProcessor) -> None:
        self._resource = resource
        self._scope = scope
        self._processor = processor

    def write(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_unix_ns: int,
        end_unix_ns: int,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        events: Sequence[SpanEvent] = (),
        links: Sequence[Link] = (),
        error: str | None = None,
    ) -> None:
        """`error` is the description of the status; None: it went well."""
        status = Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error)
        span = ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            dict(attributes),
            [Event(event.name, event.attributes, event.unix_ns) for event in events],
            links,
            kind,
            status=status,
            start_time=start_unix_ns,
            end_time=max(start_unix_ns, end_unix_ns),
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)
