"""What the engine's thread loads and runs: a model behind a narrow door, and what carries its blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.ids import SeqSlot
from engine.scheduling.plan import StepPlan, StepResult
from kvstore.transfer import PinKept, PinnedKeys, TierEvents, TierFault, Transfer, TransferResult
from services.worker.disk_keeper import DiskKeeper

LoadProgress = Callable[[int, int], None]
"""Loaded bytes, total bytes."""


class StepExecutor(Protocol):
    """What runs plans: `engine.execution.runner.ModelRunner`."""

    @property
    def void_slots(self) -> Sequence[SeqSlot]:
        """Slots of the last plan that gave no usable logits and are missing in its result."""
        ...

    def execute(self, plan: StepPlan, on_start: Callable[[], None]) -> StepResult:
        """Calls `on_start` once everything is prepared and computing begins.

        Fills `start_ns` and `end_ns` of the timings: when computing began, and when the sampled ids were known.
        """
        ...

    def reset(self) -> None:
        """Forget every sequence."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a loaded worker is; the content of `Ready`."""

    model: str
    fingerprint: str
    namespace: bytes
    block_size_tokens: int
    block_bytes: int
    num_blocks: int
    max_seqs: int
    max_model_tokens: int
    max_batched_tokens: int
    vocab_size: int
    device: str
    dtype: str
    kv_dtype: str
    attention_backend: str
    rope_length_dependent_from_tokens: int
    weights: str
    """Type of the weights of products: `dtype`, or int8."""
    weight_bytes: int
    """In memory, as they are computed with."""

    num_host_slots: int = 0
    host_is_pinned: bool = False
    disk_id: bytes = b""
    """Workers with the same one share a disk tier; empty: there is none."""
    disk_capacity_bytes: int = 0
    host_note: str = ""
    """Why the tier is not there, or not as asked."""
    disk_note: str = ""
    max_pinned_disk_blocks: int = 0
    """Pinned records beyond as many are evicted like others."""


TierNews = TransferResult | TierEvents | TierFault | PinnedKeys | PinKept


class TierMover(Protocol):
    """What carries transfers out: `kvstore.executor.TierExecutor`. Called on the engine's thread, but for `submit`."""

    def submit(self, transfer: Transfer) -> None:
        """Hand a transfer over, behind all compute so far where it is handed over on the engine's thread.

        Its one result comes as news.
        """
        ...

    def settle(self) -> None:
        """Return when nothing moves any more and all results have been told."""
        ...

    def announce(self) -> None:
        """Tell what the disk's index has as pinned, and all that the disk holds."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    executor: StepExecutor
    facts: WorkerFacts
    tiers: TierMover | None = None
    keeper: DiskKeeper | None = None
    """For people's questions about the disk; None where there is none."""


LoadEngine = Callable[[LoadProgress, Callable[[TierNews], None]], LoadedEngine]
"""Called with where to tell progress and, from any thread, the tiers' news."""
