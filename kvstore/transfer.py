"""Transfers between the tiers, as data: what the scheduler orders and what the worker reports. No torch.

SPILL    device → host      copier
LOAD     host → device      copier, before any spill
PERSIST  host → disk        disk writer
FETCH    disk → host        disk readers
"""

import enum
from dataclasses import dataclass, field

TENANT_BYTES = 16
NO_TENANT = bytes(TENANT_BYTES)


class Tier(enum.Enum):
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class MoveKind(enum.Enum):
    SPILL = "spill"
    LOAD = "load"
    PERSIST = "persist"
    FETCH = "fetch"


class Failure(enum.Enum):
    """Why the first row that is not done is not done."""

    MISSING = "missing"
    """The disk does not have the key (any more)."""
    CORRUPT = "corrupt"
    """The disk had a record that failed a check. It is dropped, and reported in `TierEvents`."""
    FULL = "full"
    """No room on the disk, or within the tenant's cap."""
    IO_ERROR = "io_error"
    """The disk failed, or there is none. Nothing was deleted for it."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """Never begun: the executor closes, or its queue is full."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows (key, device block, host slot) to move, in order. The columns have one entry per row."""

    transfer_id: int
    kind: MoveKind
    keys: list[bytes]
    block_ids: list[int]
    """Empty for PERSIST and FETCH."""
    host_slots: list[int]
    depths: list[int]
    """Position of each block in its chain, 0 for the head."""
    tenant: bytes
    """16 bytes; `NO_TENANT` for none."""
    timeout_ns: int
    """From receipt by the executor."""

    @property
    def num_rows(self) -> int:
        return len(self.keys)

    def __post_init__(self) -> None:
        num_blocks = self.num_rows if self.kind in (MoveKind.SPILL, MoveKind.LOAD) else 0
        if (len(self.block_ids), len(self.host_slots), len(self.depths)) != (num_blocks, self.num_rows, self.num_rows):
            raise ValueError(
                f"a {self.kind.value} of {self.num_rows} keys has {num_blocks} block ids, {self.num_rows} host "
                f"slots and "
                f"depths, not {len(self.block_ids)}, {len(self.host_slots)} and {len(self.depths)}"
            )
        if len(self.tenant) != TENANT_BYTES:
            raise ValueError(f"a tenant has {TENANT_BYTES} bytes, not {len(self.tenant)}")


@dataclass(frozen=True, slots=True)
class TransferResult:
    """The end of a transfer: from here on its blocks and slots are the scheduler's again."""

    transfer_id: int
    num_done: int
    """The first `num_done` rows are good and came in time; of the others nothing may be assumed."""
    failure: Failure | None
    """None exactly when all rows are done."""
    num_bytes: int
    """Of the done rows."""
    wait_ns: int
    """From receipt to the first byte."""
    copy_ns: int
    """Time spent moving, with the pauses that were made for those who compute, without waits for other transfers."""
    finished_ns: int = field(default=0, compare=False)
    """When that was over, on the executor's clock."""


@dataclass(frozen=True, slots=True)
class TierEvents:
    """What changed on the disk: keys of this worker's namespace.

    From the events that begin a listing to those that end it, all that the disk holds comes as stored.
    """

    stored: list[bytes] = field(default_factory=list)
    evicted: list[bytes] = field(default_factory=list)
    corrupt: list[bytes] = field(default_factory=list)
    begins_listing: bool = False
    ends_listing: bool = False

    def __bool__(self) -> bool:
        return bool(self.stored or self.evicted or self.corrupt)


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """A name and keys that it pins, beside those that it pins already."""

    name: str
    keys: list[bytes]
    is_removed: bool = False
    """True: instead, the name pins nothing any more."""


@dataclass(frozen=True, slots=True)
class PinKept:
    """The answer to a `PinnedKeys` that was to be written to the index of the disk."""

    name: str
    why_not: str = ""
    """Empty: it is there."""


@dataclass(frozen=True, slots=True)
class TierFault:
    """A tier stopped working, or works again. For people; every transfer has its own result besides."""

    tier: Tier
    message: str
    is_over: bool = False
    """True when the tier works again."""
