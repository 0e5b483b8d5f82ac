"""Keeps in the disk's index what is pinned, on a thread of its own: a commit may have to wait for the disk."""

import queue
import threading
import time
from collections.abc import Callable

from kvstore.disk import DiskTier
from kvstore.errors import TierError
from kvstore.transfer import PinKept, PinnedKeys
from services.common import logs

_log = logs.get_logger(__name__)

_REST_S = 15.0


class PinWriter:
    """Writes in the order of the calls, and answers each. Does not own the disk."""

    def __init__(self, disk: DiskTier, tell: Callable[[PinKept], None], on_rest: Callable[[], None]) -> None:
        """`tell` and `on_rest` are called on the thread; `on_rest` every so often, and may raise what disks raise."""
        self._disk = disk
        self._tell = tell
        self._on_rest = on_rest
        self._waiting: queue.SimpleQueue[PinnedKeys | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="disk-pins", daemon=True)
        self._thread.start()

    def write(self, pinned: PinnedKeys) -> None:
        """Never blocks. Its one answer comes to `tell`."""
        self._waiting.put(pinned)

    def close(self, timeout_s: float) -> bool:
        """Write what waits, and end. False where that takes longer."""
        self._waiting.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        rest_at_s = time.monotonic() + _REST_S
        while True:
            try:
                pinned = self._waiting.get(timeout=max(0.0, rest_at_s - time.monotonic()))
            except queue.Empty:
                self._rest()
                rest_at_s = time.monotonic() + _REST_S
                continue
            if pinned is None:
                return
            self._tell(PinKept(pinned.name, self._write(pinned)))

    def _write(self, pinned: PinnedKeys) -> str:
        """Why not; empty if it was done."""
        try:
            if pinned.is_removed:
                self._disk.unpin(pinned.name)
            else:
                self._disk.pin(pinned.name, pinned.keys)
        except (TierError, OSError) as error:
            return str(error)
        return ""

    def _rest(self) -> None:
        try:
            self._on_rest()
        except (TierError, OSError) as error:
            # The disk's own threads tell people when it does not work.
            _log.warning("cannot list what is on disk", extra=logs.fields(reason=str(error)))
