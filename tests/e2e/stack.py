"""Starts and stops a whole stack the way a user does: `infer-cli up` as a child process."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INFER_CLI = Path(sys.executable).with_name("infer-cli")
LIMIT_S = 90
ALWAYS_BRING = Path(__file__).with_name("always_bring.toml")
"""A configuration: blocks come from whatever tier they are in, however fast the model computes."""


@dataclass(frozen=True)
class Stack:
    target: str
    ready_file: Path
    process: subprocess.Popen[bytes]
    log: Path

    def ready(self) -> dict[str, Any]:
        """What `--ready-file` says now; pids change when a service is restarted."""
        return dict(json.loads(self.ready_file.read_text()))


@contextlib.contextmanager
def running_stack(folder: Path, *flags: str) -> Iterator[Stack]:
    """A stack on a free port; on leaving it is drained and must end by itself with exit code 0."""
    ready_file, log = folder / "ready.json", folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [INFER_CLI, "up", "--port", "0", "--ready-file", ready_file, *flags], stdout=output, stderr=output
        )
    try:
        wait_for_file(ready_file, process, log)
        yield Stack(json.loads(ready_file.read_text())["target"], ready_file, process, log)
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for_file(path: Path, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 120) -> None:
    """Return when `path` exists. Polls the child meanwhile, so that its end is noticed at once."""
    waited_s = 0.0
    while not path.exists():
        try:
            code = process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            waited_s += 0.05
            if waited_s > timeout_s:
                raise TimeoutError(f"no {path.name} after {timeout_s} s:\n{log.read_text()}") from None
        else:
            raise RuntimeError(f"infer-cli up ended with {code}:\n{log.read_text()}")


@contextlib.contextmanager
def temporary_stack(*flags: str) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="tiercel-e2e-") as folder, running_stack(Path(folder), *flags) as stack:
        yield stack


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Looks again each time a moment has passed, for as long as `LIMIT_S`."""
    pause = subprocess.Popen(["sleep", str(LIMIT_S)])
    try:
        while not holds():
            if pause.poll() is not None:
                raise TimeoutError(f"not within {LIMIT_S} s: {what}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                pause.wait(timeout=0.05)
    finally:
        pause.kill()
        pause.wait()
