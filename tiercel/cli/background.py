"""A stack in the background: its supervisor as another process, followed until the stack is ready."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tiercel.cli import launch, log_folder
from tiercel.cli.failure import EXIT_FAILED, CommandFailed
from tiercel.cli.progress import Reporter, StackEvent, Step
from tiercel.cli.stack_spec import StackSpec


@dataclass(frozen=True, slots=True)
class BackgroundStack:
    process: subprocess.Popen[bytes]
    log_dir: Path

    def stop(self) -> None:
        """Drains it and waits for its end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def start(spec: StackSpec, reporter: Reporter, dies_with_us: bool) -> BackgroundStack:
    """Starts a supervisor and returns when its stack is ready. Raises CommandFailed with what it failed of.

    `dies_with_us`: the stack is stopped when this process ends, however it ends. Interrupted meanwhile
    (KeyboardInterrupt), it stops the stack before it lets go.
    """
    log_dir = log_folder.create(spec.log_dir)
    reading, writing = os.pipe()
    command = [
        *(sys.executable, "-m", "tiercel.cli", "up", *replace(spec, log_dir=log_dir).flags()),
        *("--progress-fd", str(writing)),
    ]
    if dies_with_us:
        here = [sys.executable, "-I", "-S", launch.__file__, str(int(signal.SIGTERM)), str(os.getpid())]
        command = [*here, *command]
    with (log_dir / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(writing,)
        )
    os.close(writing)
    stack = BackgroundStack(process, log_dir)
    try:
        _follow(stack, reading, reporter)
    except BaseException:
        stack.stop()
        raise
    finally:
        reporter.close()
    return stack


def _follow(stack: BackgroundStack, reading: int, reporter: Reporter) -> None:
    failure: StackEvent | None = None
    with os.fdopen(reading, "rb") as events:
        for line in events:
            event = StackEvent.from_line(line)
            reporter.report(event)
            if event.step is Step.STACK_READY:
                return
            if event.step is Step.FAILED:
                failure = event
    exit_code = stack.process.wait()
    if failure is not None:
        raise CommandFailed(failure.text, failure.exit_code)
    raise CommandFailed(
        f"the stack ended with exit code {exit_code} before it was ready; see {stack.log_dir}/supervisor.log",
        exit_code or EXIT_FAILED,
    )


def ready_target(ready_file: Path) -> str:
    """The front door's address, as the ready file states it."""
    return str(json.loads(ready_file.read_text(encoding="utf-8"))["target"])
