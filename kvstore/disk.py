"""The disk tier of one worker: records of one namespace in a slab file, found through an LMDB index.

Several processes share a directory. A group of records is one write transaction of the index: payloads go into slots
that are free in the committed index, then entries, evictions and counters are committed together. So whatever dies, and
when, the index never names a slot that is being written; `kill -9` loses the group that was being written and leaves
nothing behind to clean up. Payloads are not synced: after a crash of the system those that had not reached the disk
fail their checksum and are dropped.

Reading takes a snapshot of the index for the time of one look-up, then reads without any lock. If the record that is
there is not the one that the index named, the index is asked again: where it has moved on, this is a miss; where it has
not, the record is corrupt. It is then dropped with the next group and reported. An I/O error deletes nothing.

Why not the values in LMDB itself: `python -m bench.tiers churn` measures both.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kvstore.disk_care import DiskCare
from kvstore.disk_entry import DiskEntry
from kvstore.disk_files import DiskFiles, DiskOptions, attach, open_files
from kvstore.disk_group import GROUP_ROWS, GroupWriter
from kvstore.disk_index import FULL_CODES
from kvstore.disk_store import StoreResult, StoreRow
from kvstore.errors import FilesReplaced, NoSpaceLeft
from kvstore.reader_notes import ReaderNotes
from kvstore.record import RecordIdentity
from kvstore.transfer import Failure, TierEvents

_TRIES = 3
"""For a group without a slot: the first evicts, the second gives room of other namespaces back to the file system."""


class DiskTier:
    """`store`, `flush`, `clear`, `revive` and `close` from one thread at a time, all else from any."""

    def __init__(self, options: DiskOptions, clock: Callable[[], int] = time.time_ns) -> None:
        """Opens or makes the tier; `clock` is the wall clock in ns. Raises a DiskTierError that says what to do."""
        self.options = options
        self.num_corrupt = 0
        """Records that failed a check, since the tier was opened."""
        self._clock = clock
        self._notes = ReaderNotes()
        self._writer = GroupWriter(options, self._notes, clock)
        self._lock = threading.Lock()
        self._stored: list[bytes] = []
        self._evicted: list[bytes] = []
        self._corrupt: list[bytes] = []
        self._files = self._take_over(open_files(options))

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        namespace: bytes,
        block_bytes: int,
        cap_bytes: int,
        tenant_cap_bytes: int | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> "DiskTier":
        """As the constructor, from the parts of `DiskOptions`. Raises TierConfigError for a cap below four records."""
        return cls(DiskOptions(directory, namespace, block_bytes, cap_bytes, tenant_cap_bytes), clock)

    @property
    def disk_id(self) -> bytes:
        """16 bytes. Workers with the same id share their records."""
        return self._files.index.disk_id

    @property
    def care(self) -> DiskCare:
        """Statistics, verification, clearing of the directory."""
        return DiskCare(self._files.index, self._clock)

    @property
    def has_pending(self) -> bool:
        return bool(self._notes)

    def key_chunks(self, chunk: int = 4096) -> Iterator[list[bytes]]:
        """All keys of the namespace, in chunks; each is a snapshot of its own."""
        files, after = self._files, b""
        while True:
            with files.index.read() as txn, txn.cursor(db=files.records) as cursor:
                keys: list[bytes] = []
                if cursor.set_range(after):
                    for key in cursor.iternext(keys=True, values=False):
                        keys.append(key)
                        if len(keys) == chunk:
                            break
            if not keys:
                return
            yield keys
            after = keys[-1] + b"\0"

    def fetch(self, key: bytes, into: memoryview) -> Failure | None:
        """Read a record into `into`, `block_bytes` long; the bytes are good only if None is returned.

        Returns MISSING or CORRUPT. Raises OSError or DiskTierError; then nothing was deleted.
        """
        files = self._files
        if self._notes.is_condemned(key):
            return Failure.MISSING
        entry = files.look_up(key)
        if entry is None:
            return Failure.MISSING
        identity = RecordIdentity(self.options.namespace, key, entry.generation)
        if files.slab.read(entry.slot, identity, into) is None:
            self._notes.add_hit(key, self._clock())
            return None
        now = files.look_up(key)
        if now is None or now.generation != entry.generation:
            return Failure.MISSING  # evicted or stored anew while it was being read
        files.require_slab()
        if self._notes.condemn(key, entry.generation):
            with self._lock:
                self._corrupt.append(key)
                self.num_corrupt += 1
        return Failure.CORRUPT

    def read_ahead(self, keys: Sequence[bytes]) -> None:
        """Let the kernel begin to read these records, so that cold ones come at the speed of the disk's queue."""
        files = self._files
        with files.index.read() as txn:
            values = [txn.get(key, db=files.records) for key in keys]
        for value in values:
            if value is not None:
                files.slab.read_ahead(DiskEntry.unpack(value).slot)

    def store(self, rows: Sequence[StoreRow]) -> StoreResult:
        """Persist the rows, a group per transaction. A record that exists is only marked as used.

        Rows that find no room fail with FULL. Raises OSError or DiskTierError: groups before the error are stored.
        """
        failures: list[Failure | None] = []
        notice: str | None = None
        tries = 0
        while len(failures) < len(rows):
            try:
                group = self._writer.store(self._files, rows[len(failures) : len(failures) + GROUP_ROWS])
            except (NoSpaceLeft, OSError) as error:
                if isinstance(error, OSError) and error.errno not in FULL_CODES:
                    raise
                notice = str(error) if isinstance(error, NoSpaceLeft) else self.options.full_notice(error)
                tries = _TRIES
            else:
                failures += group.failures
                notice = group.notice
                tries = 0 if group.failures else tries + 1
                with self._lock:
                    self._stored += group.stored
                    self._evicted += group.evicted
            if tries == _TRIES:
                failures += [Failure.FULL] * (len(rows) - len(failures))
        return StoreResult(failures, notice)

    def flush(self) -> None:
        """Write back the hits, and drop what was found corrupt."""
        self._writer.flush(self._files)

    def take_events(self) -> TierEvents:
        with self._lock:
            events = TierEvents(self._stored, self._evicted, self._corrupt)
            self._stored, self._evicted, self._corrupt = [], [], []
        return events

    def clear(self) -> int:
        """Delete all records of the namespace; returns how many there were. They come as evicted in the events."""
        gone = [key for keys in self.key_chunks() for key in keys]
        num_cleared = self.care.clear(self.options.namespace)
        self._notes.clear()
        with self._lock:
            self._evicted += gone
        return num_cleared

    def pins(self) -> dict[str, list[bytes]]:
        """The names of the namespace and the keys that they pin. From any thread."""
        files = self._files
        with files.index.read() as txn:
            return dict(files.pins.names(txn, self.options.namespace))

    def pin(self, name: str, keys: Sequence[bytes]) -> None:
        """Add to what the name pins; committed on return. From any thread."""
        files = self._files
        with files.index.write() as txn:
            files.pins.add(txn, self.options.namespace, name, keys)

    def unpin(self, name: str) -> None:
        """A name that is not pinned is ignored. From any thread."""
        files = self._files
        with files.index.write() as txn:
            files.pins.remove(txn, self.options.namespace, name)

    def num_writes_of_others(self) -> int:
        """Counts what was committed to the directory, but not through this tier. From any thread."""
        return self._files.index.num_writes_of_others()

    def revive(self) -> None:
        """Open the files anew if others lie in their place now. Raises as opening does."""
        files = self._files
        try:
            files.index.require_in_place()
        except FilesReplaced:
            # Nobody closes the old environment under a reader; it goes with its last user.
            files = open_files(self.options)
        else:
            if files.slab.is_in_place():
                return
            # Only the slab file is another one; the environment must not be opened twice.
            files = attach(self.options, files.index)
        self._files = self._take_over(files)
        self._notes.clear()

    def close(self) -> None:
        """Write back what is pending and close. No other thread may be inside."""
        try:
            if self.has_pending:
                self.flush()
        finally:
            self._files.index.close()

    def _take_over(self, files: DiskFiles) -> DiskFiles:
        with self._lock:
            self._evicted += files.lost_keys
        return files
