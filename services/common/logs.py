"""Structured logs to stderr: readable lines at a terminal, one JSON object per line otherwise."""

import datetime
import json
import logging
import sys
from collections.abc import Mapping
from typing import TextIO

_FIELDS = "tiercel_fields"


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


def fields(**values: object) -> dict[str, Mapping[str, object]]:
    """For `extra=`: `log.info("worker lost", extra=fields(address=address))`."""
    return {_FIELDS: values}


def configure(service: str, stream: TextIO | None = None) -> None:
    """Send the process's logs, from INFO up, to `stream` (stderr). Called once, by the command of a service."""
    target = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(ConsoleFormatter(service) if target.isatty() else JsonFormatter(service))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # transformers and the hub client tell of their inner workings at INFO.
    for chatty in ("httpx", "httpcore", "huggingface_hub", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


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
