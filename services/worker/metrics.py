"""What only the worker knows: how long its steps take, what is in them, and how its disk fares.

Observed on the loop's thread, when plans and results pass by; the engine's thread has nothing to do with it.
"""

from collections import Counter
from collections.abc import Iterator

from engine.scheduling.plan import StepPlan, StepTimings
from kvstore.transfer import Tier, TierEvents, TierFault
from services.common.metric_spec import counter, gauge, histogram
from services.common.metrics import Reading, ServiceMetrics
from services.worker.disk_keeper import DiskKeeper
from services.worker.engine_session import StepFault
from services.worker.loaded_engine import WorkerFacts

STEP_DURATION = histogram(
    "tiercel.step.duration",
    "s",
    "From the start of a step's computing to when its sampled tokens are known.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
STEP_GAP = histogram(
    "tiercel.step.gap",
    "s",
    "Between the end of one step and the start of the next, where the plan was waiting already: the device idles.",
    buckets=(0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1),
)
STEP_TOKENS = histogram(
    "tiercel.step.tokens",
    "{token}",
    "Tokens that one step computes.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
    vllm="vllm:iteration_tokens_total",
)
STEP_SEQUENCES = histogram(
    "tiercel.step.sequences",
    "{sequence}",
    "Sequences that one step works on.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
)
INFO = gauge(
    "tiercel.worker.info",
    "{worker}",
    "Always 1, once the model is loaded; the labels say what runs.",
    "model",
    "device",
    "dtype",
    "kv_dtype",
    "attention",
    vllm="vllm:cache_config_info",
)
LOADED = gauge("tiercel.worker.loaded", "By", "Bytes of weights and host memory prepared so far.")
SESSIONS = counter("tiercel.worker.sessions", "{session}", "Sessions of schedulers that have begun.")
FAULTS = counter(
    "tiercel.worker.faults",
    "{fault}",
    "Steps that went wrong, by what is void since: sequences (no usable logits), or the whole session.",
    "void",
)
CORRUPT = counter(
    "tiercel.kv.disk.corrupt_records", "{record}", "Records on disk that failed a check, and were dropped."
)
EVICTED = counter(
    "tiercel.kv.disk.evicted_records", "{record}", "Records that this worker deleted, for room or by request."
)
TIER_WORKS = gauge("tiercel.kv.tier.works", "{tier}", "1 while the tier works, 0 while it does not.", "tier")

SPECS = (
    STEP_DURATION,
    STEP_GAP,
    STEP_TOKENS,
    STEP_SEQUENCES,
    INFO,
    LOADED,
    SESSIONS,
    FAULTS,
    CORRUPT,
    EVICTED,
    TIER_WORKS,
)


class WorkerMetrics:
    """On the loop's thread."""

    def __init__(self, metrics: ServiceMetrics) -> None:
        self.loaded_bytes = 0
        self.num_sessions = 0
        self._facts: WorkerFacts | None = None
        self._keeper: DiskKeeper | None = None
        self._step_duration = metrics.histogram(STEP_DURATION)
        self._step_gap = metrics.histogram(STEP_GAP)
        self._step_tokens = metrics.histogram(STEP_TOKENS)
        self._step_sequences = metrics.histogram(STEP_SEQUENCES)
        self._faults = Counter(dict.fromkeys(("sequences", "session"), 0))
        self._num_evicted = 0
        self._failed_tiers: set[Tier] = set()
        metrics.add(self._read)

    def on_loaded(self, facts: WorkerFacts, keeper: DiskKeeper | None) -> None:
        """`keeper` knows the disk; None where there is none."""
        self._facts = facts
        self._keeper = keeper

    def on_plan(self, plan: StepPlan) -> None:
        if len(plan.work):
            self._step_tokens.observe(plan.work.total_tokens)
            self._step_sequences.observe(len(plan.work))

    def on_step(self, timings: StepTimings) -> None:
        self._step_duration.observe((timings.end_ns - timings.start_ns) / 1e9)
        if timings.gap_ns:
            self._step_gap.observe(timings.gap_ns / 1e9)

    def on_fault(self, fault: StepFault) -> None:
        self._faults["sequences" if fault.slots else "session"] += 1

    def on_tier_events(self, events: TierEvents) -> None:
        self._num_evicted += len(events.evicted)

    def on_tier_fault(self, fault: TierFault) -> None:
        if fault.is_over:
            self._failed_tiers.discard(fault.tier)
        else:
            self._failed_tiers.add(fault.tier)

    def _read(self) -> Iterator[Reading]:
        yield Reading(LOADED, self.loaded_bytes)
        yield Reading(SESSIONS, self.num_sessions)
        for void, count in self._faults.items():
            yield Reading(FAULTS, count, (void,))
        facts = self._facts
        if facts is None:
            return
        yield Reading(INFO, 1, (facts.model, facts.device, facts.dtype, facts.kv_dtype, facts.attention_backend))
        if facts.num_host_slots:
            yield Reading(TIER_WORKS, Tier.HOST not in self._failed_tiers, (Tier.HOST.value,))
        if self._keeper is not None:
            yield Reading(TIER_WORKS, Tier.DISK not in self._failed_tiers, (Tier.DISK.value,))
            yield Reading(CORRUPT, self._keeper.num_corrupt)
            yield Reading(EVICTED, self._num_evicted)
