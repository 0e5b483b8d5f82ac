"""`infer-cli cache`: what is in the tiers, whether it is sound, and what shall be or stay there."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tiercel.cli.cache_tables import Workers, disk_table, namespace_table, pinned_table, show_notes, show_tiers
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.prefix_file import Prefix, read_prefixes
from tiercel.cli.target import Address, running_stack
from tiercel.cli.values import Target, shown_bytes
from tiercel.cli.warming import Warmed, keep, warm
from tiercel.client import CareNote, Client
from tiercel.errors import TiercelError

Command = TypeVar("Command", bound=Callable[..., Any])

_MAX_SHOWN = 20
"""Bad records, by name. `--json` has all."""


@click.group(name="cache")
def cache() -> None:
    """Look at the cache, check it, fill it ahead of traffic, keep prefixes, empty it."""


def _of_a_stack(command: Command) -> Command:
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


def _client(target: str | None, port: int | None, ca: Path | None) -> Client:
    client = running_stack(Address(target, port, ca))
    if client is None:
        raise CommandFailed("no stack is running; start one with `infer-cli up`")
    return client


@cache.command()
@_of_a_stack
@click.pass_obj
def stats(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """Sizes, use, hit rates, speeds and ages, by tier and by namespace."""
    with _client(target, port, ca) as client:
        workers, report = _workers(client), client.cache()
        if as_json:
            rows = [
                {
                    "worker": address,
                    "block_bytes": worker.block_bytes,
                    "tiers": [asdict(tier) for tier in worker.tiers],
                    "moves": [{**asdict(move), "bytes_per_s": move.bytes_per_s} for move in worker.moves],
                }
                for address, worker in workers
            ]
            _write_json(consoles, {"target": client.target, "workers": rows, **asdict(report)})
        else:
            show_tiers(consoles.out, workers)
            if report.disks:
                consoles.out.print(disk_table(report.disks))
                consoles.out.print(namespace_table(report.disks))
            told = {(address, tier.note) for address, worker in workers for tier in worker.tiers}
            untold = tuple(note for note in report.without_disk if (note.worker, note.message) not in told)
            show_notes(consoles.out, _notes(untold, report.failures))
    return 1 if report.failures else 0


@cache.command()
@_of_a_stack
@click.pass_obj
def ls(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """What is on disk, by namespace, and what is pinned."""
    with _client(target, port, ca) as client:
        report = client.cache()
        if as_json:
            _write_json(consoles, {"target": client.target, **asdict(report)})
        else:
            if report.disks:
                consoles.out.print(namespace_table(report.disks))
            if report.pinned:
                consoles.out.print(pinned_table(report.pinned))
            else:
                consoles.out.print("nothing is pinned", highlight=False)
            show_notes(consoles.out, _notes(report.without_disk, report.failures))
    return 1 if report.failures else 0


@cache.command()
@_of_a_stack
@click.pass_obj
def verify(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """Read every record on disk and say what is wrong with which. Ends with 1 if anything is."""
    with _client(target, port, ca) as client, _progress(consoles) as progress:
        tasks = {}

        def on_progress(worker: str, num_done: int, num_records: int) -> None:
            if worker not in tasks:
                tasks[worker] = progress.add_task(f"verifying the disk of {worker}")
            progress.update(tasks[worker], completed=num_done, total=num_records)

        found = client.verify_cache(on_progress)
    _require_disk(found.disks or found.failures, found.without_disk)
    if as_json:
        _write_json(consoles, {"target": client.target, "is_sound": found.is_sound, **asdict(found)})
        return 0 if found.is_sound else 1
    for bad in found.bad_records[:_MAX_SHOWN]:
        _say(consoles, f"bad record {bad.key} of namespace {bad.namespace[:12]}: {bad.fault}")
    if len(found.bad_records) > _MAX_SHOWN:
        _say(consoles, f"and {len(found.bad_records) - _MAX_SHOWN} more; --json names all")
    for disk in found.disks:
        for fault in disk.index_faults:
            _say(consoles, f"the index contradicts itself: {fault}")
        wrong = disk.bad_records + len(disk.index_faults)
        verdict = f"{wrong} faults" if wrong else "all sound"
        _say(consoles, f"{disk.worker}: {disk.records} records, {shown_bytes(disk.bytes)} read, {verdict}")
    show_notes(consoles.out, _notes((), found.failures))
    if found.bad_records:
        _say(consoles, "a bad record is never served: the next request for it drops it and computes the block again")
    return 0 if found.is_sound else 1


@cache.command(name="warm")
@click.argument("file")
@_of_a_stack
@click.pass_obj
def warm_file(
    consoles: Consoles, file: str, as_json: bool, target: str | None, port: int | None, ca: Path | None
) -> int:
    """Compute the prefixes in FILE ahead of traffic and bring them to host memory and disk.

    One prefix a line, as plain text, or as JSON objects with "text", "token_ids" or "messages", and "cache_salt" if
    wanted; `-` is standard input.
    """
    prefixes = read_prefixes(file)
    with _client(target, port, ca) as client:
        _warn_of_missing_tiers(consoles, client)
        with _progress(consoles) as progress:
            task = progress.add_task("warming", total=len(prefixes))
            warmed = warm(client, prefixes, lambda: progress.advance(task))
            progress.update(task, description="bringing them down")
            warmed.is_settled = client.settle_cache()
    _show_warmed(consoles, warmed, as_json, client.target)
    return 1 if warmed.refused else 0


@cache.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--remove", is_flag=True, help="Pin it no longer.")
@_of_a_stack
@click.pass_obj
def pin(
    consoles: Consoles,
    name: str,
    file: str | None,
    remove: bool,
    as_json: bool,
    target: str | None,
    port: int | None,
    ca: Path | None,
) -> int:
    """Keep the prefixes in FILE under NAME: in host memory and on disk, whatever else is asked for.

    FILE is as for `warm`. Pins last as long as the stack runs; what they brought to disk outlives it.
    """
    if remove == (file is not None):
        raise click.UsageError("give FILE to pin its prefixes under NAME, or --remove to pin NAME no longer")
    prefixes = [] if file is None else read_prefixes(file)
    with _client(target, port, ca) as client:
        pinned = list(dict.fromkeys(each.name for each in client.cache().pinned))
        if remove:
            if not client.unpin(name):
                others = f"pinned are: {', '.join(pinned)}" if pinned else "nothing is pinned"
                raise CommandFailed(f"{name!r} is not pinned; {others}")
            if as_json:
                _write_json(consoles, {"target": client.target, "unpinned": name})
            else:
                _say(consoles, f"{name} is pinned no longer")
            return 0
        if name in pinned:
            raise CommandFailed(f"{name!r} is pinned already; choose another name, or first give it up with --remove")
        warmed = _pin(consoles, client, name, prefixes)
    _show_warmed(consoles, warmed, as_json, client.target)
    return 0


@cache.command()
@click.option("--all", "all_namespaces", is_flag=True, help="Of all models and KV formats in the directory.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_of_a_stack
@click.pass_obj
def clear(
    consoles: Consoles,
    all_namespaces: bool,
    yes: bool,
    as_json: bool,
    target: str | None,
    port: int | None,
    ca: Path | None,
) -> int:
    """Delete what the served model has on disk, and give up all pins.

    What is on the device and in host memory stays there until something else needs the room.
    """
    with _client(target, port, ca) as client:
        if not yes:
            _ask_first(client, all_namespaces)
        found = client.clear_cache(all_namespaces=all_namespaces)
    if as_json:
        _write_json(consoles, {"target": client.target, **asdict(found)})
    else:
        for disk in found.disks:
            _say(consoles, f"{disk.worker}: {disk.records} records deleted from disk")
        if found.unpinned:
            _say(consoles, f"pinned no longer: {', '.join(found.unpinned)}")
        show_notes(consoles.out, _notes(found.without_disk, found.failures))
    return 1 if found.failures else 0


def _ask_first(client: Client, all_namespaces: bool) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("clear asks before it deletes, and there is no terminal to ask at; give --yes")
    report = client.cache()
    chosen = [
        (disk.directory, namespace)
        for disk in report.disks
        for namespace in disk.namespaces
        if namespace.is_served or all_namespaces
    ]
    records = sum(namespace.records for _, namespace in chosen)
    size = shown_bytes(sum(namespace.payload_bytes for _, namespace in chosen))
    where = ", ".join(dict.fromkeys(directory for directory, _ in chosen)) or "no disk"
    num_pins = len({each.name for each in report.pinned})
    if not click.confirm(f"Delete {records} records ({size}) in {where} and give up {num_pins} pins?", err=True):
        raise CommandFailed("nothing was deleted")


def _pin(consoles: Consoles, client: Client, name: str, prefixes: list[Prefix]) -> Warmed:
    """All of them or none."""
    warmed = Warmed()
    with _progress(consoles) as progress:
        task = progress.add_task("pinning", total=len(prefixes))
        for prefix in prefixes:
            try:
                warmed.add(keep(client, prefix, name))
            except BaseException as error:
                client.unpin(name)
                if isinstance(error, TiercelError):
                    raise CommandFailed(f"line {prefix.line}: {error.message}; nothing was pinned") from None
                raise
            progress.advance(task)
        progress.update(task, description="bringing them down")
        warmed.is_settled = client.settle_cache()
    return warmed


def _workers(client: Client) -> Workers:
    services = client.status().services
    return [(service.address, service.worker) for service in services if service.worker is not None]


def _warn_of_missing_tiers(consoles: Consoles, client: Client) -> None:
    """People who warm a cache that keeps nothing should know."""
    for address, worker in _workers(client):
        tiers = {tier.tier: tier for tier in worker.tiers}
        for name in ("host", "disk"):
            tier = tiers.get(name)
            if tier is None or not tier.capacity_blocks:
                why = tier.note if tier is not None else "it is switched off"
                consoles.warn(f"{address} has no {name} tier to bring prefixes to: {why}")


def _show_warmed(consoles: Consoles, warmed: Warmed, as_json: bool, target: str) -> None:
    if as_json:
        content = {
            "target": target,
            "prefixes": warmed.num_prefixes,
            "prompt_tokens": warmed.prompt_tokens,
            "cached_tokens": asdict(warmed.cached),
            "computed_tokens": warmed.computed_tokens,
            "is_settled": warmed.is_settled,
            "refused": [{"line": line, "message": message} for line, message in sorted(warmed.refused.items())],
        }
        _write_json(consoles, content)
        return
    for line, message in sorted(warmed.refused.items()):
        consoles.error(f"line {line}: {message}")
    cached = warmed.cached
    _say(
        consoles,
        f"{warmed.num_prefixes} prefixes, {warmed.prompt_tokens} tokens: {cached.total} were cached "
        f"({cached.device} on the device, {cached.host} in host memory, {cached.disk} on disk), "
        f"{warmed.computed_tokens} computed",
    )
    if not warmed.is_settled:
        consoles.warn("some of it is still on its way to host memory or disk, which are slow or have no room just now")


def _require_disk(found: object, without: tuple[CareNote, ...]) -> None:
    if not found:
        raise CommandFailed("there is no disk tier: " + "; ".join(f"{note.worker} {note.message}" for note in without))


def _notes(without_disk: tuple[CareNote, ...], failures: tuple[CareNote, ...]) -> list[CareNote]:
    return [CareNote(note.worker, f"disk: {note.message}") for note in (*without_disk, *failures)]


def _progress(consoles: Consoles) -> Progress:
    """A bar at a terminal, nothing in a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=consoles.err, transient=True, disable=not consoles.err.is_terminal)


def _say(consoles: Consoles, line: str) -> None:
    consoles.out.print(line, markup=False, highlight=False, soft_wrap=True)


def _write_json(consoles: Consoles, content: dict[str, Any]) -> None:
    consoles.write(json.dumps(content, ensure_ascii=False) + "\n")
