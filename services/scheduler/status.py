"""The scheduler and its workers as rows for `infer-cli status`."""

import os
import time

from services.common.server import ServiceHost
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.link import WorkerLink
from tiercel.v1 import common_pb2


def service_rows(host: ServiceHost, dispatcher: Dispatcher) -> list[common_pb2.ServiceStatus]:
    counters = dispatcher.counters
    scheduler = common_pb2.ServiceStatus(
        role="scheduler",
        address=host.address,
        pid=os.getpid(),
        state=host.state,
        uptime_ns=host.uptime_ns,
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
            tiers=[
                common_pb2.TierStatus(
                    tier="device",
                    capacity_blocks=figures.num_blocks,
                    in_use_blocks=figures.num_blocks_in_use,
                    cached_blocks=figures.num_blocks_cached,
                    lookup_tokens=figures.num_lookup_tokens,
                    hit_tokens=figures.num_hit_tokens,
                )
            ],
        )
    )
    return row
