"""`infer-cli status --watch`: what a stack does now, from the difference of two looks at its counters."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.text import Text

from tiercel.cli.console import Consoles
from tiercel.cli.tables import shown_rate, table
from tiercel.client import Client, StackStatus, TierStatus, WorkerStatus
from tiercel.errors import TiercelError


@dataclass(frozen=True, slots=True)
class TierNow:
    tier: str
    used_blocks: int
    """In use or cached."""
    capacity_blocks: int
    hit_tokens: int
    """Since the look before."""


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """One worker between two looks. Rates are None at the first look, and where its counters have begun anew."""

    address: str
    state: str
    running: int = 0
    waiting: int = 0
    prompt_tokens_per_s: float | None = None
    """Computed."""
    output_tokens_per_s: float | None = None
    steps_per_s: float | None = None
    mean_batch: float | None = None
    """Tokens sampled per step."""
    lookup_tokens: int = 0
    """Prompt tokens looked up in the prefix cache since the look before."""
    tiers: tuple[TierNow, ...] = ()


def workers_now(before: StackStatus | None, now: StackStatus, seconds: float) -> list[WorkerNow]:
    """`seconds` lie between the two."""
    earlier = {service.address: service.worker for service in before.services} if before is not None else {}
    return [
        WorkerNow(service.address, service.state)
        if service.worker is None
        else _worker_now(service.address, service.state, earlier.get(service.address), service.worker, seconds)
        for service in now.services
        if service.role == "worker"
    ]


def _worker_now(address: str, state: str, before: WorkerStatus | None, now: WorkerStatus, seconds: float) -> WorkerNow:
    if before is not None and (now.steps < before.steps or not seconds):
        before = None
    tiers = tuple(_tier_now(tier, None if before is None else before.tiers) for tier in now.tiers)
    if before is None:
        return WorkerNow(address, state, now.running, now.waiting, tiers=tiers)
    steps, sampled = now.steps - before.steps, now.completion_tokens - before.completion_tokens
    return WorkerNow(
        address,
        state,
        now.running,
        now.waiting,
        prompt_tokens_per_s=(now.prompt_tokens - before.prompt_tokens) / seconds,
        output_tokens_per_s=sampled / seconds,
        steps_per_s=steps / seconds,
        mean_batch=sampled / steps if steps else None,
        lookup_tokens=_lookups(now) - _lookups(before),
        tiers=tiers,
    )


def _tier_now(now: TierStatus, before: tuple[TierStatus, ...] | None) -> TierNow:
    earlier = next((tier for tier in before or () if tier.tier == now.tier), None)
    hits = now.hit_tokens - earlier.hit_tokens if earlier is not None else 0
    return TierNow(now.tier, now.in_use_blocks + now.cached_blocks, now.capacity_blocks, hits)


def _lookups(worker: WorkerStatus) -> int:
    return max((tier.lookup_tokens for tier in worker.tiers), default=0)


def watch(consoles: Consoles, client: Client, interval_s: float, num_looks: int | None) -> None:
    """Until Ctrl-C, or for `num_looks`. A stack that does not answer for a while is said, and asked again.

    A terminal is redrawn; a pipe gets a line per worker and look.
    """
    looks = _looks(client, interval_s, num_looks)
    if not consoles.out.is_terminal:
        for look in looks:
            stamp = time.strftime("%H:%M:%S")
            lines = [f"{stamp} {look}"] if isinstance(look, str) else [f"{stamp} {_line(worker)}" for worker in look]
            consoles.write("".join(f"{line}\n" for line in lines))
        return
    with Live(console=consoles.out, auto_refresh=False, transient=False) as live:
        for look in looks:
            live.update(Text(look, style="yellow") if isinstance(look, str) else _drawn(client, look), refresh=True)


def _looks(client: Client, interval_s: float, num_looks: int | None) -> Iterator[list[WorkerNow] | str]:
    before: StackStatus | None = None
    looked_at = 0.0
    seen = 0
    while True:
        started_at = time.monotonic()
        try:
            now = client.status()
        except TiercelError as error:
            before = None
            yield f"no answer: {error}"
        else:
            yield workers_now(before, now, started_at - looked_at)
            before, looked_at = now, started_at
        seen += 1
        if seen == num_looks:
            return
        time.sleep(max(0.0, interval_s - (time.monotonic() - started_at)))


def _line(worker: WorkerNow) -> str:
    """`127.0.0.1:5001 ready running=3 waiting=0 output_tok/s=120.0 ... device=12/99 device_hit=60.0%`."""
    pairs = [
        ("running", str(worker.running)),
        ("waiting", str(worker.waiting)),
        ("prompt_tok/s", _number(worker.prompt_tokens_per_s)),
        ("output_tok/s", _number(worker.output_tokens_per_s)),
        ("steps/s", _number(worker.steps_per_s)),
        ("batch", _number(worker.mean_batch)),
    ]
    for tier in worker.tiers:
        pairs.append((tier.tier, f"{tier.used_blocks}/{tier.capacity_blocks}"))
        pairs.append((f"{tier.tier}_hit", shown_rate(tier.hit_tokens, worker.lookup_tokens).replace(" ", "") or "-"))
    return " ".join((worker.address, worker.state, *(f"{key}={value}" for key, value in pairs)))


def _drawn(client: Client, workers: list[WorkerNow]) -> Group:
    columns = ("#running", "#waiting", "#prompt tok/s", "#output tok/s", "#steps/s", "#batch")
    batch = table("Now", "worker", "state", *columns)
    cache = table("Cache", "worker", "tier", "#blocks", "#of", "#used", "#hit rate")
    for worker in workers:
        numbers = (worker.prompt_tokens_per_s, worker.output_tokens_per_s, worker.steps_per_s, worker.mean_batch)
        batch.add_row(
            worker.address,
            worker.state,
            str(worker.running),
            str(worker.waiting),
            *(_number(value) for value in numbers),
        )
        for tier in worker.tiers:
            used = shown_rate(tier.used_blocks, tier.capacity_blocks)
            hits = shown_rate(tier.hit_tokens, worker.lookup_tokens) or "-"
            cache.add_row(worker.address, tier.tier, str(tier.used_blocks), str(tier.capacity_blocks), used, hits)
    stamp = Text(f"{client.target}  {time.strftime('%H:%M:%S')}  (Ctrl-C leaves)", style="dim")
    return Group(stamp, batch, cache)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
