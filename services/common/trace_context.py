"""W3C trace context (https://www.w3.org/TR/trace-context/), from a call's metadata to the messages of long streams."""

import re

import grpc

from engine.scheduling.plan import TraceContext
from tiercel.v1 import common_pb2

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
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
    return common_pb2.TraceContext(traceparent=trace.traceparent, tracestate=trace.tracestate)


def trace_from_wire(message: common_pb2.TraceContext) -> TraceContext:
    return TraceContext(message.traceparent, message.tracestate)
