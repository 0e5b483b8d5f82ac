"""The log of one service: written by the service itself, kept small and read back by its supervisor."""

import json
import os
import shutil
from pathlib import Path

MAX_BYTES = 32 << 20
TAIL_BYTES = 16 << 10


class LogFile:
    """A file that the child appends to. One older generation is kept beside it as `.1`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run_start = 0

    def open_for_child(self) -> int:
        """A descriptor for the child's output; the caller closes it after the start."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._run_start = os.fstat(descriptor).st_size
        return descriptor

    def trim(self) -> None:
        """Move what is there to `.1` when it has grown large. A line written meanwhile may be lost."""
        if self.path.exists() and self.path.stat().st_size > MAX_BYTES:
            shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
            # The child appends, so that it goes on at the new end.
            os.truncate(self.path, 0)
            self._run_start = 0

    def last_lines(self, num_lines: int) -> list[str]:
        """The last lines that the present run wrote, readable ones: structured lines give message and error."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._run_start, size - TAIL_BYTES))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        lines = [line for raw in text.splitlines() if raw.strip() for line in _readable(raw.rstrip())]
        return lines[-num_lines:]


def _readable(line: str) -> list[str]:
    if not line.startswith("{"):
        return [line]
    try:
        entry = json.loads(line)
    except ValueError:
        return [line]
    if not isinstance(entry, dict) or "message" not in entry:
        return [line]
    plumbing = ("time", "level", "service", "logger", "message", "exception")
    details = "  ".join(f"{key}={value}" for key, value in entry.items() if key not in plumbing)
    readable = f"{entry.get('level', 'info')}: {entry['message']}" + (f"  {details}" if details else "")
    return [readable, *str(entry.get("exception", "")).splitlines()]
