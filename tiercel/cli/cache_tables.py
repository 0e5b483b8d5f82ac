"""The cache as tables: tiers and moves of the workers, what is on the disks, what is pinned."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tiercel.cli.tables import shown_duration, shown_rate, table
from tiercel.cli.values import shown_bytes
from tiercel.client import CareNote, DiskReport, PinnedPrefix, WorkerStatus

Workers = Sequence[tuple[str, WorkerStatus]]
"""With their addresses."""

_NAMESPACE_CHARS = 12


def show_tiers(out: Console, workers: Workers) -> None:
    """Tiers with their notes, and what has moved between them."""
    out.print(_tiers(workers))
    show_notes(
        out,
        [
            CareNote(address, f"{tier.tier}: {tier.note}")
            for address, worker in workers
            for tier in worker.tiers
            if tier.note
        ],
    )
    if any(move.transfers for _, worker in workers for move in worker.moves):
        out.print(_moves(workers))


def show_notes(out: Console, notes: Sequence[CareNote]) -> None:
    """On lines of their own and never folded, so that they can be searched for."""
    for note in notes:
        out.print(Text(f"! {note.worker} {note.message}", style="yellow"), soft_wrap=True)


def _tiers(workers: Workers) -> Table:
    columns = ("#blocks", "#in use", "#cached", "#pinned", "#size", "#looked up", "#hit", "#rate", "#evicted")
    rows = table("Cache", "worker", "tier", *columns)
    for address, worker in workers:
        for tier in worker.tiers:
            blocks = (tier.capacity_blocks, tier.in_use_blocks, tier.cached_blocks, tier.pinned_blocks)
            size = shown_bytes(tier.capacity_blocks * worker.block_bytes)
            tokens = (f"{tier.lookup_tokens}", f"{tier.hit_tokens}", shown_rate(tier.hit_tokens, tier.lookup_tokens))
            rows.add_row(address, tier.tier, *map(str, blocks), size, *tokens, str(tier.evicted_blocks))
    return rows


def _moves(workers: Workers) -> Table:
    rows = table("Moves", "worker", "move", "#transfers", "#blocks", "#size", "#speed", "#mean wait", "#failed", "")
    for address, worker in workers:
        for move in worker.moves:
            speed = "" if move.bytes_per_s is None else f"{move.bytes_per_s / 1e9:.2f} GB/s"
            wait = f"{move.wait_ns / move.transfers / 1e6:.2f} ms" if move.transfers else ""
            counts = (str(move.transfers), str(move.blocks), shown_bytes(move.bytes))
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(move.failures.items()))
            rows.add_row(address, move.move, *counts, speed, wait, str(move.failed_transfers), reasons)
    return rows


def disk_table(disks: Sequence[DiskReport]) -> Table:
    rows = table("Disks", "worker", "directory", "#records", "#takes", "#of", "#index", "#tenants", "#corrupt")
    for disk in disks:
        records = sum(namespace.records for namespace in disk.namespaces)
        takes = sum(namespace.file_bytes for namespace in disk.namespaces)
        sizes = (shown_bytes(size) for size in (takes, disk.capacity_bytes, disk.index_bytes))
        counts = (str(disk.tenants), str(disk.corrupt_records))
        rows.add_row(disk.worker, Text(disk.directory), str(records), *sizes, *counts)
    return rows


def namespace_table(disks: Sequence[DiskReport]) -> Table:
    columns = ("#records", "#block", "#payload", "#takes", "#hits", "#were hit", "#last used", "#median", "#oldest")
    rows = table("Namespaces", "directory", "namespace", "", *columns)
    for disk in disks:
        for namespace in disk.namespaces:
            sizes = (
                shown_bytes(size) for size in (namespace.block_bytes, namespace.payload_bytes, namespace.file_bytes)
            )
            ages = (namespace.youngest_ns, namespace.median_age_ns, namespace.oldest_ns)
            rows.add_row(
                Text(disk.directory),
                namespace.namespace[:_NAMESPACE_CHARS],
                "served" if namespace.is_served else "",
                str(namespace.records),
                *sizes,
                str(namespace.hits),
                shown_rate(namespace.hit_records, namespace.records),
                *("" if age is None else shown_duration(age / 1e9) for age in ages),
            )
    return rows


def pinned_table(pinned: Sequence[PinnedPrefix]) -> Table:
    rows = table("Pinned", "name", "worker", "#blocks", "#on device", "#in host memory", "#on disk")
    for pin in pinned:
        counts = (pin.blocks, pin.device_blocks, pin.host_blocks, pin.disk_blocks)
        rows.add_row(Text(pin.name), pin.worker, *map(str, counts))
    return rows
