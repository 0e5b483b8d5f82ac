"""What the scheduler decides and keeps count of: its queues, each worker's batch, and the blocks in every tier.

Nothing is counted for the metrics alone: they are read from the figures that `infer-cli status` shows as well.
"""

from collections.abc import Iterator

from engine.scheduling.figures import MoveFigures, SchedulerFigures, TierFigures
from engine.scheduling.plan import TransferFailure
from services.common.metric_spec import counter, gauge
from services.common.metrics import Reading
from services.common.status import ERROR_KINDS
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.link import WorkerLink

SUBMISSIONS = counter("tiercel.scheduler.submissions", "{request}", "Requests that tokenizers have submitted.")
ENDINGS = counter(
    "tiercel.scheduler.endings", "{request}", "Requests that ended here: finished, refused or cancelled.", "outcome"
)
REFUSALS = counter(
    "tiercel.scheduler.refusals", "{request}", "Requests that the scheduler refused, by the error's class.", "reason"
)
LIVE = gauge("tiercel.scheduler.live", "{request}", "Requests that are waiting or running.")
UNROUTED = gauge("tiercel.scheduler.unrouted", "{request}", "Requests that wait for a worker to become ready.")
TOKENIZERS = gauge("tiercel.scheduler.tokenizers", "{stream}", "Tokenizer replicas that are connected.")
WORKER_READY = gauge("tiercel.worker.ready", "{worker}", "1 while the worker serves, else 0.", "worker")
RUNNING = gauge(
    "tiercel.requests.running", "{sequence}", "Sequences in the batch.", "worker", vllm="vllm:num_requests_running"
)
WAITING = gauge(
    "tiercel.requests.waiting",
    "{sequence}",
    "Sequences in the queue, preempted ones included.",
    "worker",
    vllm="vllm:num_requests_waiting",
)
WAITING_TOKENS = gauge(
    "tiercel.queue.tokens", "{token}", "Tokens that waiting sequences have to compute, prefix hits aside.", "worker"
)
STEPS = counter("tiercel.steps", "{step}", "Steps planned.", "worker")
PROMPT_TOKENS = counter(
    "tiercel.computed.prompt_tokens",
    "{token}",
    "Prompt tokens sent for computing, again after a preemption included.",
    "worker",
    vllm="vllm:prompt_tokens_total",
)
COMPLETION_TOKENS = counter(
    "tiercel.computed.completion_tokens",
    "{token}",
    "Tokens sampled, those past a stop included.",
    "worker",
    vllm="vllm:generation_tokens_total",
)
PREEMPTIONS = counter(
    "tiercel.preemptions",
    "{sequence}",
    "Sequences that had to leave the batch for want of blocks.",
    "worker",
    vllm="vllm:num_preemptions_total",
)
KV_USAGE = gauge(
    "tiercel.kv.usage",
    "1",
    "Share of a tier's blocks that running sequences hold (device) or that have content (host, disk).",
    "worker",
    "tier",
    vllm="vllm:kv_cache_usage_perc",
)
KV_CAPACITY = gauge("tiercel.kv.capacity", "{block}", "Blocks that a tier can hold.", "worker", "tier")
KV_BLOCKS = gauge(
    "tiercel.kv.blocks",
    "{block}",
    "Blocks of a tier by state: in_use (held by running sequences; device only), cached (no holder, key kept), free.",
    "worker",
    "tier",
    "state",
)
KV_PINNED = gauge("tiercel.kv.pinned", "{block}", "Cached blocks that belong to pinned prefixes.", "worker", "tier")
KV_BLOCK_SIZE = gauge("tiercel.kv.block.size", "By", "Bytes of one block.", "worker")
KV_LOOKUPS = counter(
    "tiercel.kv.lookup_tokens",
    "{token}",
    "Prompt tokens that were looked up in the prefix cache when a request started.",
    "worker",
    vllm="vllm:prefix_cache_queries_total",
)
KV_HITS = counter(
    "tiercel.kv.hit_tokens",
    "{token}",
    "Those of them that were found, by the nearest tier that had them.",
    "worker",
    "tier",
    vllm="vllm:prefix_cache_hits_total",
)
KV_EVICTED = counter("tiercel.kv.evicted_blocks", "{block}", "Blocks that a tier dropped.", "worker", "tier")
KV_LOST = counter(
    "tiercel.kv.lost_blocks",
    "{block}",
    "Evicted blocks that were to be saved in the tier below, and were not yet.",
    "worker",
    "tier",
)
MOVES = counter(
    "tiercel.kv.transfers", "{transfer}", "Transfers that ended: spill, load, persist, fetch.", "worker", "move"
)
MOVED_BLOCKS = counter("tiercel.kv.transfer.blocks", "{block}", "Blocks moved.", "worker", "move")
MOVED_BYTES = counter(
    "tiercel.kv.transfer.io",
    "By",
    "Bytes moved.",
    "worker",
    "move",
    vllm="vllm:kv_offload_total_bytes",
)
MOVE_COPY_TIME = counter("tiercel.kv.transfer.copy_time", "s", "Time spent copying.", "worker", "move")
MOVE_WAIT_TIME = counter(
    "tiercel.kv.transfer.wait_time", "s", "From a transfer's receipt to its first byte.", "worker", "move"
)
MOVE_FAILURES = counter(
    "tiercel.kv.transfer.failures",
    "{transfer}",
    "Transfers that failed: missing, corrupt, full, io_error, timeout, cancelled.",
    "worker",
    "move",
    "reason",
)
MOVES_IN_FLIGHT = gauge("tiercel.kv.transfers.in_flight", "{transfer}", "Transfers whose results are due.", "worker")
ABANDONED_FETCHES = counter(
    "tiercel.kv.fetches.abandoned", "{fetch}", "Waits for disk that ended because computing was cheaper.", "worker"
)
LATE_LOADS = counter("tiercel.kv.loads.late", "{load}", "Loads given up because they took too long.", "worker")

