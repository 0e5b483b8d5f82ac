"""What people ask of a cache directory: what is in it, whether it is sound, that it be emptied.

Works beside running workers, from their process or from another one.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvstore.disk_entry import ENTRY_DTYPE, DiskEntry, NamespaceEntry
from kvstore.disk_index import HELD, PUNCHED, DiskIndex, Txn
from kvstore.disk_pins import DiskPins
from kvstore.disk_space import DiskSpace, slab_path
from kvstore.errors import DiskTierError
from kvstore.record import RecordFault, RecordIdentity
from kvstore.slab_file import SlabFile, slot_bytes

Progress = Callable[[int, int], None]
"""Records done, records in all."""

_CHUNK_RECORDS = 1024
_ALL = 1 << 40


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    namespace: bytes
    block_bytes: int
    num_records: int
    num_bytes: int
    """Of payload."""
    file_bytes: int
    """On the disk, with headers, padding and free slots."""
    num_hits: int
    """Since the records were stored."""
    num_hit_records: int
    """Records that were hit at least once."""
    age_s: tuple[float, float, float] | None
    """Since the last use: youngest, median, oldest. None where there is no record."""


@dataclass(frozen=True, slots=True)
class DiskStats:
    disk_id: bytes
    namespaces: list[NamespaceStats]
    index_file_bytes: int
    tenant_bytes: dict[bytes, int]


@dataclass(frozen=True, slots=True)
class BadRecord:
    namespace: bytes
    key: bytes
    fault: RecordFault | str
    """A string: the error that kept the record from being read."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    num_records: int
    num_bytes: int
    bad: list[BadRecord]
    index_faults: list[str]
    """Contradictions within the index, in words."""

    @property
    def is_sound(self) -> bool:
        return not self.bad and not self.index_faults


