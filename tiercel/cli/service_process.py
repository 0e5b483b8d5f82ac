"""One service as a child process: start, announcements, health, end."""

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tiercel.cli import health, launch
from tiercel.cli.announcements import Announcements
from tiercel.cli.log_file import LogFile
from tiercel.cli.progress import StackEvent, Step
from tiercel.cli.stack_record import ProcessId
from tiercel.cli.stack_spec import Role

CRASH_WINDOW_S = 60.0
MAX_DEATHS = 5
_LAST_LINES = 8


class ServiceProcess:
    """A service and its present process, if it has one. Belongs to the supervisor's loop.

    The address is set by the first process that listens and kept by those that come after it.
    """

    def __init__(
        self, name: str, role: Role, log: LogFile, run_dir: Path, tls_ca: Path | None, on_change: Callable[[], None]
    ) -> None:
        self.name = name
        self.role = role
        self.log = log
        self.address = ""
        self.metrics_address = ""
        """Of `/metrics`, as the present process says; empty: none."""
        self.listening = asyncio.Event()
        self.is_serving = False
        self.was_serving = False
        """Whether it has ever been ready."""
        self.identity: ProcessId | None = None
        self.process: asyncio.subprocess.Process | None = None
        self._pipe_path = run_dir / f"{name}.announce"
        self._tls_ca = tls_ca
        self._on_change = on_change
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._num_deaths_before_serving = 0

    @property
    def port(self) -> int:
        """What to tell a process to listen on: 0 until the first one has chosen."""
        return int(self.address.rpartition(":")[2]) if self.address else 0

    async def run(self, command: list[str], report: Callable[[StackEvent], None]) -> int:
        """Runs one process to its end and returns its exit code, negative for a signal."""
        announcements = Announcements(self._pipe_path)
        follow: asyncio.Task[None] | None = None
        try:
            process = await self._spawn([*command, "--announce", str(self._pipe_path)])
            report(StackEvent(Step.STARTED, f"starting (pid {process.pid})", self.name))
            follow = asyncio.create_task(self._follow(announcements, report))
            return await process.wait()
        finally:
            if follow is not None:
                follow.cancel()
                await asyncio.gather(follow, return_exceptions=True)
            announcements.close()
            self._set_serving(False)

    async def _spawn(self, command: list[str]) -> asyncio.subprocess.Process:
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(int(signal.SIGKILL)), str(os.getpid())]
        output = self.log.open_for_child()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *launcher,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A Ctrl-C at the terminal reaches the supervisor alone, which stops the services in order.
                start_new_session=True,
            )
        finally:
            os.close(output)
        self.identity = ProcessId.of(self.process.pid)
        return self.process

    async def _follow(self, announcements: Announcements, report: Callable[[StackEvent], None]) -> None:
        watching: asyncio.Task[None] | None = None
        try:
            async for event in announcements:
                match event:
                    case {"event": "listening", "address": str(address)}:
                        self.address = address
                        self.metrics_address = str(event.get("metrics", ""))
                        self.listening.set()
                        watching = watching or asyncio.create_task(self._watch_health(report))
                    case {"event": "loading", "loaded_bytes": int(loaded), "total_bytes": int(total)}:
                        share = 100 * loaded // max(total, 1)
                        text = f"loading weights, {share} %"
                        report(StackEvent(Step.LOADING, text, self.name, loaded_bytes=loaded, total_bytes=total))
                    case _:
                        pass
        finally:
            if watching is not None:
                watching.cancel()

    async def _watch_health(self, report: Callable[[StackEvent], None]) -> None:
        async for is_serving in health.watch(reachable(self.address), self._tls_ca):
            if is_serving and not self.is_serving:
                report(StackEvent(Step.SERVING, f"ready on {self.address}", self.name))
            self._set_serving(is_serving)

    def _set_serving(self, is_serving: bool) -> None:
        if is_serving == self.is_serving:
            return
        self.is_serving = is_serving
        if is_serving:
            self.was_serving = True
            self._num_deaths_before_serving = 0
        self._on_change()

    def signal(self, number: signal.Signals) -> None:
        """To the present process, if it is alive. SIGKILL also reaches what it has started."""
        if self.process is None or self.process.returncode is not None:
            return
        try:
            if number is signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        except ProcessLookupError:
            return

    def count_death(self) -> None:
        self._deaths.append(time.monotonic())
        self._num_deaths_before_serving += 1

    @property
    def num_recent_deaths(self) -> int:
        now = time.monotonic()
        return sum(now - death < CRASH_WINDOW_S for death in self._deaths)

    def is_hopeless(self) -> bool:
        """Five deaths within a minute, or five in a row without having been ready in between."""
        return max(self.num_recent_deaths, self._num_deaths_before_serving) >= MAX_DEATHS

    def last_lines(self) -> list[str]:
        return self.log.last_lines(_LAST_LINES)


def reachable(address: str) -> str:
    """An address to dial, for a service that listens on all of them."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": f"127.0.0.1:{port}", "[::]": f"[::1]:{port}"}.get(host, address)


def cause_of(exit_code: int) -> str:
    """`killed by SIGKILL`, or `exit code 1`."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
