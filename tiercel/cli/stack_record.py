"""The note that a running stack leaves for the other commands: where it is and which processes it has."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with its start time, so that another process that was given the pid later is not taken for it."""

    pid: int
    started_unix_s: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def process(self) -> psutil.Process | None:
        """None: it is gone."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started_unix_s) < 0.05
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


@dataclass(frozen=True, slots=True)
class StackRecord:
    port: int
    target: str
    model: str
    state: str
    """starting or ready."""
    supervisor: ProcessId
    log_dir: str
    tls_ca: str | None = None
    addresses: dict[str, list[str]] = field(default_factory=dict)
    """By role."""
    services: list[ProcessId] = field(default_factory=list)

    def is_running(self) -> bool:
        return self.supervisor.process() is not None

    def leftovers(self) -> list[psutil.Process]:
        return [process for service in self.services if (process := service.process()) is not None]


def state_dir() -> Path:
    """`$XDG_STATE_HOME/tiercel`, by the XDG base directory specification."""
    root = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path there is to be ignored.
    base = Path(root) if root.startswith("/") else Path.home() / ".local" / "state"
    return base / "tiercel"


def _path(port: int) -> Path:
    return state_dir() / f"stack-{port}.json"


def save(record: StackRecord) -> None:
    write_json(_path(record.port), asdict(record))


def remove(record: StackRecord) -> None:
    """Unless another stack has taken the port, and the file, meanwhile."""
    present = _read(_path(record.port))
    if present is not None and present.supervisor == record.supervisor:
        _path(record.port).unlink(missing_ok=True)


def running_stacks() -> list[StackRecord]:
    """By port. Records of stacks that are gone are removed on the way."""
    found = []
    for path in sorted(state_dir().glob("stack-*.json")):
        record = _read(path)
        if record is None or not (record.is_running() or record.leftovers()):
            path.unlink(missing_ok=True)
        else:
            found.append(record)
    return sorted(found, key=lambda record: record.port)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """In one step: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _read(path: Path) -> StackRecord | None:
    """None for a file that is not there or is not a record of this version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        supervisor = ProcessId(**content.pop("supervisor"))
        services = [ProcessId(**service) for service in content.pop("services")]
        return StackRecord(**content, supervisor=supervisor, services=services)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
