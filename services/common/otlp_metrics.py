"""A service's metrics to an OpenTelemetry collector, every so often, from a thread of its own.

The families are those that `/metrics` shows, under their OpenTelemetry names. Temporality is always cumulative.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.samples import Sample

from services.common import logs
from services.common.metric_spec import MetricKind, MetricSpec
from services.common.metrics import Family

_log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExportCounts:
    exported: int = 0
    failed: int = 0


class OtlpMetrics:
    """Owns the exporter and the thread. A collector that is away is said once, and counted."""

    def __init__(
        self,
        exporter: MetricExporter,
        resource: Resource,
        scope: InstrumentationScope,
        collect: Callable[[], list[Family]],
        interval_s: float,
    ) -> None:
        """`collect` is called on the thread."""
        self._exporter = exporter
        self._resource = resource
        self._scope = scope
        self._collect = collect
        self._interval_s = interval_s
        self._started_unix_ns = time.time_ns()
        self._num_exported = self._num_failed = 0
        self._is_failing = False
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-metrics", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> ExportCounts:
        return ExportCounts(self._num_exported, self._num_failed)

    def close(self, timeout_s: float) -> None:
        """Send once more what there is, for at most `timeout_s`."""
        self._leaving.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._exporter.shutdown()

    def _run(self) -> None:
        while not self._leaving.wait(self._interval_s):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            data = self._data(self._collect())
            is_success = self._exporter.export(data) is MetricExportResult.SUCCESS
        except Exception as error:
            # Also the loop that is too busy to be asked: the thread must outlive everything.
            _log.warning("metrics were not exported", extra=logs.fields(reason=repr(error)))
            is_success = False
        if is_success:
            self._num_exported += 1
        else:
            self._num_failed += 1
        if is_success is self._is_failing:
            self._is_failing = not is_success
            if is_success:
                _log.info("the collector takes metrics again", extra=logs.fields(failed=self._num_failed))
            else:
                _log.warning("the collector does not take metrics", extra=logs.fields(failed=self._num_failed))

    def _data(self, families: Iterable[Family]) -> MetricsData:
        now_ns = time.time_ns()
        metrics = [
            OtlpMetric(family.spec.name, family.spec.help, family.spec.unit, self._points(family, now_ns))
            for family in families
        ]
        scope = ScopeMetrics(self._scope, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _points(self, family: Family, now_ns: int) -> Sum | Gauge | HistogramData:
        spec, samples = family.spec, family.metric.samples
        if spec.kind is MetricKind.HISTOGRAM:
            points = list(_histogram_points(spec, samples, self._started_unix_ns, now_ns))
            return HistogramData(points, AggregationTemporality.CUMULATIVE)
        numbers = [
            NumberDataPoint(_attributes(spec, sample.labels), self._started_unix_ns, now_ns, _number(sample.value))
            for sample in samples
        ]
        if spec.kind is MetricKind.GAUGE:
            return Gauge(numbers)
        return Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)


def _histogram_points(
    spec: MetricSpec, samples: Iterable[Sample], start_ns: int, now_ns: int
) -> Iterator[HistogramDataPoint]:
    """The text format counts buckets cumulatively and spreads a series over many samples."""
    series: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sample in samples:
        series[tuple(sample.labels[label] for label in spec.prometheus_labels)].append(sample)
    for group in series.values():
        buckets = [sample for sample in group if sample.name.endswith("_bucket")]
        totals = {sample.name.rpartition("_")[2]: sample.value for sample in group}
        cumulative = [0, *(int(bucket.value) for bucket in buckets)]
        yield HistogramDataPoint(
            attributes=_attributes(spec, group[0].labels),
            start_time_unix_nano=start_ns,
            time_unix_nano=now_ns,
            count=int(totals["count"]),
            sum=totals["sum"],
            bucket_counts=[upper - lower for lower, upper in pairwise(cumulative)],
            explicit_bounds=list(spec.buckets),
            # Not kept; None leaves them out of the message.
            min=None,  # type: ignore[arg-type]
            max=None,  # type: ignore[arg-type]
            exemplars=[exemplar for bucket in buckets if (exemplar := _exemplar(bucket)) is not None],
        )


def _exemplar(bucket: Sample) -> Exemplar | None:
    exemplar = bucket.exemplar
    if exemplar is None:
        return None
    time_ns = int(float(exemplar.timestamp or 0) * 1e9)
    return Exemplar(
        {}, exemplar.value, time_ns, int(exemplar.labels["span_id"], 16), int(exemplar.labels["trace_id"], 16)
    )


def _attributes(spec: MetricSpec, labels: dict[str, str]) -> dict[str, str]:
    """An empty label and an absent one are the same in Prometheus; OpenTelemetry leaves it out."""
    pairs = zip(spec.labels, spec.prometheus_labels, strict=True)
    return {name: labels[label] for name, label in pairs if labels[label]}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
