"""Where a command writes: answers to stdout, everything about them to stderr. Colour and progress at terminals only."""

import sys
from dataclasses import dataclass

from rich.console import Console

PIPE_WIDTH = 240


@dataclass(frozen=True, slots=True)
class Consoles:
    out: Console
    err: Console

    def error(self, message: str) -> None:
        self.err.print("[bold red]error:[/] ", end="")
        self.err.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """The command goes on, but people should know."""
        self.err.print("[bold yellow]warning:[/] ", end="")
        self.err.print(message, markup=False, highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """For people at a terminal; a pipe does not see it."""
        if self.err.is_terminal:
            self.err.print(message, markup=False, highlight=False, soft_wrap=True, style="dim")

    def write(self, text: str) -> None:
        """A part of an answer, as it is, at once."""
        stream = self.out.file
        stream.write(text)
        stream.flush()


def standard_consoles() -> Consoles:
    for stream in (sys.stdout, sys.stderr):
        # An answer may hold any character, whatever the locale says.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    # A pipe has no width: tables keep their rows on one line there.
    out = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    return Consoles(out, Console(stderr=True))