class DiskCare:
    """Over an index that its owner closes."""

    def __init__(self, index: DiskIndex, clock: Callable[[], int] = time.time_ns) -> None:
        self._index = index
        self._clock = clock

    @staticmethod
    def open(directory: Path) -> "DiskCare":
        """For a process without a tier of its own; to be closed. Raises a DiskTierError, also without a cache."""
        return DiskCare(DiskIndex(directory, create=False))

    def close(self) -> None:
        self._index.close()

    def stats(self) -> DiskStats:
        index = self._index
        index.open_all_records()
        now_ns, namespaces = self._clock(), []
        with index.read() as txn:
            for namespace, known in self._known(txn).items():
                values = b"".join(value for _, value in self._items(txn, namespace))
                entries = np.frombuffer(values, ENTRY_DTYPE)
                ages = np.sort((now_ns - entries["used_ns"]) / 1e9)
                path = slab_path(index, namespace)
                namespaces.append(
                    NamespaceStats(
                        namespace=namespace,
                        block_bytes=known.block_bytes,
                        num_records=len(entries),
                        num_bytes=len(entries) * known.block_bytes,
                        file_bytes=path.stat().st_blocks * 512 if path.exists() else 0,
                        num_hits=int(entries["hits"].sum()),
                        num_hit_records=int((entries["hits"] > 0).sum()),
                        age_s=(float(ages[0]), float(ages[len(ages) // 2]), float(ages[-1])) if len(ages) else None,
                    )
                )
            return DiskStats(index.disk_id, namespaces, index.file_bytes(), index.tenants(txn))

    def verify(self, on_progress: Progress | None = None) -> VerifyReport:
        """Read every record of the directory. Changes nothing: a bad record is dropped by whoever fetches it.

        Records that come or go meanwhile are no fault.
        """
        index = self._index
        index.open_all_records()
        with index.read() as txn:
            known = self._known(txn)
            total = sum(index.num_records(txn, namespace) for namespace in known)
            index_faults = self.contradictions(txn)
        bad: list[BadRecord] = []
        num_records = num_bytes = 0
        for namespace, entry in known.items():
            slab = self._slab(namespace, entry)
            into = memoryview(bytearray(entry.block_bytes))
            for key, value in self._all_items(namespace):
                fault = self._fault(slab, namespace, key, value, into)
                if fault is not None:
                    bad.append(BadRecord(namespace, key, fault))
                num_records += 1
                num_bytes += entry.block_bytes
                if on_progress is not None:
                    on_progress(num_records, max(total, num_records))
        return VerifyReport(num_records, num_bytes, bad, index_faults)

    def clear(self, namespace: bytes | None = None) -> int:
        """Delete the records and pins of one namespace, or of all; returns how many records there were."""
        index = self._index
        index.open_all_records()
        num_cleared = 0
        with index.write() as txn:
            chosen = [name for name in index.namespaces(txn) if namespace in (None, name)]
            for name in chosen:
                known = index.namespaces(txn)[name]
                slots = [DiskEntry.unpack(value).slot for _, value in self._items(txn, name)]
                num_cleared += len(self.forget(txn, name))
                DiskPins(index).remove_all(txn, name)
                index.add_free(txn, known.number, HELD, slots)
        # Only now does nobody read these slots as valid any more.
        with index.write() as txn:
            DiskSpace(index, 0).trim(txn, _ALL, among=chosen)
        # LMDB hands out pages again only two transactions after the one that freed them. Small ones fit into a full
        # map, a group of records would not, and what fails brings that moment no nearer.
        for _ in range(2):
            with index.write() as txn:
                index.next_generation(txn)
        return num_cleared

    def forget(self, txn: Txn, namespace: bytes) -> list[bytes]:
        """Delete all entries of a namespace and return their keys; their slots are the caller's business."""
        index = self._index
        known = index.namespaces(txn).get(namespace)
        keys = []
        for key, value in self._items(txn, namespace):
            keys.append(key)
            if known is not None:
                index.add_tenant_bytes(txn, DiskEntry.unpack(value).tenant, -slot_bytes(known.block_bytes))
        txn.drop(index.records(namespace), delete=False)
        return keys

    def contradictions(self, txn: Txn) -> list[str]:
        """What cannot be true of an index: slots that are taken twice, or lost, and wrong sums."""
        index, faults = self._index, []
        tenants: dict[bytes, int] = {}
        for namespace, known in self._known(txn).items():
            name = namespace.hex()[:12]
            entries = [DiskEntry.unpack(value) for _, value in self._items(txn, namespace)]
            taken = [entry.slot for entry in entries]
            held = index.free_slots(txn, known.number, HELD, _ALL)
            punched = index.free_slots(txn, known.number, PUNCHED, _ALL)
            slots = sorted(taken + held + punched)
            if slots != list(range(known.num_slots)):
                faults.append(
                    f"{name}: {len(taken)} taken, {len(held)} free and {len(punched)} punched slots are not the "
                    f"{known.num_slots} slots of the file, each once"
                )
            if len(taken) + len(held) != known.num_held:
                faults.append(f"{name}: {len(taken) + len(held)} slots take room, not {known.num_held}")
            if len({entry.generation for entry in entries}) != len(entries):
                faults.append(f"{name}: two records have the same generation")
            for entry in entries:
                if any(entry.tenant):
                    tenants[entry.tenant] = tenants.get(entry.tenant, 0) + slot_bytes(known.block_bytes)
        if tenants != index.tenants(txn):
            faults.append("the bytes per tenant are not the sums over their records")
        return faults

    def _known(self, txn: Txn) -> dict[bytes, NamespaceEntry]:
        """Without a namespace that another process has made this very moment."""
        known = self._index.namespaces(txn)
        return {namespace: entry for namespace, entry in known.items() if self._index.is_open(namespace)}

    def _slab(self, namespace: bytes, known: NamespaceEntry) -> SlabFile | str:
        path = slab_path(self._index, namespace)
        try:
            return SlabFile(
                path,
                disk_id=self._index.disk_id,
                namespace=namespace,
                block_bytes=known.block_bytes,
                is_new=False,
            )
        except (OSError, DiskTierError) as error:
            return str(error)

    def _fault(
        self, slab: SlabFile | str, namespace: bytes, key: bytes, value: bytes, into: memoryview
    ) -> RecordFault | str | None:
        if isinstance(slab, str):
            return slab
        entry = DiskEntry.unpack(value)
        try:
            fault = slab.read(entry.slot, RecordIdentity(namespace, key, entry.generation), into)
        except OSError as error:
            return str(error)
        if fault is None:
            return None
        with self._index.read() as txn:
            now = txn.get(key, db=self._index.records(namespace))
        has_moved = now is None or DiskEntry.unpack(now).generation != entry.generation
        return None if has_moved else fault

    def _items(self, txn: Txn, namespace: bytes) -> Iterator[tuple[bytes, bytes]]:
        with txn.cursor(db=self._index.records(namespace)) as cursor:
            yield from cursor

    def _all_items(self, namespace: bytes) -> Iterator[tuple[bytes, bytes]]:
        """In chunks, each a short snapshot of its own."""
        after = b""
        while True:
            with self._index.read() as txn, txn.cursor(db=self._index.records(namespace)) as cursor:
                chunk = list(itertools.islice(iter(cursor), _CHUNK_RECORDS)) if cursor.set_range(after) else []
            if not chunk:
                return
            yield from chunk
            after = chunk[-1][0] + b"\0"
