"""A real Prometheus takes configuration and rules, scrapes a real stack, and every panel has something to show."""

import json
import math
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.metered_stack import Load, MeteredStack, metered_stack
from tests.e2e.prometheus import OPS, Prometheus, binary, running_prometheus
from tests.e2e.stack import wait_until

pytestmark = pytest.mark.prometheus

DASHBOARDS = sorted((OPS.parent / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"$__rate_interval": "10s", "$worker": ".*", "$model": ".*"}


def promtool(*words: str | Path) -> str:
    done = subprocess.run([binary("promtool"), *words], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("config", ["prometheus.yml", "local.yml"])
def test_promtool_accepts_the_configuration_and_its_rules(config: str) -> None:
    said = promtool("check", "config", OPS / config)
    assert "12 rules found" in said
    assert "FAILED" not in said


def test_the_rules_fire_when_they_should_and_not_else() -> None:
    assert "SUCCESS" in promtool("test", "rules", *sorted((OPS / "tests").glob("*.yml")))


class Watched:
    def __init__(self, stack: MeteredStack, prometheus: Prometheus) -> None:
        self.stack = stack
        self.prometheus = prometheus
        self.started_at = time.time()
        self.loads: list[Load] = []

    @property
    def seconds(self) -> float:
        return time.time() - self.started_at


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with metered_stack(folder) as stack:
        targets = [address for addresses in stack.metrics.values() for address in addresses]
        with running_prometheus(folder, targets) as prometheus:
            watched = Watched(stack, prometheus)
            wait_until(lambda: _num_up(prometheus) == 3, "all three services are scraped")
            for salt in ("one", "two"):
                watched.loads.append(stack.load(salt))
            yield watched


def _num_up(prometheus: Prometheus) -> float:
    return sum(float(series["value"][1]) for series in prometheus.ask("query", query="up")["result"])


def queries(dashboard: Path) -> list[tuple[str, str]]:
    """(panel, expression), with what Grafana would put in place of the variables."""
    found = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = str(target["expr"])
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            found.append((str(panel["title"]), expression))
    return found


def has_data(watched: Watched, expression: str) -> bool:
    return any(math.isfinite(value) for value in watched.prometheus.values(expression, watched.seconds))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_returns_data(watched: Watched, dashboard: Path) -> None:
    asked = queries(dashboard)
    assert asked
    for panel, expression in asked:
        # The last of the load is seen with the next scrape.
        wait_until(lambda expression=expression: has_data(watched, expression), f"{panel}: {expression}")  # type: ignore[misc]


def test_a_dashboard_shows_what_the_load_was(watched: Watched) -> None:
    expected = sum(load.num_requests for load in watched.loads)

    def shown() -> float:
        (series,) = watched.prometheus.ask("query", query="sum(tiercel_requests_total)")["result"]
        return float(series["value"][1])

    wait_until(lambda: shown() == expected, f"Prometheus has all {expected} requests")
    cached = {tier: sum(load.cached_tokens[tier] for load in watched.loads) for tier in ("device", "host", "disk")}

    def by_tier() -> dict[str, float]:
        hits = watched.prometheus.ask("query", query="sum by (tier) (tiercel_kv_hit_tokens_total)")["result"]
        return {series["metric"]["tier"]: float(series["value"][1]) for series in hits}

    # Another service counts them, which is scraped at another time.
    wait_until(lambda: by_tier() == cached, f"Prometheus has {cached}")


def test_exemplars_lead_to_the_traces_of_the_load(watched: Watched) -> None:
    known = set().union(*(load.trace_ids for load in watched.loads))

    def exemplars() -> list[dict[str, Any]]:
        found = watched.prometheus.ask(
            "query_exemplars",
            query="gen_ai_server_time_to_first_token_seconds_bucket",
            start=watched.started_at,
            end=time.time(),
        )
        return [exemplar for series in found for exemplar in series["exemplars"]]

    wait_until(lambda: bool(exemplars()), "Prometheus has exemplars")
    assert {exemplar["labels"]["trace_id"] for exemplar in exemplars()} <= known


def test_the_rules_evaluate_and_nothing_fires_on_a_healthy_stack(watched: Watched) -> None:
    rules = [rule for group in watched.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == 17
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
    for rule in rules:
        if rule["type"] == "recording":
            wait_until(lambda rule=rule: has_data(watched, rule["name"]), rule["name"])  # type: ignore[misc]
