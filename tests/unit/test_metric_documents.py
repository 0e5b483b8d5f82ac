"""docs/metrics.md, the dashboards and the rules speak of metrics that exist, and of all of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.common.metric_spec import MetricKind, MetricSpec
from tests.metric_pages import PAGE, TABLES, with_tables

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "ops" / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "ops" / "prometheus" / "rules").glob("*.yml"))
SPECS = [spec for specs in TABLES.values() for spec in specs]
FOREIGN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
_METRIC = re.compile(r"\b(?:(?:gen_ai_server|tiercel|process)_\w+|up)(?=[\s{\[)]|$)")


def series_of(spec: MetricSpec) -> set[str]:
    name = spec.prometheus_name
    return {f"{name}_{part}" for part in ("bucket", "sum", "count")} if spec.kind is MetricKind.HISTOGRAM else {name}


KNOWN = FOREIGN | set().union(*(series_of(spec) for spec in SPECS))


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return list(json.loads(dashboard.read_text())["panels"])


def test_the_page_lists_every_metric_as_it_is_declared() -> None:
    page = PAGE.read_text()
    assert with_tables(page) == page, "write its tables anew: python -m tests.metric_pages"


def test_every_metric_is_declared_once_and_says_what_it_means() -> None:
    names = [spec.prometheus_name for spec in SPECS]
    assert len(set(names)) == len(names)
    for spec in SPECS:
        assert re.fullmatch(r"(gen_ai|tiercel)(\.[a-z_]+)+", spec.name), spec.name
        assert spec.help.endswith("."), spec.name
        assert "|" not in spec.help, spec.name
        assert list(spec.buckets) == sorted(set(spec.buckets)), spec.name
        assert bool(spec.buckets) == (spec.kind is MetricKind.HISTOGRAM), spec.name


def test_the_genai_histograms_have_the_buckets_of_the_conventions() -> None:
    buckets = {spec.name: spec.buckets for spec in SPECS}
    assert buckets["gen_ai.server.request.duration"] == pytest.approx([0.01 * 2**i for i in range(14)])
    per_token = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
    assert buckets["gen_ai.server.time_per_output_token"] == per_token


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_has_the_shape_that_grafana_reads(dashboard: Path) -> None:
    content = json.loads(dashboard.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= content.keys()
    variables = {variable["name"] for variable in content["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in content["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
            assert used <= variables, target["expr"]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_names_metrics_that_exist(dashboard: Path) -> None:
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            named = set(_METRIC.findall(target["expr"]))
            assert named, target["expr"]
            assert named <= KNOWN, (panel["title"], named - KNOWN)


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_every_rule_names_metrics_that_exist(rules: Path) -> None:
    text = re.sub(r"^\s*#.*$", "", rules.read_text(), flags=re.MULTILINE)
    named = set(_METRIC.findall(text))
    assert named
    assert named <= KNOWN, named - KNOWN


def test_latency_panels_ask_for_exemplars() -> None:
    targets = [
        target for panel in panels(ROOT / "ops/grafana/dashboards/serving.json") for target in panel.get("targets", ())
    ]
    asked = [target["expr"] for target in targets if target.get("exemplar")]
    for histogram in ("request_duration", "time_to_first_token", "time_per_output_token"):
        assert any(f"gen_ai_server_{histogram}_seconds_bucket" in expr for expr in asked), histogram
