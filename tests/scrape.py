"""Reads `/metrics` as Prometheus does: real HTTP, the library's own parsers."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Exemplar, Sample

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True)
class Scrape:
    content_type: str
    text: str
    families: dict[str, Metric]

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Of the series with this full name that have these labels among theirs."""
        return [
            sample
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum over the matching series; KeyError where there is none."""
        samples = self.samples(name, **labels)
        if not samples:
            raise KeyError(f"{name}{labels}")
        return sum(sample.value for sample in samples)

    def names(self) -> set[str]:
        return {sample.name for family in self.families.values() for sample in family.samples}

    def exemplars(self, histogram: str) -> Iterator[Exemplar]:
        for sample in self.samples(f"{histogram}_bucket"):
            if sample.exemplar is not None:
                yield sample.exemplar


def scrape(address: str, accept: str = OPENMETRICS) -> Scrape:
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        content_type, text = response.headers["Content-Type"], response.read().decode()
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return Scrape(content_type, text, {family.name: family for family in parse(text)})
