"""What people ask of a worker's disk: what is in it, whether it is sound, that it be emptied."""

import threading
from collections.abc import Callable
from pathlib import Path

from kvstore.disk import DiskTier
from kvstore.disk_care import DiskStats, VerifyReport
from kvstore.transfer import PinKept, PinnedKeys, TierEvents
from services.worker.disk_listing import DiskListing
from services.worker.pin_writer import PinWriter


class CareStopped(Exception):
    """Nobody waits for the answer any more, or the worker is leaving."""


class DiskKeeper:
    """Works beside the disk's own threads, one task at a time, on the thread that calls; others wait for it.

    Every method may raise OSError or DiskTierError, and CareStopped where `is_wanted` has become False. Does not own
    the disk, which must live until `close` has returned True.
    """

    def __init__(self, disk: DiskTier, tell: Callable[[TierEvents | PinnedKeys | PinKept], None]) -> None:
        """`tell` hears what was cleared, on the calling thread, and what the parts have to say, on theirs."""
        self.listing = DiskListing(disk, tell)
        self.pins = PinWriter(disk, tell, self.listing.refresh)
        self._disk = disk
        self._tell = tell
        self._is_closing = False
        self._working = threading.Lock()

    @property
    def disk_id(self) -> bytes:
        return self._disk.disk_id

    @property
    def directory(self) -> Path:
        return self._disk.options.directory

    @property
    def capacity_bytes(self) -> int:
        return self._disk.options.cap_bytes

    @property
    def namespace(self) -> bytes:
        """The one that this worker serves."""
        return self._disk.options.namespace

    @property
    def num_corrupt(self) -> int:
        """Records that this worker has found corrupt since it opened the disk."""
        return self._disk.num_corrupt

    def stats(self, is_wanted: Callable[[], bool]) -> DiskStats:
        with self._working:
            self._check(is_wanted)
            return self._disk.care.stats()

    def verify(self, is_wanted: Callable[[], bool], on_progress: Callable[[int, int], None]) -> VerifyReport:
        """Read every record of the directory. `on_progress` gets the records done and those in all."""

        def go_on(num_done: int, num_records: int) -> None:
            self._check(is_wanted)
            on_progress(num_done, num_records)

        with self._working:
            self._check(is_wanted)
            return self._disk.care.verify(go_on)

    def clear(self, is_wanted: Callable[[], bool], *, all_namespaces: bool) -> int:
        """Delete the records of the served namespace, or of all in the directory; returns how many there were."""
        with self._working:
            self._check(is_wanted)
            try:
                num_cleared = self._disk.clear()
                if all_namespaces:
                    num_cleared += self._disk.care.clear()
            finally:
                # Also where the second half failed: what is gone is gone.
                events = self._disk.take_events()
                if events:
                    self._tell(events)
            return num_cleared

    def close(self, timeout_s: float) -> bool:
        """Let what is under way end, and nothing begin. False where it has not ended within the time."""
        self._is_closing = True
        return self.pins.close(timeout_s) and self._working.acquire(timeout=timeout_s)

    def _check(self, is_wanted: Callable[[], bool]) -> None:
        if self._is_closing or not is_wanted():
            raise CareStopped
