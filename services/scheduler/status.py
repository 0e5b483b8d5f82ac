"""The scheduler and its workers as rows for `infer-cli status`."""

import os
import time

from engine.scheduling.figures import SchedulerFigures, TiersFigures
from services.common.server import ServiceHost
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.link import WorkerLink
from tiercel.v1 import common_pb2, execution_pb2


def service_rows(host: ServiceHost, dispatcher: Dispatcher) -> list[common_pb2.ServiceStatus]:
    counters = dispatcher.counters
    scheduler = common_pb2.ServiceStatus(
        role="scheduler",
        address=host.address,
        pid=os.getpid(),
        state=host.state,
        uptime_ns=host.uptime_ns,
        metrics_address=host.metrics_address,
        detail=(
            f"{dispatcher.num_live} live, {dispatcher.num_unrouted} waiting for a worker; "
            f"{counters.finished} finished, {counters.refused} refused, {counters.cancelled} cancelled"
        ),
    )
    return [scheduler, *(_worker_row(link) for link in dispatcher.links)]


def _worker_row(link: WorkerLink) -> common_pb2.ServiceStatus:
    row = common_pb2.ServiceStatus(role="worker", address=link.address, state=link.state, detail=link.detail)
    ready, scheduler = link.ready, link.scheduler
    if ready is not None:
        row.pid = ready.pid
        row.metrics_address = ready.metrics_address
    if ready is None or scheduler is None:
        return row
    row.uptime_ns = time.monotonic_ns() - link.ready_since_ns
    figures = scheduler.figures()
    gap_p50_ns, gap_p99_ns = link.counters.gap_percentiles_ns()
    row.worker.CopyFrom(
        common_pb2.WorkerStatus(
            model=ready.model,
            device=ready.device,
            dtype=ready.dtype,
            kv_dtype=ready.kv_dtype,
            attention_backend=ready.attention_backend,
            weights=ready.weights,
            weight_bytes=ready.weight_bytes,
            block_size_tokens=ready.block_size_tokens,
            block_bytes=ready.block_bytes,
            max_model_tokens=scheduler.config.max_model_tokens,
            max_batched_tokens=ready.max_batched_tokens,
            max_seqs=ready.max_seqs,
            running=figures.num_running,
            waiting=figures.num_waiting,
            steps=figures.num_steps,
            prompt_tokens=link.counters.num_prompt_tokens,
            completion_tokens=link.counters.num_completion_tokens,
            preemptions=figures.num_preemptions,
            step_gap_p50_ns=gap_p50_ns,
            step_gap_p99_ns=gap_p99_ns,
            back_to_back_steps=link.counters.num_back_to_back,
            tiers=_tier_rows(link, ready, figures),
            moves=_move_rows(figures.tiers),
        )
    )
    return row


def _tier_rows(link: WorkerLink, ready: execution_pb2.Ready, figures: SchedulerFigures) -> list[common_pb2.TierStatus]:
    """A row for each tier that there is, and for one that was asked for and is not there."""
    tiers = figures.tiers
    device = common_pb2.TierStatus(
        tier="device",
        capacity_blocks=figures.num_blocks,
        in_use_blocks=figures.num_blocks_in_use,
        cached_blocks=figures.num_blocks_cached,
        lookup_tokens=figures.num_lookup_tokens,
        hit_tokens=figures.num_hit_tokens if tiers is None else tiers.device.num_hit_tokens,
        evicted_blocks=0 if tiers is None else tiers.device.num_evictions,
    )
    rows = [device]
    capacities = {"host": ready.num_host_slots, "disk": ready.disk_capacity_bytes // max(1, ready.block_bytes)}
    for name, capacity in capacities.items():
        note = link.tier_notes.get(name, "")
        if name == "disk":
            note = "; ".join(filter(None, (note, *(f"{pin!r} is {why}" for pin, why in link.pins.notes.items()))))
        if not capacity and not note:
            continue
        row = common_pb2.TierStatus(tier=name, capacity_blocks=capacity, note=note)
        if tiers is not None:
            tier = tiers.host if name == "host" else tiers.disk
            row.cached_blocks = tier.num_used
            row.pinned_blocks = tier.num_pinned
            row.evicted_blocks = tier.num_evictions
            row.lookup_tokens = figures.num_lookup_tokens
            row.hit_tokens = tier.num_hit_tokens
        rows.append(row)
    return rows


def _move_rows(tiers: TiersFigures | None) -> list[common_pb2.MoveStatus]:
    if tiers is None:
        return []
    return [
        common_pb2.MoveStatus(
            move=kind.value,
            transfers=move.num_transfers,
            blocks=move.num_blocks,
            bytes=move.num_bytes,
            copy_ns=move.copy_ns,
            wait_ns=move.wait_ns,
            failed_transfers=move.num_failures,
            failures={reason.value: count for reason, count in move.failures.items()},
        )
        for kind, move in tiers.moves.items()
    ]
