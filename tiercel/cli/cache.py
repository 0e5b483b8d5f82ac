"""`infer-cli cache`: what is in the tiers, whether it is sound, and what shall be or stay there."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from tiercel.cli.cache_command import of_a_stack, progress_bar, say, stack_client, workers_of, write_json
from tiercel.cli.cache_keep import pin, warm_file
from tiercel.cli.cache_tables import disk_table, namespace_table, pinned_table, show_notes, show_tiers
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.values import shown_bytes
from tiercel.client import CareNote, Client

_MAX_SHOWN = 20
"""Bad records, by name. `--json` has all."""


@click.group(name="cache")
def cache() -> None:
    """Look at the cache, check it, fill it ahead of traffic, keep prefixes, empty it."""


cache.add_command(warm_file)
cache.add_command(pin)


@cache.command()
@of_a_stack
@click.pass_obj
def stats(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """Sizes, use, hit rates, speeds and ages, by tier and by namespace."""
    with stack_client(target, port, ca) as client:
        workers, report = workers_of(client), client.cache()
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
            write_json(consoles, {"target": client.target, "workers": rows, **asdict(report)})
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
@of_a_stack
@click.pass_obj
def ls(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """What is on disk, by namespace, and what is pinned."""
    with stack_client(target, port, ca) as client:
        report = client.cache()
        if as_json:
            write_json(consoles, {"target": client.target, **asdict(report)})
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
@of_a_stack
@click.pass_obj
def verify(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """Read every record on disk and say what is wrong with which. Ends with 1 if anything is."""
    with stack_client(target, port, ca) as client, progress_bar(consoles) as progress:
        tasks = {}

        def on_progress(worker: str, num_done: int, num_records: int) -> None:
            if worker not in tasks:
                tasks[worker] = progress.add_task(f"verifying the disk of {worker}")
            progress.update(tasks[worker], completed=num_done, total=num_records)

        found = client.verify_cache(on_progress)
    _require_disk(found.disks or found.failures, found.without_disk)
    if as_json:
        write_json(consoles, {"target": client.target, "is_sound": found.is_sound, **asdict(found)})
        return 0 if found.is_sound else 1
    for bad in found.bad_records[:_MAX_SHOWN]:
        say(consoles, f"bad record {bad.key} of namespace {bad.namespace[:12]}: {bad.fault}")
    if len(found.bad_records) > _MAX_SHOWN:
        say(consoles, f"and {len(found.bad_records) - _MAX_SHOWN} more; --json names all")
    for disk in found.disks:
        for fault in disk.index_faults:
            say(consoles, f"the index contradicts itself: {fault}")
        wrong = disk.bad_records + len(disk.index_faults)
        verdict = f"{wrong} faults" if wrong else "all sound"
        say(consoles, f"{disk.worker}: {disk.records} records, {shown_bytes(disk.bytes)} read, {verdict}")
    show_notes(consoles.out, _notes((), found.failures))
    if found.bad_records:
        say(consoles, "a bad record is never served: the next request for it drops it and computes the block again")
    return 0 if found.is_sound else 1


@cache.command()
@click.option("--all", "all_namespaces", is_flag=True, help="Of all models and KV formats in the directory.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_a_stack
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
    """Give up all pins, and delete what no running request uses: on devices, in host memory and on disk."""
    with stack_client(target, port, ca) as client:
        if not yes:
            _ask_first(client, all_namespaces)
        found = client.clear_cache(all_namespaces=all_namespaces)
    if as_json:
        write_json(consoles, {"target": client.target, **asdict(found)})
    else:
        for memory in found.memory:
            in_use = f"; {memory.kept_blocks} are in use" if memory.kept_blocks else ""
            say(
                consoles,
                f"{memory.worker}: {memory.device_blocks} blocks dropped on the device, {memory.host_blocks} in host "
                f"memory{in_use}",
            )
        for disk in found.disks:
            say(consoles, f"{disk.worker}: {disk.records} records deleted from disk")
        if found.unpinned:
            say(consoles, f"pinned no longer: {', '.join(found.unpinned)}")
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
    asked = f"Delete {records} records ({size}) in {where}, all blocks in memory and {num_pins} pins?"
    if not click.confirm(asked, err=True):
        raise CommandFailed("nothing was deleted")


def _require_disk(found: object, without: tuple[CareNote, ...]) -> None:
    if not found:
        raise CommandFailed("there is no disk tier: " + "; ".join(f"{note.worker} {note.message}" for note in without))


def _notes(without_disk: tuple[CareNote, ...], failures: tuple[CareNote, ...]) -> list[CareNote]:
    return [CareNote(note.worker, f"disk: {note.message}") for note in (*without_disk, *failures)]
