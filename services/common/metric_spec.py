"""What a metric is: its OpenTelemetry name, unit and attributes, and the Prometheus name that follows from them.

Every metric of a service is a `MetricSpec`, declared once in `services/*/metrics.py`; `docs/metrics.md` lists the same.
"""

import enum
from dataclasses import dataclass


class MetricKind(enum.StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes", "1": "_ratio"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """Declared once, at module level."""

    name: str
    """Dotted, as OpenTelemetry has it."""
    kind: MetricKind
    unit: str
    """UCUM: s, By, 1 for a ratio, {token} and the like for counts."""
    help: str
    labels: tuple[str, ...] = ()
    """Attribute names, dotted."""
    buckets: tuple[float, ...] = ()
    """Upper bounds in `unit`, rising, of a histogram."""
    vllm: str = ""
    """What the vLLM metric with the same meaning is called there."""

    @property
    def prometheus_name(self) -> str:
        """As https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ derives it."""
        base = self.name.replace(".", "_") + _UNIT_SUFFIXES.get(self.unit, "")
        return f"{base}_total" if self.kind is MetricKind.COUNTER else base

    @property
    def prometheus_labels(self) -> tuple[str, ...]:
        return tuple(label.replace(".", "_") for label in self.labels)


def counter(name: str, unit: str, help: str, *labels: str, vllm: str = "") -> MetricSpec:
    return MetricSpec(name=name, kind=MetricKind.COUNTER, unit=unit, help=help, labels=labels, vllm=vllm)


def gauge(name: str, unit: str, help: str, *labels: str, vllm: str = "") -> MetricSpec:
    return MetricSpec(name=name, kind=MetricKind.GAUGE, unit=unit, help=help, labels=labels, vllm=vllm)


def histogram(name: str, unit: str, help: str, *labels: str, buckets: tuple[float, ...], vllm: str = "") -> MetricSpec:
    return MetricSpec(
        name=name, kind=MetricKind.HISTOGRAM, unit=unit, help=help, labels=labels, buckets=buckets, vllm=vllm
    )
