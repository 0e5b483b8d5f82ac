"""`infer-cli chat`: a conversation, at a terminal or line by line through a pipe."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tiercel.cli.console import Consoles
from tiercel.cli.failure import EXIT_FAILED
from tiercel.cli.generate import given_options
from tiercel.cli.target import Address, borrowed_stack
from tiercel.cli.values import BoundedFloat, Target
from tiercel.client import ChatMessage, Client, Delta, GenerateOptions
from tiercel.errors import TiercelError

HELP = """/reset          forget the conversation, keep the system message
/system TEXT    set the system message and begin anew; without TEXT: none
/help           this list
/exit           leave; so does Ctrl-D. Ctrl-C stops an answer"""


@click.command()
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens of each answer at most.")
@click.option("--temperature", type=BoundedFloat(0), help="0 is greedy; default 1.")
@click.option("--top-p", type=BoundedFloat(0, 1, above_minimum=True), help="Nucleus; default 1.")
@click.option("--top-k", type=click.IntRange(min=0), help="0, the default, is off.")
@click.option("--min-p", type=BoundedFloat(0, 1), help="Of the likeliest token's probability; default 0.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answers.")
@click.option("--stop", multiple=True, help="End an answer before this text; may be given several times.")
@click.option("--model", metavar="PATH|HUB_ID|demo", help="What to serve where no stack is running; default demo.")
@click.option("--target", type=Target(), help="The stack to ask, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on.")
@click.pass_obj
def chat(
    consoles: Consoles,
    /,
    system: str | None,
    model: str | None,
    target: str | None,
    port: int | None,
    ca: Path | None,
    **sampling: Any,
) -> int:
    """Talk with the model; it sees the whole conversation each time. From a pipe, each line is a turn."""
    with borrowed_stack(Address(target, port, ca), model, consoles.err) as client:
        return Conversation(consoles, client, given_options(sampling), system).run()


class Conversation:
    """Turns so far, and the commands that change them."""

    def __init__(self, consoles: Consoles, client: Client, options: GenerateOptions, system: str | None) -> None:
        self._consoles = consoles
        self._client = client
        self._options = options
        self._messages: list[ChatMessage] = []
        self._num_failed = 0
        self._begin(system)

    def run(self) -> int:
        """Until the input ends or /exit. From a pipe, a turn that failed makes the exit code 1."""
        is_interactive = sys.stdin.isatty()
        self._consoles.note("/help lists the commands, Ctrl-D leaves")
        for line in _typed_lines(self._consoles) if is_interactive else _piped_lines():
            text = line.strip()
            if text == "/exit":
                break
            if text.startswith("/"):
                self._obey(text)
            elif text:
                self._turn(text)
        return EXIT_FAILED if self._num_failed and not is_interactive else 0

    def _begin(self, system: str | None) -> None:
        self._messages = [ChatMessage("system", system)] if system else []

    def _obey(self, command: str) -> None:
        name, _, rest = command.partition(" ")
        match name:
            case "/help":
                self._consoles.write(HELP + "\n")
            case "/reset":
                system = next((message.content for message in self._messages if message.role == "system"), None)
                self._begin(system)
                self._consoles.note("the conversation begins anew")
            case "/system":
                self._begin(rest.strip() or None)
                self._consoles.note("the conversation begins anew")
            case _:
                self._num_failed += 1
                self._consoles.error(f"{name} is not a command; /help lists them")

    def _turn(self, text: str) -> None:
        messages = [*self._messages, ChatMessage("user", text)]
        parts: list[str] = []
        try:
            with self._client.stream(messages, **self._options) as stream:
                for event in stream:
                    if isinstance(event, Delta) and event.text:
                        parts.append(event.text)
                        self._consoles.write(event.text)
            self._consoles.write("\n")
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            self._consoles.write("\n")
            self._consoles.note("stopped")
        except TiercelError as error:
            if parts:
                self._consoles.write("\n")
            self._num_failed += 1
            self._consoles.error(error.message)
            return
        if parts:
            self._messages = [*messages, ChatMessage("assistant", "".join(parts))]


def _piped_lines() -> Iterator[str]:
    yield from sys.stdin


def _typed_lines(consoles: Consoles) -> Iterator[str]:
    import readline  # noqa: F401 - importing it gives input() line editing and history; terminals only

    while True:
        try:
            yield input("> ")
        except EOFError:
            consoles.write("\n")
            return
        except KeyboardInterrupt:
            consoles.write("\n")
            consoles.note("Ctrl-D leaves")
