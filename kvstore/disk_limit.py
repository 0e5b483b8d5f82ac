"""A disk that is read no faster than it is told: for disks that others need too, and to see what a slow one does."""

import threading
import time
from collections.abc import Callable, Sequence

from kvstore.disk_store import DiskStore, StoreResult, StoreRow
from kvstore.transfer import Failure, TierEvents


class ReadLimit:
    """A `DiskStore` over another one. Fetches take turns; each record takes its time at `bytes_per_s`."""

    def __init__(
        self,
        disk: DiskStore,
        block_bytes: int,
        bytes_per_s: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`bytes_per_s` is above 0. Owns nothing: `disk` is closed by its owner."""
        self._disk = disk
        self._record_s = block_bytes / bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at_s = 0.0

    @property
    def has_pending(self) -> bool:
        return self._disk.has_pending

    def store(self, rows: Sequence[StoreRow]) -> StoreResult:
        return self._disk.store(rows)

    def read_ahead(self, keys: Sequence[bytes]) -> None:
        """Reads nothing ahead: that would read past the limit."""

    def fetch(self, key: bytes, into: memoryview) -> Failure | None:
        failure = self._disk.fetch(key, into)
        with self._lock:
            self._free_at_s = max(self._free_at_s, self._clock()) + self._record_s
            wait_s = self._free_at_s - self._clock()
        if wait_s > 0:
            self._sleep(wait_s)
        return failure

    def flush(self) -> None:
        self._disk.flush()

    def take_events(self) -> TierEvents:
        return self._disk.take_events()

    def revive(self) -> None:
        self._disk.revive()
