"""Lets a command that asks a stack send its own span to a collector, where the user has named one."""

import contextlib
import os
import threading
from collections.abc import Iterator

from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.otlp import Signal, otlp_target, span_exporter

_FLUSH_S = 3.0
"""What a collector that hangs may hold the end of a command up."""


@contextlib.contextmanager
def tracing(endpoint: str | None) -> Iterator[None]:
    """Around the command's work. `endpoint` None: as the `OTEL_*` variables have it."""
    try:
        target = otlp_target(Signal.TRACES, endpoint, os.environ)
    except ValueError as error:
        raise CommandFailed(str(error), EXIT_USAGE) from None
    if target is None:
        yield
        return
    try:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = span_exporter(target)
    except ImportError:
        raise CommandFailed(
            "a collector is named, but OpenTelemetry's SDK is not installed: pip install 'tiercel[otlp]', or set "
            "OTEL_SDK_DISABLED=true",
        ) from None
    from opentelemetry import trace

    own = Resource({"service.name": "infer-cli", "service.namespace": "tiercel"})
    resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_S)
