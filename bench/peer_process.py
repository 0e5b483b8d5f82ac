"""A library as a peer: a runner of `bench/runners` in an environment and a process of its own, spoken to in JSON lines.

`bench/runners/lines.py` states the protocol.
"""

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.records import RequestRecord
from bench.workloads import Workload

RUNNERS = Path(__file__).with_name("runners")


class PeerFailed(Exception):
    """The runner's process ended, or says that its peer failed; the message has what it wrote last."""


class ProcessPeer:
    """`python runner variant model`, from `start` to `stop`. Raises PeerFailed."""

    def __init__(self, name: str, python: Path, runner: Path, variant: str, model: Path) -> None:
        self.name = name
        self._command = [str(python), str(runner), variant, str(model)]
        self.settings = ""
        """Version of the library and what differs from its defaults; known once it has started."""

    def start(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        try:
            ready = self._receive()["ready"]
        except PeerFailed:
            self.stop()
            raise
        self.settings = f"{ready['version']}: {ready['settings']}"

    def run(self, workload: Workload) -> list[RequestRecord]:
        requests = [[request.prompt_ids, request.max_tokens] for request in workload.requests]
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"at_once": workload.at_once, "requests": requests}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed("ended") from None
        records = self._receive()["records"]
        return [RequestRecord(sent, first, last, int(num_tokens)) for sent, first, last, num_tokens in records]

    def stop(self) -> None:
        """The end of its input ends a runner; one that does not heed it is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise self._failed(f"ended with exit code {code}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise self._failed(answer["error"])
        return answer

    def _failed(self, what: str) -> PeerFailed:
        self._log.seek(0)
        last = "\n".join(self._log.read().splitlines()[-12:])
        return PeerFailed(f"{self.name}: {what}" + (f"; its last lines:\n{last}" if last else ""))
