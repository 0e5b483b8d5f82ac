"""What the executor needs of a disk: the seam where tests put a disk that is late, fails or hangs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kvstore.transfer import Failure, TierEvents


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One record to persist."""

    key: bytes
    payload: memoryview
    """A host slot. Only read, and only until the call returns."""
    depth: int
    tenant: bytes


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of the rows of one call."""

    failures: list[Failure | None]
    """Per row; None: the record is on the disk."""
    notice: str | None = None
    """For people: why rows were refused with FULL for lack of room that nobody planned."""


class DiskStore(Protocol):
    """Records by key. Any method may raise `OSError` or `DiskTierError`: the disk failed, nothing was deleted."""

    @property
    def has_pending(self) -> bool:
        """Whether `flush` has something to write."""
        ...

    def store(self, rows: Sequence[StoreRow]) -> StoreResult:
        """Persist the rows. One thread at a time."""
        ...

    def read_ahead(self, keys: Sequence[bytes]) -> None:
        """Hint that these will be fetched next. Any thread."""
        ...

    def fetch(self, key: bytes, into: memoryview) -> Failure | None:
        """Bring a record's bytes into `into`, which holds garbage unless None is returned. Any thread."""
        ...

    def flush(self) -> None:
        """Write back hits, drop what was found corrupt. The storing thread."""
        ...

    def take_events(self) -> TierEvents:
        """What changed since the last call. Any thread."""
        ...

    def revive(self) -> None:
        """Before a new try after failures: open what has to be opened again. Raises while it is of no use."""
        ...
