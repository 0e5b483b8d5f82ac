"""`infer-cli cache warm` and `pin`: what shall be in the cache ahead of traffic, and stay there."""

from dataclasses import asdict
from pathlib import Path

import click

from tiercel.cli.cache_command import of_a_stack, progress_bar, say, stack_client, workers_of, write_json
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.prefix_file import Prefix, read_prefixes
from tiercel.cli.warming import Warmed, keep, warm
from tiercel.client import Client
from tiercel.errors import TiercelError


@click.command(name="warm")
@click.argument("file")
@of_a_stack
@click.pass_obj
def warm_file(
    consoles: Consoles, file: str, as_json: bool, target: str | None, port: int | None, ca: Path | None
) -> int:
    """Compute the prefixes in FILE ahead of traffic and bring them to host memory and disk.

    One prefix a line, as plain text, or as JSON objects with "text", "token_ids" or "messages", and "cache_salt" if
    wanted; `-` is standard input.
    """
    prefixes = read_prefixes(file)
    with stack_client(target, port, ca) as client:
        _warn_of_missing_tiers(consoles, client)
        with progress_bar(consoles) as progress:
            task = progress.add_task("warming", total=len(prefixes))
            warmed = warm(client, prefixes, lambda: progress.advance(task))
            progress.update(task, description="bringing them down")
            warmed.is_settled = client.settle_cache()
    _show_warmed(consoles, warmed, as_json, client.target)
    return 1 if warmed.refused else 0


@click.command()
@click.argument("name")
@click.argument("file", required=False)
@click.option("--remove", is_flag=True, help="Pin it no longer.")
@of_a_stack
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

    FILE is as for `warm`. A pin lasts until it is removed: the disk keeps it, and what it names, over a restart of the
    stack. Without a disk it lasts as long as the stack runs.
    """
    if remove == (file is not None):
        raise click.UsageError("give FILE to pin its prefixes under NAME, or --remove to pin NAME no longer")
    prefixes = [] if file is None else read_prefixes(file)
    with stack_client(target, port, ca) as client:
        pinned = list(dict.fromkeys(each.name for each in client.cache().pinned))
        if remove:
            if not client.unpin(name):
                others = f"pinned are: {', '.join(pinned)}" if pinned else "nothing is pinned"
                raise CommandFailed(f"{name!r} is not pinned; {others}")
            if as_json:
                write_json(consoles, {"target": client.target, "unpinned": name})
            else:
                say(consoles, f"{name} is pinned no longer")
            return 0
        if name in pinned:
            raise CommandFailed(f"{name!r} is pinned already; choose another name, or first give it up with --remove")
        warmed = _pin(consoles, client, name, prefixes)
    _show_warmed(consoles, warmed, as_json, client.target)
    return 0


def _pin(consoles: Consoles, client: Client, name: str, prefixes: list[Prefix]) -> Warmed:
    """All of them or none."""
    warmed = Warmed()
    with progress_bar(consoles) as progress:
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


def _warn_of_missing_tiers(consoles: Consoles, client: Client) -> None:
    """People who warm a cache that keeps nothing should know."""
    for address, worker in workers_of(client):
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
        write_json(consoles, content)
        return
    for line, message in sorted(warmed.refused.items()):
        consoles.error(f"line {line}: {message}")
    cached = warmed.cached
    say(
        consoles,
        f"{warmed.num_prefixes} prefixes, {warmed.prompt_tokens} tokens: {cached.total} were cached "
        f"({cached.device} on the device, {cached.host} in host memory, {cached.disk} on disk), "
        f"{warmed.computed_tokens} computed",
    )
    if not warmed.is_settled:
        consoles.warn("some of it is still on its way to host memory or disk, which are slow or have no room just now")
