"""A group of records persisted in one transaction, with all that it entails: evictions, counters, what readers noted.

The order within the transaction matters. Slots are taken first, from those that were free before it began: whatever
is freed later may be read as valid until the commit.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from kvstore.disk_entry import DiskEntry
from kvstore.disk_files import DiskFiles, DiskOptions
from kvstore.disk_index import Txn
from kvstore.disk_store import StoreRow
from kvstore.eviction import choose_victims
from kvstore.reader_notes import ReaderNotes
from kvstore.record import RecordIdentity
from kvstore.slab_file import slot_bytes
from kvstore.transfer import NO_TENANT, Failure

GROUP_ROWS = 16
"""Records per transaction. 32 would sync the index less often (1.8 GB/s for 1.6), but hold the lock twice as long."""
_FULL_FOR_NS = 30 * 10**9
"""How long a full file system is believed to stay full."""


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    failures: list[Failure | None]
    """Of the first rows of the group, until slots ran out; maybe of none."""
    stored: list[bytes]
    evicted: list[bytes]
    """Keys of our own namespace."""
    notice: str | None
    """Why there are fewer slots than the cap allows: the file system has no more room."""


class GroupWriter:
    """Writes groups. One thread at a time."""

    def __init__(self, options: DiskOptions, notes: ReaderNotes, clock: Callable[[], int]) -> None:
        self._options = options
        self._notes = notes
        self._clock = clock
        self._full_until_ns = 0
        self._notice: str | None = None
        """What was said of a full file system, until it gives room again."""
        rows = max(1, min(GROUP_ROWS, options.cap_bytes // options.slot_bytes // 8))
        self._headroom_bytes = rows * options.slot_bytes
        """Free after each group, so that the next one finds slots."""

    def store(self, files: DiskFiles, rows: Sequence[StoreRow]) -> GroupOutcome:
        """Persist the rows, all or none, except those that find no room. Raises OSError or DiskTierError."""
        files.require_slab()
        options, index, space, now_ns = self._options, files.index, files.space, self._clock()
        failures: list[Failure | None] = []
        stored: list[bytes] = []
        with index.write() as txn:
            space.trim(txn, space.held_bytes(txn) - self._cap_bytes(txn, files), files.slab)
            num_new = sum(
                txn.get(row.key, db=files.records) is None or self._notes.is_condemned(row.key) for row in rows
            )
            held_bytes = space.held_bytes(txn)
            slots, refusal = space.take(txn, files.slab, num_new)
            if refusal is not None:
                self._full_until_ns = now_ns + _FULL_FOR_NS
                self._notice = options.full_notice(refusal)
            elif space.held_bytes(txn) > held_bytes:
                self._notice = None
            condemned = self._settle(files, txn)
            keep = {row.key for row in rows}
            evicted = self._make_tenant_room(files, txn, rows, now_ns, keep)
            for row in rows:
                value = txn.get(row.key, db=files.records)
                if value is not None:
                    txn.put(row.key, replace(DiskEntry.unpack(value), used_ns=now_ns).pack(), db=files.records)
                    failures.append(None)
                elif not self._tenant_has_room(files, txn, row.tenant):
                    failures.append(Failure.FULL)
                elif slots:
                    self._put(files, txn, row, slots.pop(0), now_ns)
                    stored.append(row.key)
                    failures.append(None)
                else:
                    break
            space.put_back(txn, options.namespace, slots)
            # Without a slot this transaction is there to make room, be it among the rows' own chain.
            evicted += self._make_room(files, txn, now_ns, keep if failures else ())
        self._notes.forget(condemned)
        return GroupOutcome(failures, stored, evicted, self._notice)

    def flush(self, files: DiskFiles) -> None:
        """Apply what readers noted, without a group."""
        with files.index.write() as txn:
            condemned = self._settle(files, txn)
        self._notes.forget(condemned)

    def _put(self, files: DiskFiles, txn: Txn, row: StoreRow, slot: int, now_ns: int) -> None:
        generation = files.index.next_generation(txn)
        files.slab.write(slot, RecordIdentity(self._options.namespace, row.key, generation), row.payload)
        entry = DiskEntry(slot, generation, row.depth, 0, now_ns, now_ns, row.tenant)
        txn.put(row.key, entry.pack(), db=files.records)
        files.index.add_tenant_bytes(txn, row.tenant, self._options.slot_bytes)

    def _settle(self, files: DiskFiles, txn: Txn) -> dict[bytes, int]:
        """Apply what readers noted; returns the condemned records, to be forgotten after the commit."""
        for key, hits in self._notes.take_hits().items():
            value = txn.get(key, db=files.records)
            if value is not None:
                entry = DiskEntry.unpack(value)
                used_ns = max(entry.used_ns, hits.used_ns)
                txn.put(key, replace(entry, hits=entry.hits + hits.count, used_ns=used_ns).pack(), db=files.records)
        condemned = self._notes.condemned()
        for key, generation in condemned.items():
            value = txn.get(key, db=files.records)
            if value is not None and DiskEntry.unpack(value).generation == generation:
                options = self._options
                self._delete(files, txn, options.namespace, key, DiskEntry.unpack(value), options.slot_bytes)
        return condemned

    def _make_tenant_room(
        self, files: DiskFiles, txn: Txn, rows: Sequence[StoreRow], now_ns: int, keep: Collection[bytes]
    ) -> list[bytes]:
        """Evict records of tenants that these rows would bring over their cap, their own alone."""
        cap = self._options.tenant_cap_bytes
        evicted: list[bytes] = []
        if cap is None:
            return evicted
        for tenant in {row.tenant for row in rows} - {NO_TENANT}:
            new = {row.key for row in rows if row.tenant == tenant and txn.get(row.key, db=files.records) is None}
            over = files.index.tenant_bytes(txn, tenant) + len(new) * self._options.slot_bytes - cap
            if over > 0:
                batch = max(over, min(self._headroom_bytes, cap // 8))
                evicted += self._evict(files, txn, batch, now_ns, keep, tenant)
        return evicted

    def _tenant_has_room(self, files: DiskFiles, txn: Txn, tenant: bytes) -> bool:
        cap = self._options.tenant_cap_bytes
        if cap is None or tenant == NO_TENANT:
            return True
        return files.index.tenant_bytes(txn, tenant) + self._options.slot_bytes <= cap

    def _make_room(self, files: DiskFiles, txn: Txn, now_ns: int, keep: Collection[bytes]) -> list[bytes]:
        """Evict so that the next group finds room; in batches, since finding the least valuable reads every entry."""
        cap = self._cap_bytes(txn, files)
        over = files.space.live_bytes(txn) + self._headroom_bytes - cap
        if over <= 0:
            return []
        return self._evict(files, txn, max(over, cap // 64), now_ns, keep)

    def _evict(
        self,
        files: DiskFiles,
        txn: Txn,
        num_bytes: int,
        now_ns: int,
        keep: Collection[bytes],
        tenant: bytes | None = None,
    ) -> list[bytes]:
        """Returns the evicted keys of our own namespace."""
        keep = {*keep, *self._pinned(files, txn)}
        victims = choose_victims(files.index, txn, num_bytes, now_ns, keep=keep, tenant=tenant)
        for victim in victims:
            self._delete(files, txn, victim.namespace, victim.key, victim.entry, victim.num_bytes)
        return [victim.key for victim in victims if victim.namespace == self._options.namespace]

    def _pinned(self, files: DiskFiles, txn: Txn) -> set[bytes]:
        sizes = {name: slot_bytes(entry.block_bytes) for name, entry in files.index.namespaces(txn).items()}
        return files.pins.protected(txn, self._options.max_pinned_bytes, sizes)

    @staticmethod
    def _delete(files: DiskFiles, txn: Txn, namespace: bytes, key: bytes, entry: DiskEntry, num_bytes: int) -> None:
        txn.delete(key, db=files.index.records(namespace))
        files.index.add_tenant_bytes(txn, entry.tenant, -num_bytes)
        files.space.put_back(txn, namespace, [entry.slot])

    def _cap_bytes(self, txn: Txn, files: DiskFiles) -> int:
        """The cap, or what the directory takes now while the file system is full."""
        if self._clock() < self._full_until_ns:
            return min(self._options.cap_bytes, files.space.held_bytes(txn))
        return self._options.cap_bytes
