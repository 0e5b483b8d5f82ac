"""What the commands of `infer-cli cache` have in common: which stack they mean, and how they show what they do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tiercel.cli.cache_tables import Workers
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.target import Address, running_stack
from tiercel.cli.values import Target
from tiercel.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])


def of_a_stack(command: Command) -> Command:
    """Adds the options that say which stack is meant."""
    for option in (
        click.option(
            "--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on."
        ),
        click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine."),
        click.option("--target", type=Target(), help="The stack to ask, by its address."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object."),
    ):
        command = option(command)
    return command


def stack_client(target: str | None, port: int | None, ca: Path | None) -> Client:
    client = running_stack(Address(target, port, ca))
    if client is None:
        raise CommandFailed("no stack is running; start one with `infer-cli up`")
    return client


def workers_of(client: Client) -> Workers:
    services = client.status().services
    return [(service.address, service.worker) for service in services if service.worker is not None]


def progress_bar(consoles: Consoles) -> Progress:
    """A bar at a terminal, nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=consoles.err, transient=True, disable=not consoles.err.is_terminal)


def say(consoles: Consoles, line: str) -> None:
    consoles.out.print(line, markup=False, highlight=False, soft_wrap=True)


def write_json(consoles: Consoles, content: dict[str, Any]) -> None:
    consoles.write(json.dumps(content, ensure_ascii=False) + "\n")
