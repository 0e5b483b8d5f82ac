"""Logs are JSON lines in a pipe and readable lines at a terminal."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from services.common import logs


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
