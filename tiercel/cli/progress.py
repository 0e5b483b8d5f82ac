"""What a stack does while it starts, runs and stops, as events; and how people and pipes see them."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import IO, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from tiercel.cli.values import shown_bytes


class Step(StrEnum):
    STARTED = "started"
    LOADING = "loading"
    SERVING = "serving"
    DIED = "died"
    STACK_READY = "stack_ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StackEvent:
    step: Step
    text: str
    """A sentence for people."""
    service: str = ""
    """Such as `worker-0`; empty: the whole stack."""
    loaded_bytes: int = 0
    total_bytes: int = 0
    exit_code: int = 0
    """With FAILED: what the command should end with."""

    def as_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "StackEvent":
        content = json.loads(line)
        return cls(**{**content, "step": Step(content["step"])})


class Reporter(Protocol):
    """Takes the events of one stack in order, on one thread."""

    def report(self, event: StackEvent) -> None: ...
    def close(self) -> None: ...


def reporter_for(out: Console, err: Console) -> "Reporter":
    return TerminalReporter(out, err) if out.is_terminal else LineReporter(out, err)


class LineReporter:
    """Plain lines. Loading is told of at each quarter."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err
        self._quarters: dict[str, int] = {}

    def report(self, event: StackEvent) -> None:
        match event.step:
            case Step.LOADING:
                quarter = 4 * event.loaded_bytes // max(event.total_bytes, 1)
                if quarter > self._quarters.get(event.service, 0):
                    self._quarters[event.service] = quarter
                    self._print(self._out, event)
            case Step.DIED:
                self._quarters.pop(event.service, None)
                self._print(self._err, event)
            case Step.STACK_READY:
                self._out.print(f"ready: {event.text}", markup=False, highlight=False, soft_wrap=True)
            case Step.FAILED:
                pass  # said by whoever ends the command
            case _:
                self._print(self._out, event)

    def close(self) -> None:
        pass

    def _print(self, console: Console, event: StackEvent) -> None:
        prefix = f"{event.service}: " if event.service else ""
        console.print(prefix + event.text, markup=False, highlight=False, soft_wrap=True)


class TerminalReporter:
    """One line per service with a bar while weights load; after that, coloured lines."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err
        self._tasks: dict[str, TaskID] = {}
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        # Set until the stack is ready.
        self._progress: Progress | None = Progress(*columns, TimeElapsedColumn(), console=out, transient=True)
        self._progress.start()

    def report(self, event: StackEvent) -> None:
        match event.step:
            case Step.STARTED | Step.LOADING | Step.SERVING if event.service and self._is_starting():
                self._show(event)
            case Step.FAILED:
                self.close()
            case Step.DIED:
                self._print(self._err, f"[bold red]{escape(event.service)}[/] {escape(event.text)}")
            case Step.STACK_READY:
                self.close()
                self._print(self._out, f"[bold green]ready[/] {escape(event.text)}")
            case Step.LOADING:
                pass
            case _:
                name = f"[bold]{escape(event.service)}[/] " if event.service else ""
                self._print(self._out, name + escape(event.text))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._tasks.clear()

    def _is_starting(self) -> bool:
        return self._progress is not None

    def _show(self, event: StackEvent) -> None:
        assert self._progress is not None
        task = self._tasks.get(event.service)
        if task is None:
            task = self._tasks[event.service] = self._progress.add_task(event.service, total=None, note="")
        if event.step is Step.SERVING:
            self._progress.update(task, total=1, completed=1, note="[green]ready[/]")
        elif event.step is Step.LOADING:
            note = f"{shown_bytes(event.loaded_bytes)} of {shown_bytes(event.total_bytes)}"
            self._progress.update(task, total=event.total_bytes, completed=event.loaded_bytes, note=note)
        else:
            self._progress.update(task, total=None, note=escape(event.text))

    def _print(self, console: Console, text: str) -> None:
        if self._progress is None and text:
            console.print(text, highlight=False, soft_wrap=True)
        elif self._progress is not None:
            self._progress.console.print(text, highlight=False, soft_wrap=True)


class PipeReporter:
    """To another infer-cli that started this one in the background and shows the events until the stack is ready."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe: IO[bytes] | None = pipe

    def report(self, event: StackEvent) -> None:
        if self._pipe is None:
            return
        try:
            self._pipe.write(event.as_line())
            self._pipe.flush()
        except OSError:
            self.close()  # the other one has gone; the stack stays
        if event.step is Step.STACK_READY:
            self.close()

    def close(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                return


class SilentReporter:
    """For a pipe that should see the answer alone. What fails is raised where the stack is started."""

    def report(self, event: StackEvent) -> None:
        del event

    def close(self) -> None:
        pass
