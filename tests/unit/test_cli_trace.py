"""infer-cli trace against a fake front door: the waterfall, lists, JSON, a file for Jaeger, and how it ends."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.fakes.inference_service import FakeInference, fake_stack
from tiercel.cli.main import main
from tiercel.cli.waterfall import accounted_ns, rows_of, show_waterfall
from tiercel.client import wire
from tiercel.v1 import common_pb2, inference_pb2

MS = 1_000_000
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeInference]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with fake_stack() as service:
        service.reports = [ended("first", 100), ended("second", 40, error="Overloaded")]
        yield service


def ended(request_id: str, e2e_ms: int, error: str = "") -> inference_pb2.GetReportResponse:
    """Fetched and loaded, computed in two chunks, preempted once while it decoded."""
    phases: list[tuple[str, int, int, dict[str, int]]] = [
        ("tokenize", 0, 2, {"tokens": 64}),
        ("kv.lookup", 2, 1, {}),
        ("kv.fetch", 3, 7, {"blocks": 2, "wanted_blocks": 3, "bytes": 3 << 20, "copy_ns": 5 * MS}),
        ("kv.load", 10, 2, {"blocks": 2, "wanted_blocks": 2, "bytes": 2 << 20}),
        ("prefill", 12, 8, {"first_token": 32, "tokens": 16, "compute_ns": 7 * MS}),
        ("prefill", 20, 10, {"first_token": 48, "tokens": 16, "compute_ns": 9 * MS}),
        ("decode", 30, 60, {"tokens": 21}),
        ("queue", 40, 5, {"number": 7}),
        ("prefill", 45, 15, {"number": 8, "tokens": 70}),
        ("transit", 90, 4, {}),
        ("detokenize", 94, 6, {}),
    ]
    report = common_pb2.RequestReport(
        request_id=request_id,
        model="fake",
        worker="127.0.0.1:1",
        e2e_ns=e2e_ms * MS,
        ttft_ns=31 * MS,
        schedule_ns=88 * MS,
        received_unix_ns=1_700_000_000_000 * MS,
        trace_id="ab" * 16,
        error=error,
        error_message="too much to do" if error else "",
        preemptions=1,
    )
    for name, start_ms, length_ms, fields in phases:
        report.phases.add(name=name, start_ns=start_ms * MS, duration_ns=length_ms * MS, **fields)
    report.preemption_events.add(choice=0, at_ns=40 * MS, computed_tokens=70)
    usage = common_pb2.Usage(
        prompt_tokens=64, completion_tokens=21, cached_tokens=common_pb2.CachedTokens(device=0, host=0, disk=32)
    )
    return inference_pb2.GetReportResponse(report=report, usage=usage)


def test_the_waterfall_is_plain_in_a_pipe_and_says_what_each_phase_was_about(
    server: FakeInference, capsys: Captured
) -> None:
    assert main(["trace", "first", "--target", server.address]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert "100.0 ms, first token after 31.0 ms" in lines[0]
    assert "32 found in the cache (50 %): 32 on disk" in lines[1]
    by_name = {line.split()[0]: line for line in lines if line}
    assert "2 of 3 blocks from disk, 3.0 MiB" in by_name["kv.fetch"]
    assert "7.0 %" in by_name["kv.fetch"]
    assert "21 tokens, 3.00 ms each" in by_name["decode"]
    assert any(line.startswith("  queue") for line in lines), "what is within decode is indented"
    assert "70 tokens given up" in by_name["!"]
    assert "100.0 %" in lines[-1]


def test_bars_lie_where_the_phases_do() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    show_waterfall(console, wire.ended_request(ended("first", 100)))
    drawn = [re.search("[▏▎▍▌▋▊▉█]", line) for line in console.export_text().splitlines()]
    starts = [found.start() for found in drawn if found is not None]
    assert len(starts) == 11
    assert starts == sorted(starts)
    assert starts[0] < starts[6] < starts[-1]


def test_at_a_terminal_it_has_colour() -> None:
    console = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    show_waterfall(console, wire.ended_request(ended("first", 100)))
    assert "\x1b[" in console.export_text(styles=True)


def test_what_lies_within_decode_is_not_counted_twice() -> None:
    report = wire.ended_request(ended("first", 100)).report
    assert accounted_ns(report) == 100 * MS
    assert [row.phase.name for row in rows_of(report) if row.is_nested] == ["queue", "prefill"]


def test_a_list_of_the_slowest(server: FakeInference, capsys: Captured) -> None:
    assert main(["trace", "--slowest", "2", "--target", server.address]) == 0
    out = capsys.readouterr().out
    assert (server.report_lists[0].order, server.report_lists[0].limit) == (inference_pb2.REPORT_ORDER_SLOWEST, 2)
    assert "Overloaded" in out
    assert "100.0 ms" in out


def test_json_in_milliseconds(server: FakeInference, capsys: Captured) -> None:
    assert main(["trace", "first", "--json", "--target", server.address]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["request_id"], content["e2e_ms"], content["accounted_ms"]) == ("first", 100.0, 100.0)
    assert content["phases"][2] == {
        "name": "kv.fetch",
        "start_ms": 3.0,
        "duration_ms": 7.0,
        "choice": 0,
        "blocks": 2,
        "wanted_blocks": 3,
        "bytes": 3 << 20,
        "copy_ms": 5.0,
    }
    assert main(["trace", "--latest", "5", "--json", "--target", server.address]) == 0
    assert [each["request_id"] for each in json.loads(capsys.readouterr().out)["requests"]] == ["first", "second"]


def test_a_file_for_jaeger(server: FakeInference, capsys: Captured) -> None:
    assert main(["trace", "first", "--format", "jaeger", "--target", server.address]) == 0
    (found,) = json.loads(capsys.readouterr().out)["data"]
    assert found["traceID"] == "ab" * 16
    spans = {span["operationName"]: span for span in found["spans"]}
    ids = [span["spanID"] for span in found["spans"]]
    assert len(set(ids)) == len(ids)
    (root,) = [span for span in found["spans"] if not span["references"]]
    assert (root["operationName"], root["duration"]) == ("generate", 100_000)
    parents = {each["spanID"]: each["operationName"] for each in found["spans"]}
    below = {
        span["operationName"]: parents[span["references"][0]["spanID"]] for span in found["spans"] if span["references"]
    }
    assert below["schedule"] == "generate"
    assert below["kv.fetch"] == "schedule"
    assert below["queue"] == "decode"
    assert below["detokenize"] == "generate"
    assert {span["processID"] for span in found["spans"]} == set(found["processes"])
    assert spans["decode"]["logs"][1]["fields"][0]["value"] == "preempted"
    assert {"key": "tiercel.kv.blocks", "type": "int64", "value": 2} in spans["kv.fetch"]["tags"]


def test_an_unknown_request_is_a_clear_error(server: FakeInference, capsys: Captured) -> None:
    assert main(["trace", "nobody", "--target", server.address]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nobody" in captured.err
    assert "infer-cli trace" in captured.err


@pytest.mark.parametrize(
    "words", [["first", "--slowest", "3"], ["--slowest", "0"], ["--slowest", "3", "--latest", "2"]]
)
def test_what_cannot_be_meant_is_a_usage_error(server: FakeInference, capsys: Captured, words: list[str]) -> None:
    assert main(["trace", *words, "--target", server.address]) == 2
    assert "error:" in capsys.readouterr().err
