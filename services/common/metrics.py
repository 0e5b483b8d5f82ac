"""The metrics of one service process.

The instruments are prometheus_client's: the Prometheus exporter of opentelemetry-sdk (0.66b2) writes no exemplars, and
without a collector nothing of that SDK needs to be loaded. Only histograms are told of things as they happen, some
microseconds per request or step; counters and gauges are plain integers of those who count anyway, and read when
somebody asks. `otlp_metrics.py` sends the same families to a collector.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from services.common.metric_spec import MetricKind, MetricSpec, counter, gauge

_COLLECT_LIMIT_S = 10.0

_SAMPLED_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf]")


@dataclass(frozen=True, slots=True)
class Reading:
    """The present value of one series of a counter or gauge."""

    spec: MetricSpec
    value: float
    labels: tuple[str, ...] = ()


Exemplar = dict[str, str]
"""trace_id and span_id."""

ReadMetrics = Callable[[], Iterable[Reading]]
"""Called on the loop's thread."""


@dataclass(frozen=True, slots=True)
class Family:
    """All series of one metric at one moment. `samples` of `metric` are those of the text formats."""

    spec: MetricSpec
    metric: Metric


class Histogram:
    """A histogram metric. To be used on the loop's thread."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec
        # Registered nowhere: `ServiceMetrics` asks for what it has seen.
        self._inner = prometheus_client.Histogram(
            _without_suffix(spec), spec.help, spec.prometheus_labels, buckets=spec.buckets, registry=None
        )
        # By labels; the library's own look-up checks names and takes a lock each time.
        self._series: dict[tuple[str, ...], prometheus_client.Histogram] = {} if spec.labels else {(): self._inner}

    def observe(self, value: float, labels: tuple[str, ...] = (), exemplar: Exemplar | None = None) -> None:
        """`exemplar` is of the request that the value is about."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = self._inner.labels(*labels)
        series.observe(value, exemplar)

    def collect(self) -> Iterable[Family]:
        return (Family(self.spec, metric) for metric in self._inner.collect() if metric.samples)


def exemplar_of(traceparent: str) -> Exemplar | None:
    """For what is measured of the request with this trace context. Only a sampled trace can be opened."""
    match = _SAMPLED_TRACEPARENT.fullmatch(traceparent)
    return None if match is None else {"trace_id": match[1], "span_id": match[2]}


BUILD = gauge("tiercel.build", "{build}", "Always 1; the labels say what runs.", "role", "version")
READY = gauge("tiercel.ready", "{service}", "1 while the service takes new work, else 0.")
UPTIME = gauge("tiercel.uptime", "s", "Since the process started serving.")
SPANS = counter(
    "tiercel.telemetry.spans",
    "{span}",
    "Spans that ended, by what became of them: exported, dropped (queue full, or the process left) or failed (the "
    "collector refused them or was not there).",
    "result",
)
SPANS_QUEUED = gauge("tiercel.telemetry.spans.queued", "{span}", "Spans that wait for export.")
METRIC_EXPORTS = counter(
    "tiercel.telemetry.metric_exports", "{export}", "Exports of all metrics over OTLP: exported or failed.", "result"
)

COMMON_SPECS = (BUILD, READY, UPTIME, SPANS, SPANS_QUEUED, METRIC_EXPORTS)


class ServiceMetrics:
    """Everything that one process has to tell. Sources are added on the loop's thread before the first `collect`."""

    def __init__(self, role: str) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: list[ReadMetrics] = [lambda: [Reading(BUILD, 1, (role, metadata.version("tiercel")))]]
        self._histograms: list[Histogram] = []
        # The time at which a series began doubles the number of series and tells nobody anything here.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_OnScrape(self))
        prometheus_client.ProcessCollector(registry=self.registry)

    def add(self, read: ReadMetrics) -> None:
        self._readers.append(read)

    def histogram(self, spec: MetricSpec) -> Histogram:
        histogram = Histogram(spec)
        self._histograms.append(histogram)
        return histogram

    def start(self) -> None:
        """On the loop whose state the sources read."""
        self._loop = asyncio.get_running_loop()

    def collect(self) -> list[Family]:
        """On any thread but the loop's. Raises TimeoutError where the loop does not come to it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._collect_soon(), self._loop).result(_COLLECT_LIMIT_S)

    async def _collect_soon(self) -> list[Family]:
        return self.collect_now()

    def collect_now(self) -> list[Family]:
        """On the loop's thread."""
        metrics: dict[MetricSpec, CounterMetricFamily | GaugeMetricFamily] = {}
        for read in self._readers:
            for reading in read():
                metric = metrics.get(reading.spec)
                if metric is None:
                    metric = metrics[reading.spec] = _empty(reading.spec)
                metric.add_metric(reading.labels, reading.value)
        families = [Family(spec, metric) for spec, metric in metrics.items()]
        for histogram in self._histograms:
            families.extend(histogram.collect())
        return families


class _OnScrape(Collector):
    def __init__(self, metrics: ServiceMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return [family.metric for family in self._metrics.collect()]


def _empty(spec: MetricSpec) -> CounterMetricFamily | GaugeMetricFamily:
    if spec.kind is MetricKind.COUNTER:
        return CounterMetricFamily(_without_suffix(spec), spec.help, labels=spec.prometheus_labels)
    return GaugeMetricFamily(spec.prometheus_name, spec.help, labels=spec.prometheus_labels)


def _without_suffix(spec: MetricSpec) -> str:
    """The library adds `_total` itself."""
    return spec.prometheus_name.removesuffix("_total")
