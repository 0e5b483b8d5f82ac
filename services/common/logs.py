"""Structured logs to stderr: readable lines at a terminal, one JSON object per line otherwise, or as the config says.

After `name_request` and inside `of_request` every line carries the request's id and, where it has one, its trace
context.
"""

import contextlib
import datetime
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TextIO

from services.common.config import LogFormat

_FIELDS = "tiercel_fields"

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

_request: ContextVar[Mapping[str, object] | None] = ContextVar("tiercel_request", default=None)


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


def fields(**values: object) -> dict[str, Mapping[str, object]]:
    """For `extra=`: `log.info("worker lost", extra=fields(address=address))`."""
    return {_FIELDS: values}


def name_request(request_id: str, traceparent: str = "") -> None:
    """The rest of this task is about one request, as a call's handler is."""
    _request.set(_about(request_id, traceparent))


@contextlib.contextmanager
def of_request(request_id: str, traceparent: str = "") -> Iterator[None]:
    """Around what a callback does for one request among others."""
    token = _request.set(_about(request_id, traceparent))
    try:
        yield
    finally:
        _request.reset(token)


def _about(request_id: str, traceparent: str) -> dict[str, object]:
    about: dict[str, object] = {"request_id": request_id}
    if match := _TRACEPARENT.fullmatch(traceparent):
        about["trace_id"], about["span_id"] = match[1], match[2]
    return about


def configure(service: str, log_format: LogFormat = LogFormat.AUTO, stream: TextIO | None = None) -> None:
    """Send the process's logs, from INFO up, to `stream` (stderr). Called by the command of a service, again once it
    has read its config."""
    target = stream if stream is not None else sys.stderr
    is_for_people = target.isatty() if log_format is LogFormat.AUTO else log_format is LogFormat.CONSOLE
    handler = logging.StreamHandler(target)
    # A filter runs where the line was written, so that it finds the request even if another thread formats it.
    handler.addFilter(_note_request)
    handler.setFormatter(ConsoleFormatter(service) if is_for_people else JsonFormatter(service))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # transformers and the hub client tell of their inner workings at INFO.
    for chatty in ("httpx", "httpcore", "huggingface_hub", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _note_request(record: logging.LogRecord) -> bool:
    about = _request.get()
    if about is not None:
        setattr(record, _FIELDS, {**about, **_fields_of(record)})
    return True


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "service", "logger", "message", ...fields, "exception"?}`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time,
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_fields_of(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """`12:30:01.250 INFO  scheduler  worker ready  address=127.0.0.1:5000`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        pairs = "  ".join(f"{key}={value}" for key, value in _fields_of(record).items())
        line = f"{time} {record.levelname:<7} {self._service}  {record.getMessage()}" + (f"  {pairs}" if pairs else "")
        return line + ("\n" + self.formatException(record.exc_info) if record.exc_info else "")


def _fields_of(record: logging.LogRecord) -> Mapping[str, object]:
    values = getattr(record, _FIELDS, None)
    return values if values is not None else {}
