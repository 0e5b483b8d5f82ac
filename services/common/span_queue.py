"""Ended spans on their way to a collector: bounded, counted, never waited for.

The SDK's BatchSpanProcessor does the batching and sending on a thread of its own. What it lacks is here: it logs a
warning for each span that a full queue drops but keeps no count, takes no notice of a batch that the exporter gave up,
and waits half a minute at shutdown for a collector that hangs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from services.common import logs

_log = logs.get_logger(__name__)

_ABORT_S = 0.5


@dataclass(frozen=True, slots=True)
class SpanCounts:
    exported: int = 0
    dropped: int = 0
    """Never handed to the collector, because the queue was full or the process left."""
    failed: int = 0
    """The collector refused them, or could not be reached in time."""
    queued: int = 0


class SpanQueue(SpanProcessor):
    """Called from any thread. Sizes and delays follow `OTEL_BSP_*`; ValueError where they contradict each other."""

    def __init__(self, exporter: SpanExporter, max_queued: int) -> None:
        """`max_queued` is the limit of spans that wait or are being sent."""
        self._max_queued = max_queued
        self._lock = threading.Lock()
        self._num_accepted = 0
        self._num_dropped = 0
        self._num_exported = 0
        self._num_failed = 0
        self._is_closed = False
        self._is_settled = False
        """Everything has been counted; what an exporter says now comes too late."""
        self._is_failing = False
        self._exporter = exporter
        self._batches = BatchSpanProcessor(_Counted(exporter, self), max_queue_size=max_queued)

    @property
    def counts(self) -> SpanCounts:
        with self._lock:
            queued = self._num_accepted - self._num_exported - self._num_failed
            return SpanCounts(self._num_exported, self._num_dropped, self._num_failed, queued)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            queued = self._num_accepted - self._num_exported - self._num_failed
            if self._is_closed or queued >= self._max_queued:
                self._num_dropped += 1
                return
            self._num_accepted += 1
        self._batches.on_end(span)

    def on_exported(self, num_spans: int, *, is_success: bool) -> None:
        """On the exporting thread, after each batch."""
        with self._lock:
            if self._is_settled:
                return
            if is_success:
                self._num_exported += num_spans
            else:
                self._num_failed += num_spans
        if is_success is not self._is_failing:
            return
        self._is_failing = not is_success
        counts = self.counts
        report = logs.fields(exported=counts.exported, dropped=counts.dropped, failed=counts.failed)
        if is_success:
            _log.info("the collector takes spans again", extra=report)
        else:
            _log.warning("the collector does not take spans; they are dropped meanwhile", extra=report)

    def close(self, timeout_s: float) -> None:
        """Send what is left, for at most `timeout_s`; the rest counts as dropped."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        # A thread, since the SDK's own limits do not hold for a collector that hangs.
        closing = threading.Thread(target=self._batches.shutdown, name="span-queue-close", daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            # Ends the call that hangs, and so the thread.
            self._exporter.shutdown()
            closing.join(_ABORT_S)
        with self._lock:
            self._is_settled = True
            queued = self._num_accepted - self._num_exported - self._num_failed
            self._num_dropped += queued
            self._num_accepted -= queued
            num_lost = self._num_dropped + self._num_failed
        if num_lost:
            counts = self.counts
            report = logs.fields(exported=counts.exported, dropped=counts.dropped, failed=counts.failed)
            _log.warning("not all spans reached the collector", extra=report)

    def shutdown(self) -> None:
        self.close(0.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._batches.force_flush(timeout_millis)


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter, queue: SpanQueue) -> None:
        self._exporter = exporter
        self._queue = queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._queue.on_exported(len(spans), is_success=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
