"""Tells the scheduler what a disk holds: all of it at first, and again when another process has written to it."""

import threading
from collections.abc import Callable

from kvstore.disk import DiskTier
from kvstore.transfer import PinnedKeys, TierEvents


class DiskListing:
    """Of the namespace that the disk was opened with. One listing at a time; safe from any thread."""

    def __init__(self, disk: DiskTier, tell: Callable[[TierEvents | PinnedKeys], None]) -> None:
        self._disk = disk
        self._tell = tell
        self._telling = threading.Lock()
        # What others had written when the last listing began; None: there was none yet.
        self._told_writes: int | None = None

    def tell_pins(self) -> None:
        """Raises OSError or DiskTierError, as all methods here do."""
        for name, keys in self._disk.pins().items():
            self._tell(PinnedKeys(name, keys))

    def tell_keys(self) -> None:
        """All keys, whatever was told before."""
        with self._telling:
            self._told_writes = self._disk.num_writes_of_others()
            self._tell(TierEvents(begins_listing=True))
            for chunk in self._disk.key_chunks():
                self._tell(TierEvents(stored=chunk))
            self._tell(TierEvents(ends_listing=True))

    def refresh(self) -> None:
        """All keys, if another process has written since they were told."""
        if self._told_writes is not None and self._disk.num_writes_of_others() != self._told_writes:
            self.tell_keys()
