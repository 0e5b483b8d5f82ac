"""How a service tells its supervisor where it listens and how far it is: JSON lines appended to a file."""

import json
import os
from pathlib import Path

from engine.errors import ConfigError
from services.common import logs

_log = logs.get_logger(__name__)

_OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class Announcer:
    """Appends one JSON object per line, each in a single write, so that a reader never sees half a line.

    Events: `{"event": "listening", "address": "127.0.0.1:50051", "metrics": "127.0.0.1:9464", "pid": 1}` (`metrics` is
    empty where they are switched off), `{"event": "loading", "loaded_bytes": 1, "total_bytes": 2}`,
    `{"event": "ready"}` and `{"event": "draining"}`. Without a path nothing is written.

    The path may be a FIFO that somebody reads; a reader that leaves or does not keep up gets nothing more and stops
    nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._descriptor: int | None = None
        if path is not None:
            try:
                self._descriptor = os.open(path, _OPEN_FLAGS, 0o644)
            except OSError as error:
                raise ConfigError(f"cannot write the announce file {path}: {error.strerror}") from error

    def listening(self, address: str, metrics_address: str) -> None:
        self._append({"event": "listening", "address": address, "metrics": metrics_address, "pid": os.getpid()})

    def loading(self, loaded_bytes: int, total_bytes: int) -> None:
        self._append({"event": "loading", "loaded_bytes": loaded_bytes, "total_bytes": total_bytes})

    def ready(self) -> None:
        self._append({"event": "ready"})

    def draining(self) -> None:
        self._append({"event": "draining"})

    def _append(self, event: dict[str, object]) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(event).encode() + b"\n")
        except OSError as error:
            _log.warning("announcements end", extra=logs.fields(reason=error.strerror))
            self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