SPECS = (
    SUBMISSIONS,
    ENDINGS,
    REFUSALS,
    LIVE,
    UNROUTED,
    TOKENIZERS,
    WORKER_READY,
    RUNNING,
    WAITING,
    WAITING_TOKENS,
    STEPS,
    PROMPT_TOKENS,
    COMPLETION_TOKENS,
    PREEMPTIONS,
    KV_USAGE,
    KV_CAPACITY,
    KV_BLOCKS,
    KV_PINNED,
    KV_BLOCK_SIZE,
    KV_LOOKUPS,
    KV_HITS,
    KV_EVICTED,
    KV_LOST,
    MOVES,
    MOVED_BLOCKS,
    MOVED_BYTES,
    MOVE_COPY_TIME,
    MOVE_WAIT_TIME,
    MOVE_FAILURES,
    MOVES_IN_FLIGHT,
    ABANDONED_FETCHES,
    LATE_LOADS,
)


class SchedulerMetrics:
    """On the loop's thread. A worker's counters start again with each of its sessions."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def read(self) -> Iterator[Reading]:
        dispatcher, counters = self._dispatcher, self._dispatcher.counters
        yield Reading(SUBMISSIONS, counters.submitted)
        yield Reading(ENDINGS, counters.finished, ("finished",))
        yield Reading(ENDINGS, counters.refused, ("refused",))
        yield Reading(ENDINGS, counters.cancelled, ("cancelled",))
        for reason in ERROR_KINDS:
            yield Reading(REFUSALS, counters.refusals[reason], (reason,))
        yield Reading(LIVE, dispatcher.num_live)
        yield Reading(UNROUTED, dispatcher.num_unrouted)
        yield Reading(TOKENIZERS, dispatcher.num_fronts)
        for link in dispatcher.links:
            yield Reading(WORKER_READY, link.is_ready, (link.address,))
            if link.scheduler is not None and link.ready is not None:
                yield from _worker(link, link.scheduler.figures(), link.ready.block_bytes)


def _worker(link: WorkerLink, figures: SchedulerFigures, block_bytes: int) -> Iterator[Reading]:
    worker = (link.address,)
    yield Reading(RUNNING, figures.num_running, worker)
    yield Reading(WAITING, figures.num_waiting, worker)
    yield Reading(WAITING_TOKENS, figures.num_waiting_prompt_tokens, worker)
    yield Reading(STEPS, figures.num_steps, worker)
    yield Reading(PROMPT_TOKENS, link.counters.num_prompt_tokens, worker)
    yield Reading(COMPLETION_TOKENS, link.counters.num_completion_tokens, worker)
    yield Reading(PREEMPTIONS, figures.num_preemptions, worker)
    yield Reading(KV_BLOCK_SIZE, block_bytes, worker)
    yield Reading(KV_LOOKUPS, figures.num_lookup_tokens, worker)
    yield from _device(link.address, figures)
    tiers = figures.tiers
    if tiers is None or link.ready is None:
        return
    capacities = {"host": link.ready.num_host_slots, "disk": link.ready.disk_capacity_bytes // block_bytes}
    for name, tier in (("host", tiers.host), ("disk", tiers.disk)):
        if capacities[name]:
            yield from _lower_tier(link.address, name, tier, capacities[name])
    for kind, move in tiers.moves.items():
        yield from _move(link.address, kind.value, move)
    yield Reading(MOVES_IN_FLIGHT, tiers.num_in_flight, worker)
    yield Reading(ABANDONED_FETCHES, tiers.num_abandoned_fetches, worker)
    yield Reading(LATE_LOADS, tiers.num_late_loads, worker)


def _device(address: str, figures: SchedulerFigures) -> Iterator[Reading]:
    here = (address, "device")
    device = None if figures.tiers is None else figures.tiers.device
    yield Reading(KV_CAPACITY, figures.num_blocks, here)
    yield Reading(KV_USAGE, figures.num_blocks_in_use / figures.num_blocks, here)
    yield Reading(KV_BLOCKS, figures.num_blocks_in_use, (*here, "in_use"))
    yield Reading(KV_BLOCKS, figures.num_blocks_cached, (*here, "cached"))
    yield Reading(KV_BLOCKS, figures.num_blocks_free, (*here, "free"))
    yield Reading(KV_HITS, figures.num_hit_tokens if device is None else device.num_hit_tokens, here)
    if device is not None:
        yield Reading(KV_EVICTED, device.num_evictions, here)
        yield Reading(KV_LOST, device.num_lost, here)


def _lower_tier(address: str, name: str, tier: TierFigures, num_blocks: int) -> Iterator[Reading]:
    here = (address, name)
    yield Reading(KV_CAPACITY, num_blocks, here)
    yield Reading(KV_USAGE, tier.num_used / num_blocks, here)
    yield Reading(KV_BLOCKS, tier.num_used, (*here, "cached"))
    yield Reading(KV_BLOCKS, max(0, num_blocks - tier.num_used), (*here, "free"))
    yield Reading(KV_PINNED, tier.num_pinned, here)
    yield Reading(KV_HITS, tier.num_hit_tokens, here)
    yield Reading(KV_EVICTED, tier.num_evictions, here)
    yield Reading(KV_LOST, tier.num_lost, here)


def _move(address: str, kind: str, move: MoveFigures) -> Iterator[Reading]:
    series = (address, kind)
    yield Reading(MOVES, move.num_transfers, series)
    yield Reading(MOVED_BLOCKS, move.num_blocks, series)
    yield Reading(MOVED_BYTES, move.num_bytes, series)
    yield Reading(MOVE_COPY_TIME, move.copy_ns / 1e9, series)
    yield Reading(MOVE_WAIT_TIME, move.wait_ns / 1e9, series)
    for reason in TransferFailure:
        yield Reading(MOVE_FAILURES, move.failures.get(reason, 0), (*series, reason.value))
