"""Logs are JSON lines in a pipe and readable lines at a terminal."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from services.common import logs
from services.common.config import LogFormat


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_pipe_gets_one_json_object_per_line() -> None:
    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    log = logs.get_logger("services.example")
    log.info("model loaded", extra=logs.fields(model="demo", blocks=7))
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("step failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first["service"] == "worker"
    assert first["level"] == "info"
    assert first["message"] == "model loaded"
    assert (first["model"], first["blocks"]) == ("demo", 7)
    assert "ValueError: broken" in second["exception"]


def test_a_terminal_gets_readable_lines() -> None:
    stream = Terminal()
    logs.configure("scheduler", stream=stream)
    logs.get_logger("services.example").warning("worker lost", extra=logs.fields(worker="127.0.0.1:1"))
    line = stream.getvalue()
    assert "WARNING" in line
    assert line.rstrip().endswith("scheduler  worker lost  worker=127.0.0.1:1")


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_lines_of_a_request_carry_its_id_and_trace_and_others_do_not() -> None:
    stream = io.StringIO()
    logs.configure("tokenizer", stream=stream)
    log = logs.get_logger("services.example")
    with logs.of_request("r-1", TRACEPARENT):
        log.info("request finished", extra=logs.fields(tokens=3))
        with logs.of_request("r-2"):
            log.info("another")
        # Also of libraries that know nothing of all this.
        logging.getLogger("some.library").warning("odd")
    log.info("idle")
    first, other, library, idle = (json.loads(line) for line in stream.getvalue().splitlines())
    about = {
        "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
    }
    assert about.items() <= first.items()
    assert first["tokens"] == 3
    assert (other["request_id"], "trace_id" in other) == ("r-2", False)
    assert about.items() <= library.items()
    assert not about.keys() & idle.keys()


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-short-00f067aa0ba902b7-01"])
def test_a_request_without_a_good_trace_context_has_its_id_alone(traceparent: str) -> None:
    stream = io.StringIO()
    logs.configure("tokenizer", stream=stream)
    with logs.of_request("r-1", traceparent):
        logs.get_logger("x").info("m")
    line = json.loads(stream.getvalue())
    assert line["request_id"] == "r-1"
    assert "trace_id" not in line


@pytest.mark.parametrize(
    ("log_format", "stream", "is_json"),
    [
        (LogFormat.JSON, Terminal(), True),
        (LogFormat.CONSOLE, io.StringIO(), False),
        (LogFormat.AUTO, Terminal(), False),
        (LogFormat.AUTO, io.StringIO(), True),
    ],
)
def test_the_config_says_what_lines_look_like(log_format: LogFormat, stream: io.StringIO, is_json: bool) -> None:
    logs.configure("worker", log_format, stream)
    logs.get_logger("x").info("model loaded", extra=logs.fields(blocks=7))
    line = stream.getvalue()
    assert line.startswith("{") is is_json
    if not is_json:
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO {4}worker  model loaded  blocks=7\n", line)
