"""What a service process tells OpenTelemetry about itself, and its exports from set-up to shutdown.

Everything is off unless `--otlp` or one of the `OTEL_*` variables names a collector; then nothing of the SDK is even
imported. There is no global provider: whoever makes spans is given a tracer.
"""

import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer, Tracer

from engine.errors import ConfigError
from services.common import logs
from services.common.config import ServiceConfig
from services.common.metrics import METRIC_EXPORTS, SPANS, SPANS_QUEUED, Family, Reading
from tiercel.otlp import OtlpTarget, Signal, metric_exporter, otlp_target, span_exporter

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from services.common.otlp_metrics import OtlpMetrics
    from services.common.span_queue import SpanCounts, SpanQueue
    from services.common.span_writer import SpanWriter

_log = logs.get_logger(__name__)

_CLOSE_S = 3.0
"""What a collector that hangs may hold the end of a process up."""

_SWITCH_INTERVAL_S = 0.0002
"""A batch of spans takes some ten milliseconds to encode. With the interpreter's default of 5 ms the thread that does
it would hold the loop up by as much, each time that the loop has something to do."""

_SCOPE = "tiercel"
_CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""As the GenAI instrumentations have it."""


class Telemetry:
    """Of one process. `tracer` makes nothing where `is_tracing` is False."""

    def __init__(self, resource: "Resource | None" = None) -> None:
        """Everything off. `open_telemetry` is what services call."""
        self.resource = resource
        self.tracer: Tracer = NoOpTracer()
        self.captures_content = False
        """Whether prompts and answers are recorded too."""
        self.spans: SpanWriter | None = None
        """For spans that are written when they are over; None: nobody is told."""
        self._span_queue: SpanQueue | None = None
        self._tracer_provider: TracerProvider | None = None
        self._metrics_target: OtlpTarget | None = None
        self._otlp_metrics: OtlpMetrics | None = None

    @property
    def is_tracing(self) -> bool:
        return self._tracer_provider is not None

    @property
    def span_counts(self) -> "SpanCounts | None":
        """What has become of this process's spans; None where there are none."""
        return None if self._span_queue is None else self._span_queue.counts

    def trace_to(self, target: OtlpTarget) -> None:
        """Raises ValueError where a variable is wrong."""
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from services.common.span_queue import SpanQueue
        from services.common.span_writer import SpanWriter

        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
        max_queued = _positive_int("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._span_queue = SpanQueue(span_exporter(target), max_queued)
        self._tracer_provider = TracerProvider(resource=self.resource, span_limits=SpanLimits(), shutdown_on_exit=False)
        self._tracer_provider.add_span_processor(self._span_queue)
        self.captures_content = os.environ.get(_CAPTURE, "").strip().lower() in ("true", "span_only", "span_and_event")
        version = metadata.version("tiercel")
        self.tracer = self._tracer_provider.get_tracer(_SCOPE, version)
        self.spans = SpanWriter(self._tracer_provider.resource, InstrumentationScope(_SCOPE, version), self._span_queue)

    def meter_to(self, target: OtlpTarget) -> None:
        """Metrics go there from `export_metrics` on."""
        self._metrics_target = target

    def export_metrics(self, collect: Callable[[], list[Family]]) -> None:
        """Called once, when the service starts. `collect` is called on a thread of the export."""
        if self._metrics_target is None or self.resource is None:
            return
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        from services.common.otlp_metrics import OtlpMetrics

        interval_s = _positive_int("OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1e3
        scope = InstrumentationScope(_SCOPE, metadata.version("tiercel"))
        exporter = metric_exporter(self._metrics_target)
        self._otlp_metrics = OtlpMetrics(exporter, self.resource, scope, collect, interval_s)

    def read_metrics(self) -> Iterator[Reading]:
        """How the exports go."""
        if (spans := self.span_counts) is not None:
            yield Reading(SPANS, spans.exported, ("exported",))
            yield Reading(SPANS, spans.dropped, ("dropped",))
            yield Reading(SPANS, spans.failed, ("failed",))
            yield Reading(SPANS_QUEUED, spans.queued)
        if self._otlp_metrics is not None:
            exports = self._otlp_metrics.counts
            yield Reading(METRIC_EXPORTS, exports.exported, ("exported",))
            yield Reading(METRIC_EXPORTS, exports.failed, ("failed",))

    def close(self) -> None:
        """Send what is left. Blocks for a bounded time. Spans that end later are dropped."""
        if self._otlp_metrics is not None:
            self._otlp_metrics.close(_CLOSE_S)
        if self._span_queue is not None:
            self._span_queue.close(_CLOSE_S)


def open_telemetry(role: str, config: ServiceConfig) -> Telemetry:
    """`role` is `tokenizer`, `scheduler` or `worker`. Raises ConfigError where endpoint or a variable is wrong."""
    try:
        traces = otlp_target(Signal.TRACES, config.otlp, os.environ)
        meters = otlp_target(Signal.METRICS, config.otlp, os.environ)
        if traces is None and meters is None:
            return Telemetry()
        # The queue says in its own words, and once, what the exporters repeat for every batch.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        telemetry = Telemetry(make_resource(role))
        if traces is not None:
            telemetry.trace_to(traces)
        if meters is not None:
            _positive_int("OTEL_METRIC_EXPORT_INTERVAL", 1)
            telemetry.meter_to(meters)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for name, target in (("traces on", traces), ("metrics on", meters)):
        if target is not None:
            protocol = "http" if target.is_http else "grpc"
            _log.info(name, extra=logs.fields(endpoint=target.endpoint, protocol=protocol))
    return telemetry


def make_resource(role: str) -> "Resource":
    """`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over what is known here."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, str | int] = {
        "service.name": f"tiercel-{role}",
        "service.namespace": "tiercel",
        "service.version": metadata.version("tiercel"),
        "service.instance.id": str(uuid.uuid4()),
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())


def _positive_int(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}: {text!r} is not a positive whole number")
    return int(text)
