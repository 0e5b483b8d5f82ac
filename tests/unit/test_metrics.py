"""Instruments, their names, and what becomes of them in text and in OTLP."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from services.common.metric_spec import counter, gauge, histogram
from services.common.metrics import Family, Reading, ServiceMetrics, exemplar_of
from services.common.otlp_metrics import OtlpMetrics
from services.tokenizer.top_tenants import NO_TENANT, OTHER_TENANTS, TopTenants

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REQUESTS = counter("tiercel.test.requests", "{request}", "Requests.", "outcome")
USE = gauge("tiercel.test.use", "1", "Share.", "gen_ai.token.type")
WAIT = histogram("tiercel.test.wait", "s", "Waits.", "phase", buckets=(0.1, 1.0, 10.0))


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (counter("gen_ai.x.io", "By", ""), "gen_ai_x_io_bytes_total"),
        (counter("tiercel.steps", "{step}", ""), "tiercel_steps_total"),
        (gauge("tiercel.kv.usage", "1", ""), "tiercel_kv_usage_ratio"),
        (histogram("gen_ai.server.request.duration", "s", "", buckets=(1,)), "gen_ai_server_request_duration_seconds"),
    ],
)
def test_prometheus_names_follow_from_the_opentelemetry_ones(spec: object, name: str) -> None:
    assert getattr(spec, "prometheus_name") == name  # noqa: B009 - typed as object for the table


def families_of(metrics: ServiceMetrics) -> dict[str, Family]:
    return {family.spec.name: family for family in metrics.collect_now()}


@pytest.mark.parametrize(
    ("traceparent", "has_exemplar"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        ("", False),
        ("00-zz-1-01", False),
    ],
)
def test_an_observation_has_an_exemplar_exactly_when_its_trace_was_sampled(
    traceparent: str, has_exemplar: bool
) -> None:
    metrics = ServiceMetrics("test")
    metrics.histogram(WAIT).observe(0.5, ("queue",), exemplar_of(traceparent))
    samples = families_of(metrics)[WAIT.name].metric.samples
    found = [(sample.labels["le"], sample.exemplar) for sample in samples if sample.exemplar is not None]
    if not has_exemplar:
        assert not found
        return
    ((bound, exemplar),) = found
    assert bound == "1.0"
    assert exemplar.labels == {"trace_id": TRACE, "span_id": SPAN}
    assert exemplar.value == 0.5


def test_counters_and_gauges_are_read_when_asked_and_not_before() -> None:
    metrics = ServiceMetrics("test")
    done = {"stop": 3}
    metrics.add(lambda: [Reading(REQUESTS, count, (outcome,)) for outcome, count in done.items()])
    done["length"] = 4
    samples = families_of(metrics)[REQUESTS.name].metric.samples
    assert {sample.labels["outcome"]: sample.value for sample in samples} == {"stop": 3, "length": 4}
    assert {sample.name for sample in samples} == {"tiercel_test_requests_total"}


def test_collecting_from_another_thread_reads_on_the_loops_thread() -> None:
    async def main() -> None:
        readers: list[threading.Thread] = []

        def read() -> Iterator[Reading]:
            readers.append(threading.current_thread())
            yield Reading(USE, 0.25, ("input",))

        metrics = ServiceMetrics("test")
        metrics.add(read)
        metrics.start()
        families = await asyncio.to_thread(metrics.collect)
        assert USE in [family.spec for family in families]
        assert readers == [threading.current_thread()]

    asyncio.run(main())


class KeptExports(MetricExporter):
    def __init__(self, *, works: bool = True) -> None:
        super().__init__()
        self.works = works
        self.data: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 0, **_: object) -> MetricExportResult:  # noqa: ARG002
        if not self.works:
            raise ConnectionError("nobody there")
        self.data.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:  # noqa: ARG002
        return True

    def shutdown(self, timeout_millis: float = 0, **_: object) -> None:
        pass


def exported(metrics: ServiceMetrics, exporter: KeptExports) -> OtlpMetrics:
    """Exports once, on leaving."""
    otlp = OtlpMetrics(exporter, Resource({}), InstrumentationScope("test"), metrics.collect_now, 3600)
    otlp.close(10)
    return otlp


def test_otlp_gets_buckets_one_by_one_with_their_exemplars() -> None:
    metrics = ServiceMetrics("test")
    wait = metrics.histogram(WAIT)
    for value in (0.05, 0.5, 0.5, 5, 50):
        wait.observe(value, ("queue",), exemplar_of(f"00-{TRACE}-{SPAN}-01") if value == 5 else None)
    wait.observe(0.5, ("decode",))
    exporter = KeptExports()
    assert exported(metrics, exporter).counts.exported == 1
    (data,) = exporter.data
    by_name = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    points = {point.attributes["phase"]: point for point in by_name[WAIT.name].data.data_points if point.attributes}
    queue = points["queue"]
    assert isinstance(queue, HistogramDataPoint)
    assert queue.bucket_counts == [1, 2, 1, 1]
    assert list(queue.explicit_bounds) == [0.1, 1.0, 10.0]
    assert (queue.count, queue.sum) == (5, 56.05)
    (exemplar,) = queue.exemplars
    assert (exemplar.value, exemplar.trace_id, exemplar.span_id) == (5, int(TRACE, 16), int(SPAN, 16))
    assert isinstance(points["decode"], HistogramDataPoint)
    assert points["decode"].count == 1
    build = by_name["tiercel.build"].data.data_points[0]
    assert isinstance(build, NumberDataPoint)
    assert (build.value, dict(build.attributes or {})["role"]) == (1, "test")


def test_an_exporter_that_fails_is_counted_and_ends_nothing() -> None:
    otlp = exported(ServiceMetrics("test"), KeptExports(works=False))
    assert (otlp.counts.exported, otlp.counts.failed) == (0, 1)


@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(["", "a", "b", "c", "d", "e", "f", "g", "h" * 200]), max_size=300),
)
def test_tenant_labels_are_bounded_whoever_comes(num_places: int, tenants: list[str]) -> None:
    top = TopTenants(num_places)
    for tenant in tenants:
        label = top.label(tenant)
        assert len(top.named) <= num_places
        assert label in (
            tenant[:64] if tenant in top.named or tenant[:64] in top.named else "",
            NO_TENANT,
            OTHER_TENANTS,
        )
        assert (label == NO_TENANT) == (tenant == "")
        assert len(label) <= 64


def test_a_busy_tenant_takes_the_place_of_an_idle_one_and_a_crowd_of_strangers_takes_none() -> None:
    top = TopTenants(2)
    for tenant in ["early", "steady"] * 10:
        top.label(tenant)
    assert [top.label("busy") for _ in range(25)][-1] == "busy"
    assert top.named == {"busy", "steady"} or top.named == {"busy", "early"}
    for _ in range(40):
        for name in top.named:
            top.label(name)
    before = top.named
    assert {top.label(f"stranger-{i}") for i in range(20)} == {OTHER_TENANTS}
    assert top.named == before
