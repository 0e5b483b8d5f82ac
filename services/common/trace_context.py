"""W3C trace context (https://www.w3.org/TR/trace-context/), from a call's metadata to the messages of long streams.

Beside the standard's two fields a message carries when it was sent by the clock of the trace. Each process places its
spans by that clock: the difference between it and the process's own monotonic clock is noted on receipt, and holds for
all that the process does for the request. So a span never begins before what caused it, whatever the clocks of the
hosts say; the way of the message itself is all that is lost.
"""

import random
import re
import time
from hashlib import blake2b

import grpc
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from engine.scheduling.plan import TraceContext
from tiercel.v1 import common_pb2

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_MAX_TRACESTATE_CHARS = 512


def trace_from_metadata(metadata: grpc.aio.Metadata | None) -> TraceContext:
    """The caller's context; empty when there is none or it is malformed, as the standard asks."""
    traceparent = text_metadata(metadata, "traceparent")
    if _TRACEPARENT.fullmatch(traceparent) is None:
        return TraceContext()
    tracestate = text_metadata(metadata, "tracestate")
    return TraceContext(traceparent, tracestate if len(tracestate) <= _MAX_TRACESTATE_CHARS else "")


def text_metadata(metadata: grpc.aio.Metadata | None, key: str) -> str:
    """The first text value under `key`, or an empty string."""
    if metadata is None:
        return ""
    for name, value in metadata:
        if name == key:
            return value if isinstance(value, str) else ""
    return ""


def trace_to_wire(trace: TraceContext) -> common_pb2.TraceContext:
    """To be sent now."""
    if not trace.traceparent:
        return common_pb2.TraceContext()
    return common_pb2.TraceContext(
        traceparent=trace.traceparent,
        tracestate=trace.tracestate,
        sent_unix_ns=time.monotonic_ns() + trace.clock_offset_ns,
    )


def trace_from_wire(message: common_pb2.TraceContext, received_ns: int) -> TraceContext:
    """`received_ns` is monotonic."""
    if not message.traceparent:
        return TraceContext()
    sent_unix_ns = message.sent_unix_ns or time.time_ns() - (time.monotonic_ns() - received_ns)
    return TraceContext(message.traceparent, message.tracestate, sent_unix_ns - received_ns)


def span_context(trace: TraceContext) -> SpanContext | None:
    """None: whoever began the trace does not record it."""
    context = remote_context(trace)
    return context if context is not None and context.trace_flags.sampled else None


def remote_context(trace: TraceContext) -> SpanContext | None:
    if _TRACEPARENT.fullmatch(trace.traceparent) is None:
        return None
    _, trace_id, span_id, flags, *_ = trace.traceparent.split("-")
    state = TraceState.from_header([trace.tracestate]) if trace.tracestate else None
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)


def trace_of(context: SpanContext, clock_offset_ns: int) -> TraceContext:
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return TraceContext(traceparent, context.trace_state.to_header(), clock_offset_ns)


def new_child(parent: SpanContext) -> SpanContext:
    """A context of its own for a span below `parent`."""
    return SpanContext(parent.trace_id, random.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state)


def child_context(parent: SpanContext, number: int) -> SpanContext:
    """Of the span that tells of the parent's stretch `number`: known before that span is written, on every host."""
    name = parent.span_id.to_bytes(8, "big") + number.to_bytes(8, "big")
    span_id = int.from_bytes(blake2b(name, digest_size=8).digest(), "big") or 1
    return SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)
