"""`infer-cli status`: services, models, queue, cache by tier."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.target import Address, recorded_stack, running_stack
from tiercel.cli.values import Target, shown_bytes
from tiercel.client import ModelInfo, ServiceStatus, StackStatus, WorkerStatus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--target", type=Target(), help="The stack to ask, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on.")
@click.pass_obj
def status(consoles: Consoles, as_json: bool, target: str | None, port: int | None, ca: Path | None) -> int:
    """Show services, models, queue and cache by tier."""
    address = Address(target, port, ca)
    client = running_stack(address)
    if client is None:
        raise CommandFailed("no stack is running; start one with `infer-cli up`")
    record = recorded_stack(address)
    if record is not None and record.state == "starting":
        consoles.note(f"the stack on {record.target} is starting, or a service of it is")
    with client:
        found = client.status()
        if as_json:
            consoles.write(json.dumps({"target": client.target, **asdict(found)}) + "\n")
        else:
            _show(consoles, found)
    return 0


def _show(consoles: Consoles, found: StackStatus) -> None:
    out = consoles.out
    out.print(_services(found.services))
    out.print(_models(found.models))
    workers = [(service.address, service.worker) for service in found.services if service.worker is not None]
    if workers:
        out.print(_queue(workers))
        out.print(_tiers(workers))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if is_number else "left", overflow="fold")
    return table


def _services(services: tuple[ServiceStatus, ...]) -> Table:
    table = _table("Services", "service", "address", "#pid", "state", "#up", "")
    colours = {"ready": "green", "starting": "yellow", "draining": "yellow", "lost": "red"}
    for service in services:
        state = f"[{colours.get(service.state, 'default')}]{service.state}[/]"
        up_s = service.uptime_ns / 1e9
        table.add_row(service.role, service.address, str(service.pid or ""), state, _duration(up_s), service.detail)
    return table


def _models(models: tuple[ModelInfo, ...]) -> Table:
    table = _table("Models", "model", "#context", "#vocabulary", "chat template", "fingerprint")
    for model in models:
        template = "yes" if model.has_chat_template else "no"
        sizes = (f"{model.max_model_tokens}", f"{model.vocab_size}")
        table.add_row(model.id, *sizes, template, model.fingerprint[:12])
    return table


def _queue(workers: list[tuple[str, WorkerStatus]]) -> Table:
    columns = (
        "#running",
        "#waiting",
        "#steps",
        "#prompt tokens",
        "#output tokens",
        "#preempted",
        "#gap p50",
        "#gap p99",
    )
    table = _table("Queue", "worker", "device", "types", "attention", *columns)
    for address, worker in workers:
        types = f"{worker.dtype}, KV {worker.kv_dtype}"
        gaps = (f"{ns / 1e6:.2f} ms" for ns in (worker.step_gap_p50_ns, worker.step_gap_p99_ns))
        counts = (worker.running, worker.waiting, worker.steps, worker.prompt_tokens, worker.completion_tokens)
        numbers = (*map(str, counts), str(worker.preemptions), *gaps)
        table.add_row(address, worker.device, types, worker.attention_backend, *numbers)
    return table


def _tiers(workers: list[tuple[str, WorkerStatus]]) -> Table:
    table = _table("Cache", "worker", "tier", "#blocks", "#in use", "#cached", "#size", "#looked up", "#hit", "#rate")
    for address, worker in workers:
        for tier in worker.tiers:
            rate = f"{100 * tier.hit_tokens / tier.lookup_tokens:.1f} %" if tier.lookup_tokens else ""
            blocks = (tier.capacity_blocks, tier.in_use_blocks, tier.cached_blocks)
            size = shown_bytes(tier.capacity_blocks * worker.block_bytes)
            tokens = (f"{tier.lookup_tokens}", f"{tier.hit_tokens}")
            table.add_row(address, tier.tier, *map(str, blocks), size, *tokens, rate)
    return table


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
