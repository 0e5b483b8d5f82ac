"""What a stack says about itself: services, models, queue, cache by tier."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierStatus:
    tier: str
    """device, host or disk."""
    capacity_blocks: int
    in_use_blocks: int
    """Held by running sequences."""
    cached_blocks: int
    """No holder, kept for the next prompt that begins alike."""
    lookup_tokens: int
    """Prompt tokens looked up since start."""
    hit_tokens: int
    """Of which this tier had."""
    pinned_blocks: int
    """Of pinned prefixes."""
    evicted_blocks: int
    """Since start."""
    note: str
    """What is wrong with the tier, or worth knowing."""


@dataclass(frozen=True, slots=True)
class MoveStatus:
    """One direction between two tiers, since the worker's session began."""

    move: str
    """spill, load, persist or fetch."""
    transfers: int
    blocks: int
    bytes: int
    copy_ns: int
    wait_ns: int
    failed_transfers: int
    failures: dict[str, int]
    """The failed transfers by reason: missing, corrupt, full, io_error, timeout or cancelled."""

    @property
    def bytes_per_s(self) -> float | None:
        """While copying. None: nothing was copied."""
        return self.bytes / self.copy_ns * 1e9 if self.copy_ns else None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    model: str
    device: str
    dtype: str
    kv_dtype: str
    attention_backend: str
    weights: str
    """Type of the weights of products: `dtype`, or int8."""
    weight_bytes: int
    block_size_tokens: int
    block_bytes: int
    max_model_tokens: int
    max_batched_tokens: int
    max_seqs: int
    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    """Computed since start."""
    completion_tokens: int
    """Sampled since start."""
    preemptions: int
    tiers: tuple[TierStatus, ...]
    step_gap_p50_ns: int
    """Between the end of one step and the start of the next, over the latest back-to-back steps."""
    step_gap_p99_ns: int
    back_to_back_steps: int
    """Steps whose plan was waiting on the worker when the step before ended; the gaps are theirs."""
    moves: tuple[MoveStatus, ...]
    """Between the tiers; none where there is nothing below the device."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    role: str
    """tokenizer, scheduler or worker."""
    address: str
    pid: int
    state: str
    """starting, ready, draining or lost."""
    uptime_ns: int
    detail: str
    worker: WorkerStatus | None
    """Set for workers."""
    metrics_address: str
    """Of /metrics, HOST:PORT; empty: switched off, or not known."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    id: str
    fingerprint: str
    """Digest of config and weights, hexadecimal."""
    max_model_tokens: int
    vocab_size: int
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class StackStatus:
    services: tuple[ServiceStatus, ...]
    models: tuple[ModelInfo, ...]
