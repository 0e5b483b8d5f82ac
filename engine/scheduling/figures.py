"""What a scheduler says of its load and of what it has done."""

from collections import deque
from dataclasses import dataclass, field

from engine.scheduling.plan import TransferFailure, TransferKind

_NUM_COMPLETIONS = 64
_FALLBACK_S = 1.0
_MIN_S, _MAX_S = 0.05, 30.0


@dataclass(frozen=True, slots=True)
class SchedulerFigures:
    """A snapshot. The counters at the end only grow."""

    num_running: int
    """Sequences in the batch."""
    num_waiting: int
    """Sequences in the queue, preempted ones included."""
    num_waiting_prompt_tokens: int
    """Tokens that the waiting sequences will have to compute, prefix hits aside."""
    num_blocks: int
    num_blocks_in_use: int
    """Held by sequences, or touched by a step in flight."""
    num_blocks_cached: int
    num_blocks_free: int
    num_steps: int
    num_computed_tokens: int
    """Tokens planned for computing, those that were dropped or computed again included."""
    num_lookup_tokens: int
    """Prompt tokens that were looked up in the prefix cache when a request started."""
    num_hit_tokens: int
    """Those of them that were found, in any tier."""
    num_preemptions: int
    num_completed: int
    """Requests that finished."""
    num_refused: int
    """Requests that ended with an error after they were accepted."""
    num_cancelled: int
    tiers: "TiersFigures | None" = None
    """None: there is nothing below the device."""


@dataclass(frozen=True, slots=True)
class TierFigures:
    """Counted in blocks where nothing else is said. The counters at the end only grow."""

    num_blocks: int
    """Capacity; 0 for the disk, which keeps its own limits."""
    num_used: int
    """Blocks with content."""
    num_pinned: int
    """Those of them that belong to pinned prefixes."""
    num_clean: int
    """Blocks that can be handed out at once without a loss."""
    num_hit_tokens: int
    """Tokens that requests found here and in no nearer tier, of the scheduler's `num_lookup_tokens`."""
    num_evictions: int
    num_lost: int
    """Evictions of blocks that were to be saved below, and were not yet."""


@dataclass(frozen=True, slots=True)
class PinFigures:
    """One pinned prefix, or several under one name. Counted in blocks."""

    name: str
    num_blocks: int
    num_on_device: int
    """Those of them of which there is a copy here."""
    num_on_host: int
    num_on_disk: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was forgotten at once, in blocks."""

    num_device_blocks: int
    num_host_blocks: int
    num_kept: int
    """Copies of both tiers that requests or transfers use, or that are pinned."""


@dataclass(slots=True)
class MoveFigures:
    """What one kind of transfer has done. All of it only grows; bandwidth is `num_bytes / copy_ns`."""

    num_transfers: int = 0
    num_blocks: int = 0
    """Moved, those of failed transfers that were done included."""
    num_bytes: int = 0
    wait_ns: int = 0
    copy_ns: int = 0
    num_failures: int = 0
    failures: dict[TransferFailure, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TiersFigures:
    block_bytes: int
    device: TierFigures
    host: TierFigures
    disk: TierFigures
    moves: dict[TransferKind, MoveFigures]
    num_in_flight: int
    """Transfers whose results are outstanding."""
    num_abandoned_fetches: int
    """Waits that were ended because computing had become cheaper."""
    num_late_loads: int


@dataclass(slots=True)
class Counters:
    """The part of the figures that is counted as it happens."""

    num_steps: int = 0
    num_computed_tokens: int = 0
    num_lookup_tokens: int = 0
    num_hit_tokens: int = 0
    num_host_hit_tokens: int = 0
    num_disk_hit_tokens: int = 0
    num_preemptions: int = 0
    num_completed: int = 0
    num_refused: int = 0
    num_cancelled: int = 0


class CompletionRate:
    """How fast requests have been finishing of late."""

    def __init__(self) -> None:
        self._times_ns: deque[int] = deque(maxlen=_NUM_COMPLETIONS)

    def add(self, now_ns: int) -> None:
        self._times_ns.append(now_ns)

    def retry_after_s(self, num_waiting: int, now_ns: int) -> float:
        """The time in which a tenth of the queue drains: long enough for a place, short enough to get it."""
        if len(self._times_ns) < 2 or now_ns <= self._times_ns[0]:
            return _FALLBACK_S
        num_places = max(1.0, num_waiting / 10)
        per_completion_s = (now_ns - self._times_ns[0]) / (len(self._times_ns) - 1) / 1e9
        return min(max(num_places * per_completion_s, _MIN_S), _MAX_S)
