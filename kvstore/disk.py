"""The disk tier of one worker: records of one namespace in a slab file, found through an LMDB index.

Several processes share a directory. A group of records is one write transaction of the index: payloads go into slots
that are free in the committed index, then entries, evictions and counters are committed together. So whatever dies,
and when, the index never names a slot that is being written; `kill -9` loses the group that was being written and
leaves nothing behind to clean up. Payloads are not synced: after a crash of the system those that had not reached the
disk fail their checksum and are dropped.

Reading takes a snapshot of the index for the time of one look-up, then reads without any lock. If the record that is
there is not the one that the index named, the index is asked again: where it has moved on, this is a miss; where it
has not, the record is corrupt. It is then dropped with the next group and reported. An I/O error deletes nothing.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lmdb

from kvstore.disk_care import DiskCare
from kvstore.disk_entry import DiskEntry, NamespaceEntry
from kvstore.disk_index import FULL_CODES, DiskIndex
from kvstore.disk_space import DiskSpace, slab_path
from kvstore.disk_store import StoreResult, StoreRow
from kvstore.errors import FilesReplaced, ForeignFile, NoSpaceLeft, TierConfigError
from kvstore.eviction import choose_victims
from kvstore.record import RecordIdentity
from kvstore.schema import DIGEST_BYTES
from kvstore.slab_file import SlabFile, slot_bytes
from kvstore.transfer import NO_TENANT, Failure, TierEvents

GROUP_ROWS = 16
"""Records per transaction: at 0.9 MB each the sync of the index costs less than a third of the write."""
MIN_CAP_ROWS = 4
_TRIES = 3
_FULL_FOR_NS = 30 * 10**9
"""How long a full file system is believed to stay full."""

Clock = Callable[[], int]
"""Nanoseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """What a disk tier is opened with."""

    directory: Path
    namespace: bytes
    """32 bytes: which model, weights, KV format. Records of another one are never served."""
    block_bytes: int
    cap_bytes: int
    """For all namespaces in the directory together: what the slab files may take on the disk."""
    tenant_cap_bytes: int | None = None
    """For each tenant, over all namespaces; None: no cap of its own."""


@dataclass(frozen=True, slots=True)
class _Files:
    """What was opened together and is replaced together."""

    index: DiskIndex
    slab: SlabFile
    space: DiskSpace
    records: "lmdb._Database"


@dataclass(slots=True)
class _Hits:
    count: int = 0
    used_ns: int = 0


