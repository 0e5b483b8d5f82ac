"""What crosses between scheduler and worker, as plain data: plans and transfers one way, their results the other.

Plans are handled in the order of their ids. Within a plan the order is: released slots, new sequences, work.
Transfers lie between plans in the order in which they were sent. A copy from or to the device waits until every earlier
plan has been computed; results come in any order.
"""

import enum
from dataclasses import dataclass, field

from engine.ids import BlockId, BlockKey, HostSlot, SeqSlot, StepId, TransferId
from engine.logprobs import Logprobs
from engine.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context; empty strings when the client does not trace."""

    traceparent: str = ""
    tracestate: str = ""
    clock_offset_ns: int = field(default=0, compare=False)
    """From the scheduler's clock to that of the trace, which is the wall clock of the front door."""


@dataclass(frozen=True, slots=True)
class NewSequence:
    """A sequence that takes a slot on the worker. Sent once; later work rows name the slot only."""

    slot: SeqSlot
    request_id: str
    token_ids: list[int]
    """The prompt and what has been generated before (resume, preemption, fork)."""
    num_prompt_tokens: int
    sampling: SamplingParams
    block_ids: list[BlockId]
    """Blocks that already hold the sequence's first tokens (prefix hits, shared prompt blocks)."""
    trace: TraceContext = field(default_factory=TraceContext)


@dataclass(frozen=True, slots=True)
class Work:
    """Row i: compute tokens `[starts[i], starts[i] + num_tokens[i])` of the sequence in `slots[i]`.

    A slot has at most one row in a plan. Where `starts[i] + num_tokens[i]` is one past the ids that the
    scheduler knows, the missing input is the token that the worker sampled for this slot in the plan before.
    """

    slots: list[SeqSlot] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    samples: list[bool] = field(default_factory=list)
    """Whether a token is sampled after the row's last token."""
    num_new_blocks: list[int] = field(default_factory=list)
    new_block_ids: list[BlockId] = field(default_factory=list)
    """Flat: `num_new_blocks[i]` ids for row i, appended to the slot's block table before the step."""

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def total_tokens(self) -> int:
        return sum(self.num_tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    step_id: StepId
    released_slots: list[SeqSlot]
    new_sequences: list[NewSequence]
    work: Work
    """May be empty when a plan only releases slots; the worker answers such a plan too."""


@dataclass(slots=True)
class StepTimings:
    """Nanoseconds of the worker's monotonic clock."""

    received_ns: int = 0
    start_ns: int = 0
    end_ns: int = 0
    gap_ns: int = 0
    """From the end of the step before to the start of this one, where this plan was already waiting; else 0."""


@dataclass(slots=True)
class StepResult:
    step_id: StepId
    slots: list[SeqSlot] = field(default_factory=list)
    """The plan's sampling rows, in any order."""
    token_ids: list[int] = field(default_factory=list)
    logprob_slots: list[SeqSlot] = field(default_factory=list)
    """Entry j of `logprobs` is position `logprob_positions[j]` of this slot: a sampled or a prompt token."""
    logprob_positions: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=Logprobs)
    timings: StepTimings = field(default_factory=StepTimings)


class TransferKind(enum.Enum):
    SPILL = "spill"
    """Device to host."""
    LOAD = "load"
    """Host to device."""
    PERSIST = "persist"
    """Host to disk."""
    FETCH = "fetch"
    """Disk to host."""


class TransferFailure(enum.Enum):
    MISSING = "missing"
    CORRUPT = "corrupt"
    FULL = "full"
    IO_ERROR = "io_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Row i: move the block with the key `keys[i]`. All of it is in flight until the one result comes."""

    transfer_id: TransferId
    kind: TransferKind
    keys: list[BlockKey]
    block_ids: list[BlockId]
    """Empty for PERSIST and FETCH, which do not touch the device."""
    host_slots: list[HostSlot]
    depths: list[int]
    """Positions of the blocks in their chains. Rows come in rising order."""
    tenant: str
    """Whose blocks a PERSIST stores; empty: nobody's in particular."""
    timeout_ns: int
    """From receipt. Rows that are not done by then are not done at all."""
    trace: TraceContext = field(default_factory=TraceContext)
    """Of the request that waits for it, and the number of the stretch in which it does; 0: nobody waits."""
    stretch: int = 0


@dataclass(frozen=True, slots=True)
class TransferResult:
    """Rows are done in order: the first `num_done` are good, the others hold nothing of use."""

    transfer_id: TransferId
    num_done: int
    failure: TransferFailure | None = None
    """Why row `num_done` was not done; None when all were."""
    num_bytes: int = 0
    wait_ns: int = 0
    """From receipt to the first byte."""
    copy_ns: int = 0


@dataclass(frozen=True, slots=True)
class TierEvents:
    """What has become of keys on disk. May be told more than once."""

    stored: list[BlockKey] = field(default_factory=list)
    evicted: list[BlockKey] = field(default_factory=list)
    corrupt: list[BlockKey] = field(default_factory=list)
    begins_listing: bool = False
    """From here to the end of the listing, all that the disk holds is told as stored."""
    ends_listing: bool = False
