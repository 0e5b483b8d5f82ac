"""A disk that is late, fails, is short or hangs, on command, around a real one."""

import threading
from collections.abc import Callable, Sequence

from kvstore.disk_store import DiskStore, StoreResult, StoreRow
from kvstore.transfer import Failure, TierEvents


class FlakyDisk:
    """Passes everything on, unless told otherwise. A `DiskStore` like the one inside."""

    def __init__(self, inner: DiskStore) -> None:
        self._inner = inner
        self.error: Exception | None = None
        """Raised by every call that moves bytes."""
        self.is_short = False
        """Fetches end in the middle of a payload, groups have room for half of their rows."""
        self.on_call: Callable[[], None] | None = None
        """Called during every call that moves bytes, after they have moved."""
        self.num_calls = 0
        self._lock = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self.entered = threading.Event()
        """A call that moves bytes has come since the last `hang`."""

    def hang(self) -> None:
        """Calls that come from now on do not return until `let_go`."""
        self.entered.clear()
        self._passing.clear()

    def let_go(self) -> None:
        self._passing.set()

    @property
    def has_pending(self) -> bool:
        return self._inner.has_pending

    def store(self, rows: Sequence[StoreRow]) -> StoreResult:
        self._begin()
        if self.is_short:
            fitting = rows[: len(rows) // 2]
            result = self._inner.store(fitting)
            result = StoreResult(result.failures + [Failure.FULL] * (len(rows) - len(fitting)), "it is short of space")
        else:
            result = self._inner.store(rows)
        self._end()
        return result

    def read_ahead(self, keys: Sequence[bytes]) -> None:
        self._inner.read_ahead(keys)

    def fetch(self, key: bytes, into: memoryview) -> Failure | None:
        self._begin()
        failure = self._inner.fetch(key, into)
        if self.is_short and failure is None:
            into[len(into) // 2 :] = bytes(len(into) - len(into) // 2)
            failure = Failure.CORRUPT
        self._end()
        return failure

    def flush(self) -> None:
        self._inner.flush()

    def take_events(self) -> TierEvents:
        return self._inner.take_events()

    def revive(self) -> None:
        if self.error is not None:
            raise self.error
        self._inner.revive()

    def _begin(self) -> None:
        with self._lock:
            self.num_calls += 1
        self.entered.set()
        # A generous bound, so that a test that fails does not hang with its disk.
        assert self._passing.wait(120), "nobody let the disk go"
        if self.error is not None:
            raise self.error

    def _end(self) -> None:
        if self.on_call is not None:
            self.on_call()
