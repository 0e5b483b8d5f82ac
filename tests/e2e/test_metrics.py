"""After a load that hits every tier, metrics, status, reports, OTLP and logs tell the same story."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.common.metric_spec import MetricKind, MetricSpec
from tests.e2e.metered_stack import Load, MeteredStack, metered_stack
from tests.e2e.stack import wait_until
from tests.metric_pages import TABLES
from tests.otlp_metrics_receiver import MetricsReceiver, metrics_receiver

ROLES = ("tokenizer", "scheduler", "worker")


@pytest.fixture(scope="module")
def receiver() -> Iterator[MetricsReceiver]:
    with metrics_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def stack(receiver: MetricsReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeteredStack]:
    with pytest.MonkeyPatch.context() as patch:
        # It takes metrics only; that it refuses spans is seen in a metric.
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "300")
        with metered_stack(tmp_path_factory.mktemp("metered")) as running:
            yield running


@pytest.fixture(scope="module")
def load(stack: MeteredStack) -> Load:
    """Everything has come to rest when this returns."""
    load = stack.load("first")
    wait_until(lambda: stack.scrape("scheduler").value("tiercel_kv_transfers_in_flight") == 0, "nothing moves")
    return load


def series_of(spec: MetricSpec) -> str:
    return f"{spec.prometheus_name}_count" if spec.kind is MetricKind.HISTOGRAM else spec.prometheus_name


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("load")
def test_every_documented_metric_is_there_with_its_labels(stack: MeteredStack, role: str) -> None:
    found = stack.scrape(role)
    for spec in (*TABLES[role], *TABLES["common"]):
        samples = found.samples(series_of(spec))
        assert samples, series_of(spec)
        assert set(samples[0].labels) == set(spec.prometheus_labels), spec.name
        assert all(sample.value >= 0 for sample in samples)
    ours = {name for name in found.names() if name.startswith(("tiercel_", "gen_ai_"))}
    documented = {spec.prometheus_name for spec in (*TABLES[role], *TABLES["common"])}
    assert {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in ours} <= documented


def test_the_front_doors_figures_are_those_of_the_requests(stack: MeteredStack, load: Load) -> None:
    found = stack.scrape("tokenizer")
    assert all(load.cached_tokens.values()), f"the load must hit every tier: {load.cached_tokens}"
    assert found.value("tiercel_requests_total") == load.num_requests
    assert found.value("tiercel_requests_total", outcome="refused") == load.num_refused
    assert found.value("tiercel_refusals_total", reason="InvalidRequest") == load.num_refused
    assert found.value("tiercel_tokens_total", gen_ai_token_type="input") == load.input_tokens
    assert found.value("tiercel_tokens_total", gen_ai_token_type="output") == load.output_tokens
    for tier, num_tokens in load.cached_tokens.items():
        assert found.value("tiercel_cached_tokens_total", tier=tier) == num_tokens
    num_finished = load.num_requests - load.num_refused
    assert found.value("gen_ai_server_time_to_first_token_seconds_count") == num_finished
    assert found.value("gen_ai_server_request_duration_seconds_count", error_type="") == num_finished
    for tenant in ("acme", "globex"):
        assert found.value("tiercel_tenant_requests_total", tenant=tenant, outcome="length") == 4
    # The traced requests are a part of all, so no sum can be below theirs.
    traced_s = sum(report.e2e_ns for report in load.reports) / 1e9
    assert found.value("gen_ai_server_request_duration_seconds_sum") > traced_s


def test_the_schedulers_figures_are_those_of_the_status_and_of_the_requests(stack: MeteredStack, load: Load) -> None:
    found, status = stack.scrape("scheduler"), stack.worker_status()
    assert found.value("tiercel_steps_total") == status["steps"]
    assert found.value("tiercel_computed_prompt_tokens_total") == status["prompt_tokens"]
    assert found.value("tiercel_computed_completion_tokens_total") == status["completion_tokens"] >= load.output_tokens
    assert found.value("tiercel_preemptions_total") == status["preemptions"]
    assert found.value("tiercel_requests_running") == status["running"] == 0
    for tier in status["tiers"]:
        name = tier["tier"]
        assert found.value("tiercel_kv_hit_tokens_total", tier=name) == tier["hit_tokens"] == load.cached_tokens[name]
        assert found.value("tiercel_kv_evicted_blocks_total", tier=name) == tier["evicted_blocks"]
        assert found.value("tiercel_kv_blocks", tier=name, state="cached") == tier["cached_blocks"]
        assert found.value("tiercel_kv_capacity", tier=name) == tier["capacity_blocks"]
        assert found.value("tiercel_kv_lookup_tokens_total") == tier["lookup_tokens"] == load.input_tokens
        assert 0 <= found.value("tiercel_kv_usage_ratio", tier=name) <= 1
    for move in status["moves"]:
        series = {"move": move["move"]}
        assert found.value("tiercel_kv_transfers_total", **series) == move["transfers"] > 0
        assert found.value("tiercel_kv_transfer_blocks_total", **series) == move["blocks"]
        assert found.value("tiercel_kv_transfer_io_bytes_total", **series) == move["bytes"] > 0
        copied_s = found.value("tiercel_kv_transfer_copy_time_seconds_total", **series)
        assert copied_s == pytest.approx(move["copy_ns"] / 1e9)
        assert found.value("tiercel_kv_transfer_failures_total", **series) == move["failed_transfers"]


def test_the_workers_steps_are_those_that_the_scheduler_planned(stack: MeteredStack, load: Load) -> None:
    found, status = stack.scrape("worker"), stack.worker_status()
    assert found.value("tiercel_step_duration_seconds_count") == status["steps"]
    assert found.value("tiercel_step_gap_seconds_count") == status["back_to_back_steps"]
    # Every prompt token that no tier had, and every sampled one but the last of each answer, is computed in some step.
    least = load.input_tokens - sum(load.cached_tokens.values())
    assert found.value("tiercel_step_tokens_sum") >= least
    assert found.value("tiercel_worker_info", model="demo", kv_dtype="fp8") == 1
    assert found.value("tiercel_kv_tier_works", tier="disk") == 1
    assert found.value("tiercel_kv_disk_corrupt_records_total") == 0


def request_lines(stack: MeteredStack) -> list[dict[str, Any]]:
    """What the front door has logged of requests."""
    (log,) = stack.log_dir.glob("tokenizer-*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["message"].startswith("request ")]


@pytest.mark.parametrize(("histogram", "figure"), [("request_duration", "e2e_ms"), ("time_to_first_token", "ttft_ms")])
@pytest.mark.usefixtures("load")
def test_an_exemplar_leads_to_the_request_that_took_so_long(stack: MeteredStack, histogram: str, figure: str) -> None:
    by_trace = {line["trace_id"]: line for line in request_lines(stack)}
    exemplars = list(stack.scrape("tokenizer").exemplars(f"gen_ai_server_{histogram}_seconds"))
    assert exemplars
    for exemplar in exemplars:
        line = by_trace[exemplar.labels["trace_id"]]
        if line["message"] == "request finished":
            assert line["span_id"] == exemplar.labels["span_id"]
            assert exemplar.value * 1e3 == pytest.approx(line[figure], abs=0.001)


def test_the_status_and_the_ready_file_name_the_same_addresses(stack: MeteredStack) -> None:
    shown = {service["role"]: service["metrics_address"] for service in stack.status()["services"]}
    assert {role: [address] for role, address in shown.items()} == stack.metrics
    assert set(shown) == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("load")
def test_the_same_metrics_arrive_at_a_collector(stack: MeteredStack, receiver: MetricsReceiver, role: str) -> None:
    latest = receiver.latest(f"tiercel-{role}")
    expected = {spec.name for spec in (*TABLES[role], *TABLES["common"])}
    assert latest.keys() == expected
    if role == "scheduler":
        steps = stack.scrape("scheduler").value("tiercel_steps_total")
        wait_until(
            lambda: (
                sum(p.as_int for p in receiver.latest("tiercel-scheduler")["tiercel.steps"].sum.data_points) == steps
            ),
            "the collector has the present number of steps",
        )


@pytest.mark.usefixtures("load")
def test_exemplars_arrive_at_a_collector(stack: MeteredStack, receiver: MetricsReceiver) -> None:
    histogram = receiver.latest("tiercel-tokenizer")["gen_ai.server.request.duration"].histogram
    exemplars = [exemplar for point in histogram.data_points for exemplar in point.exemplars]
    assert exemplars
    assert {exemplar.trace_id.hex() for exemplar in exemplars} <= {line["trace_id"] for line in request_lines(stack)}
    for point in histogram.data_points:
        assert sum(point.bucket_counts) == point.count


def test_spans_that_the_collector_does_not_take_are_counted(stack: MeteredStack) -> None:
    spans = stack.scrape("tokenizer").samples("tiercel_telemetry_spans_total")
    assert {sample.labels["result"] for sample in spans} == {"exported", "dropped", "failed"}
    assert stack.scrape("tokenizer").value("tiercel_telemetry_spans_total", result="exported") == 0


def test_log_lines_are_json_and_those_of_traced_requests_name_their_trace(stack: MeteredStack, load: Load) -> None:
    lines = [json.loads(line) for log in stack.log_dir.glob("*.log") for line in log.read_text().splitlines()]
    assert {line["service"] for line in lines} == set(ROLES)
    about = request_lines(stack)
    assert all(line["request_id"] and len(line["trace_id"]) == 32 for line in about)
    finished = [line for line in about if line["message"] == "request finished"]
    assert len(finished) == load.num_requests - load.num_refused
    assert load.trace_ids <= {line["trace_id"] for line in finished}
    by_id = {line["request_id"]: line for line in finished}
    for report in load.reports:
        assert by_id[report.request_id]["e2e_ms"] == round(report.e2e_ns / 1e6, 3)
        assert by_id[report.request_id]["trace_id"] == report.trace_id
    refused = [line for line in about if line["message"] == "request refused"]
    assert {line["kind"] for line in refused} == {"InvalidRequest"}
    assert len(refused) == load.num_refused