class DiskTier:
    """`fetch`, `read_ahead`, `keys` and `take_events` from any thread; `store` and `flush` from one at a time."""

    def __init__(self, options: DiskOptions, clock: Clock = time.time_ns) -> None:
        """Opens or makes the tier. Raises TierConfigError or a DiskTierError that says what to do."""
        size = slot_bytes(options.block_bytes)
        assert len(options.namespace) == DIGEST_BYTES
        for name, cap in (("disk cache", options.cap_bytes), ("disk cap per tenant", options.tenant_cap_bytes)):
            if cap is not None and cap < MIN_CAP_ROWS * size:
                raise TierConfigError(
                    f"The {name} is {cap} bytes; with this model and block size it needs at least "
                    f"{MIN_CAP_ROWS * size}, or 0 to go without"
                )
        self.options = options
        self.slot_bytes = size
        self._clock = clock
        self._headroom_bytes = max(1, min(GROUP_ROWS, options.cap_bytes // size // 8)) * size
        self._lock = threading.Lock()
        self._hits: dict[bytes, _Hits] = {}
        self._condemned: dict[bytes, int] = {}  # key → generation
        self._stored: list[bytes] = []
        self._evicted: list[bytes] = []
        self._corrupt: list[bytes] = []
        self._full_until_ns = 0
        self.num_corrupt = 0
        """Records that failed a check, since the tier was opened."""
        self._files = self._open()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        namespace: bytes,
        block_bytes: int,
        cap_bytes: int,
        tenant_cap_bytes: int | None = None,
        clock: Clock = time.time_ns,
    ) -> "DiskTier":
        """As the constructor, from the parts of `DiskOptions`."""
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
        return bool(self._hits or self._condemned)

    def keys(self, chunk: int = 4096) -> Iterator[list[bytes]]:
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
        if key in self._condemned:
            return Failure.MISSING
        entry = self._look_up(files, key)
        if entry is None:
            return Failure.MISSING
        identity = RecordIdentity(self.options.namespace, key, entry.generation)
        if files.slab.read(entry.slot, identity, into) is None:
            with self._lock:
                hits = self._hits.setdefault(key, _Hits())
                hits.count += 1
                hits.used_ns = self._clock()
            return None
        now = self._look_up(files, key)
        if now is None or now.generation != entry.generation:
            return Failure.MISSING  # evicted or stored anew while it was being read
        if not files.slab.is_in_place():
            raise self._replaced(files)
        with self._lock:
            if self._condemned.get(key) != entry.generation:
                self._condemned[key] = entry.generation
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
                done, why = self._store_group(rows[len(failures) : len(failures) + GROUP_ROWS])
                tries = 0 if done else tries + 1
            except NoSpaceLeft as error:
                done, why, tries = [], str(error), _TRIES
            except OSError as error:
                if error.errno not in FULL_CODES:
                    raise
                done, why, tries = [], self._full_notice(error), _TRIES
            failures += done
            notice = notice or why
            # A try without a slot has evicted for the next one, or given room back to the file system.
            if tries == _TRIES:
                failures += [Failure.FULL] * (len(rows) - len(failures))
        return StoreResult(failures, notice)

    def flush(self) -> None:
        """Write back the hits, and drop what was found corrupt."""
        files = self._files
        with files.index.write() as txn:
            settled = self._settle(files, txn)
        self._forget(settled)

    def take_events(self) -> TierEvents:
        with self._lock:
            events = TierEvents(self._stored, self._evicted, self._corrupt)
            self._stored, self._evicted, self._corrupt = [], [], []
        return events

    def clear(self) -> int:
        """Delete all records of the namespace; returns how many there were."""
        gone = [key for keys in self.keys() for key in keys]
        self.care.clear(self.options.namespace)
        with self._lock:
            self._evicted += gone
            self._hits.clear()
            self._condemned.clear()
        return len(gone)

    def revive(self) -> None:
        """Open the files anew if others lie in their place now. Raises as opening does."""
        files = self._files
        try:
            files.index.require_in_place()
            if files.slab.is_in_place():
                return
            # The index is still ours, only the slab file is not: its records are lost, the environment stays open.
            self._files = self._attach(files.index)
        except FilesReplaced:
            # Nobody closes the old environment under a reader; it goes with its last user.
            self._files = self._open()
        with self._lock:
            self._hits.clear()
            self._condemned.clear()

    def close(self) -> None:
        """Write back what is pending and close. No other thread may be inside."""
        if self.has_pending:
            self.flush()
        self._files.index.close()

    def _open(self) -> _Files:
        index = DiskIndex(self.options.directory, create=True)
        try:
            return self._attach(index)
        except BaseException:
            index.close()
            raise

    def _attach(self, index: DiskIndex) -> _Files:
        """Make the namespace known and its slab file ready, under the directory's write lock."""
        options, namespace = self.options, self.options.namespace
        records, path = index.records(namespace), slab_path(index, namespace)
        try:
            with index.write() as txn:
                known = index.namespaces(txn)
                entry = known.get(namespace) or NamespaceEntry(len(known), options.block_bytes, 0, 0)
                if entry.block_bytes != options.block_bytes:
                    raise TierConfigError(
                        f"{options.directory} knows this model's blocks with {entry.block_bytes} bytes, not "
                        f"{options.block_bytes}: the namespace does not tell two layouts apart"
                    )
                if not path.exists() and namespace in known:
                    entry = self._drop_all(index, txn, entry)
                is_new = index.num_records(txn, namespace) == 0
                slab = SlabFile(
                    path, disk_id=index.disk_id, namespace=namespace, block_bytes=options.block_bytes, is_new=is_new
                )
                if slab.is_blank and namespace in known:
                    entry = self._drop_all(index, txn, entry)
                index.put_namespace(txn, namespace, entry)
        except OSError as error:
            if error.errno in FULL_CODES:
                raise NoSpaceLeft(self._full_notice(error)) from error
            raise ForeignFile(f"{path} cannot be opened: {error}. Remove it, or use another directory") from error
        return _Files(index, slab, DiskSpace(index, options.cap_bytes), records)

    def _drop_all(self, index: DiskIndex, txn: "lmdb.Transaction[bytes]", entry: NamespaceEntry) -> NamespaceEntry:
        """The slab file is gone, and all records with it: start the namespace anew."""
        gone = DiskCare(index, self._clock).forget(txn, self.options.namespace)
        index.forget_free(txn, entry.number)
        with self._lock:
            self._evicted += gone
        return replace(entry, num_slots=0, num_held=0)

    def _look_up(self, files: _Files, key: bytes) -> DiskEntry | None:
        with files.index.read() as txn:
            value = txn.get(key, db=files.records)
        return None if value is None else DiskEntry.unpack(value)

    def _store_group(self, rows: Sequence[StoreRow]) -> tuple[list[Failure | None], str | None]:
        """One transaction: what became of the first rows, until slots ran out; and why, if not by the cap."""
        files, now_ns, notice = self._files, self._clock(), None
        index, space = files.index, files.space
        if not files.slab.is_in_place():
            raise self._replaced(files)
        done: list[Failure | None] = []
        stored: list[bytes] = []
        with index.write() as txn:
            space.trim(txn, space.held_bytes(txn) - self._cap_bytes(txn, files), files.slab)
            known = [txn.get(row.key, db=files.records) is not None and row.key not in self._condemned for row in rows]
            slots, refusal = space.take(txn, files.slab, known.count(False))
            if refusal is not None:
                self._full_until_ns = now_ns + _FULL_FOR_NS
                notice = self._full_notice(refusal)
            # From here on slots are freed that must not be taken before the commit.
            settled = self._settle(files, txn)
            keep = {row.key for row in rows}
            evicted = self._make_tenant_room(files, txn, rows, now_ns, keep)
            for row in rows:
                value = txn.get(row.key, db=files.records)
                if value is not None:
                    txn.put(row.key, replace(DiskEntry.unpack(value), used_ns=now_ns).pack(), db=files.records)
                    done.append(None)
                    continue
                if not self._tenant_has_room(files, txn, row.tenant):
                    done.append(Failure.FULL)
                    continue
                if not slots:
                    break
                entry = DiskEntry(slots.pop(0), index.next_generation(txn), row.depth, 0, now_ns, now_ns, row.tenant)
                identity = RecordIdentity(self.options.namespace, row.key, entry.generation)
                files.slab.write(entry.slot, identity, row.payload)
                txn.put(row.key, entry.pack(), db=files.records)
                index.add_tenant_bytes(txn, row.tenant, self.slot_bytes)
                stored.append(row.key)
                done.append(None)
            space.put_back(txn, self.options.namespace, slots)
            evicted += self._make_room(files, txn, now_ns, keep if done else set())
        self._forget(settled)
        with self._lock:
            self._stored += stored
            self._evicted += evicted
        return done, notice

    def _settle(self, files: _Files, txn: "lmdb.Transaction[bytes]") -> dict[bytes, int]:
        """Apply what readers noted; returns the condemned records, to be forgotten after the commit."""
        with self._lock:
            hits, self._hits = self._hits, {}
            condemned = dict(self._condemned)
        for key, hit in hits.items():
            value = txn.get(key, db=files.records)
            if value is not None:
                entry = DiskEntry.unpack(value)
                used_ns = max(entry.used_ns, hit.used_ns)
                txn.put(key, replace(entry, hits=entry.hits + hit.count, used_ns=used_ns).pack(), db=files.records)
        for key, generation in condemned.items():
            value = txn.get(key, db=files.records)
            if value is not None and DiskEntry.unpack(value).generation == generation:
                self._delete(files, txn, self.options.namespace, key, DiskEntry.unpack(value), self.slot_bytes)
        return condemned

    def _forget(self, condemned: dict[bytes, int]) -> None:
        with self._lock:
            for key, generation in condemned.items():
                if self._condemned.get(key) == generation:
                    del self._condemned[key]

    def _make_tenant_room(
        self,
        files: _Files,
        txn: "lmdb.Transaction[bytes]",
        rows: Sequence[StoreRow],
        now_ns: int,
        keep: set[bytes],
    ) -> list[bytes]:
        """Evict records of tenants that these rows would bring over their cap, their own alone."""
        cap, evicted = self.options.tenant_cap_bytes, []
        if cap is None:
            return []
        for tenant in {row.tenant for row in rows} - {NO_TENANT}:
            new = sum(row.tenant == tenant and txn.get(row.key, db=files.records) is None for row in rows)
            over = files.index.tenant_bytes(txn, tenant) + new * self.slot_bytes - cap
            if over > 0:
                batch = max(over, min(self._headroom_bytes, cap // 8))
                evicted += self._evict(files, txn, batch, now_ns, keep, tenant)
        return evicted

    def _tenant_has_room(self, files: _Files, txn: "lmdb.Transaction[bytes]", tenant: bytes) -> bool:
        cap = self.options.tenant_cap_bytes
        return cap is None or not any(tenant) or files.index.tenant_bytes(txn, tenant) + self.slot_bytes <= cap

    def _make_room(self, files: _Files, txn: "lmdb.Transaction[bytes]", now_ns: int, keep: set[bytes]) -> list[bytes]:
        """Evict so that the next group finds room; in batches, since finding the least valuable reads every entry."""
        cap = self._cap_bytes(txn, files)
        over = files.space.live_bytes(txn) + self._headroom_bytes - cap
        if over <= 0:
            return []
        return self._evict(files, txn, max(over, cap // 64), now_ns, keep)

    def _evict(
        self,
        files: _Files,
        txn: "lmdb.Transaction[bytes]",
        num_bytes: int,
        now_ns: int,
        keep: set[bytes],
        tenant: bytes | None = None,
    ) -> list[bytes]:
        """Returns the evicted keys of our own namespace."""
        victims = choose_victims(files.index, txn, num_bytes, now_ns, keep=keep, tenant=tenant)
        for victim in victims:
            self._delete(files, txn, victim.namespace, victim.key, victim.entry, victim.num_bytes)
        return [victim.key for victim in victims if victim.namespace == self.options.namespace]

    @staticmethod
    def _delete(
        files: _Files,
        txn: "lmdb.Transaction[bytes]",
        namespace: bytes,
        key: bytes,
        entry: DiskEntry,
        num_bytes: int,
    ) -> None:
        txn.delete(key, db=files.index.records(namespace))
        files.index.add_tenant_bytes(txn, entry.tenant, -num_bytes)
        files.space.put_back(txn, namespace, [entry.slot])

    def _cap_bytes(self, txn: "lmdb.Transaction[bytes]", files: _Files) -> int:
        """The cap, or what the directory takes now while the file system is full."""
        if self._clock() < self._full_until_ns:
            return min(self.options.cap_bytes, files.space.held_bytes(txn))
        return self.options.cap_bytes

    def _replaced(self, files: _Files) -> FilesReplaced:
        return FilesReplaced(
            f"{files.slab.path} was replaced or removed under the running tier; stop whatever changes files in "
            f"{self.options.directory}. The tier opens what is there now"
        )

    def _full_notice(self, error: OSError) -> str:
        return (
            f"The file system of {self.options.directory} is full ({error.strerror}): the cache stays below its "
            f"{self.options.cap_bytes / 2**30:.2f} GiB and makes room among its own records. Free some space, or "
            f"lower the "
            f"disk cache"
        )
