"""How much memory this process can still have: the machine's, or what is left of a control group's (a container's)."""

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Free and reclaimable bytes, at most what the control group at `cgroup` still allows."""
    available = int(psutil.virtual_memory().available)
    room = _cgroup_room(cgroup)
    return available if room is None else max(0, min(available, room))


def _cgroup_room(cgroup: Path) -> int | None:
    """The limit less what is used, page cache counted as free; None where there is no limit to be seen."""
    try:
        if (cgroup / "memory.max").exists():
            limit = (cgroup / "memory.max").read_text().strip()
            current = int((cgroup / "memory.current").read_text())
            file_bytes = _stat(cgroup / "memory.stat", "file")
        else:
            # Version 1, where "no limit" is a number near 2^63: larger than any machine's memory.
            limit = (cgroup / "memory/memory.limit_in_bytes").read_text().strip()
            current = int((cgroup / "memory/memory.usage_in_bytes").read_text())
            file_bytes = _stat(cgroup / "memory/memory.stat", "total_cache")
        return None if limit == "max" else int(limit) - current + file_bytes
    except (OSError, ValueError):
        return None


def _stat(file: Path, name: str) -> int:
    pairs = (line.split() for line in file.read_text().splitlines())
    return next((int(pair[1]) for pair in pairs if pair[0] == name), 0)
