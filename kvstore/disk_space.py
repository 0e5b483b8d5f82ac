"""Slots of the slab files under one byte cap for the directory: taking, freeing, giving room back.

    punched ──take──▶ taken ──free──▶ held ──take (a later transaction)──▶ taken
                                        └──punch (a later transaction)──▶ punched

A slot that was freed may be read as valid until its transaction is committed, so it is taken or punched only by a later
one. All calls are made within the directory's one write transaction, `take` and `trim` before anything is freed in it.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from kvstore.disk_index import FULL_CODES, HELD, PUNCHED, DiskIndex, Txn
from kvstore.errors import DiskTierError
from kvstore.slab_file import SlabFile, slot_bytes


class DiskSpace:
    """Keeps what the slab files of all namespaces take on the disk under `cap_bytes`."""

    def __init__(self, index: DiskIndex, cap_bytes: int) -> None:
        self._index = index
        self.cap_bytes = cap_bytes
        self._others: dict[bytes, SlabFile] = {}

    def held_bytes(self, txn: Txn) -> int:
        """What all slots that are not punched take on the disk."""
        known = self._index.namespaces(txn).values()
        return sum(entry.num_held * slot_bytes(entry.block_bytes) for entry in known)

    def live_bytes(self, txn: Txn) -> int:
        """What the records take, without free slots."""
        known = self._index.namespaces(txn).items()
        return sum(self._index.num_records(txn, name) * slot_bytes(entry.block_bytes) for name, entry in known)

    def take(self, txn: Txn, slab: SlabFile, num_slots: int) -> tuple[list[int], OSError | None]:
        """Up to `num_slots` slots to write into, and why there are fewer if the file system has no room.

        First held ones, then new ones within the cap, then ones made possible by punching other namespaces' free slots.
        """
        index, known = self._index, self._index.namespaces(txn)
        entry, others = known[slab.namespace], known.keys() - {slab.namespace}
        slots = index.free_slots(txn, entry.number, HELD, num_slots)
        index.remove_free(txn, entry.number, HELD, slots)
        missing = num_slots - len(slots)
        if not missing:
            return slots, None
        room = self.cap_bytes - self.held_bytes(txn)
        if room < missing * slab.slot_bytes:
            room += self.trim(txn, missing * slab.slot_bytes - room, among=others)
        num_new = min(missing, max(room, 0) // slab.slot_bytes)
        if not num_new:
            return slots, None
        entry = index.namespaces(txn)[slab.namespace]
        again = index.free_slots(txn, entry.number, PUNCHED, num_new)
        fresh = list(range(entry.num_slots, entry.num_slots + num_new - len(again)))
        try:
            for first, length in _ranges(again + fresh):
                slab.reserve(first, length)
        except OSError as error:
            if error.errno not in FULL_CODES:
                raise
            self.trim(txn, missing * slab.slot_bytes, among=others)  # for the next try
            return slots, error
        index.remove_free(txn, entry.number, PUNCHED, again)
        grown = replace(entry, num_slots=entry.num_slots + len(fresh), num_held=entry.num_held + num_new)
        index.put_namespace(txn, slab.namespace, grown)
        return slots + again + fresh, None

    def put_back(self, txn: Txn, namespace: bytes, slots: Iterable[int]) -> None:
        """Free slots: of deleted records, or taken and not needed."""
        self._index.add_free(txn, self._index.namespaces(txn)[namespace].number, HELD, slots)

    def trim(
        self,
        txn: Txn,
        num_bytes: int,
        own: SlabFile | None = None,
        among: Collection[bytes] | None = None,
    ) -> int:
        """Punch held free slots until `num_bytes` are given back or none is left; returns the bytes given back.

        Of the namespaces `among`, or of all. `own` is the open file of its namespace.
        """
        index, given = self._index, 0
        for namespace, entry in index.namespaces(txn).items():
            size = slot_bytes(entry.block_bytes)
            if given >= num_bytes or (among is not None and namespace not in among):
                continue
            slots = index.free_slots(txn, entry.number, HELD, -(-(num_bytes - given) // size))
            if not slots:
                continue
            is_own = own is not None and namespace == own.namespace
            slab = own if is_own else self._other(namespace, entry.block_bytes)
            if slab is not None:
                for first, length in _ranges(slots):
                    slab.punch(first, length)
            index.remove_free(txn, entry.number, HELD, slots)
            index.add_free(txn, entry.number, PUNCHED, slots)
            index.put_namespace(txn, namespace, replace(entry, num_held=entry.num_held - len(slots)))
            given += len(slots) * size
        return given

    def _other(self, namespace: bytes, block_bytes: int) -> SlabFile | None:
        """Another namespace's file; None where it is gone or not ours, and has nothing to give back."""
        known = self._others.get(namespace)
        if known is None or not known.is_in_place():
            path = slab_path(self._index, namespace)
            try:
                self._others[namespace] = SlabFile(
                    path, disk_id=self._index.disk_id, namespace=namespace, block_bytes=block_bytes, is_new=False
                )
            except (FileNotFoundError, DiskTierError):
                self._others.pop(namespace, None)
                return None
        return self._others[namespace]


def slab_path(index: DiskIndex, namespace: bytes) -> Path:
    return index.directory / f"{namespace.hex()}.slab"


def _ranges(slots: list[int]) -> Iterator[tuple[int, int]]:
    """Ascending slots as (first, number) of each unbroken range."""
    for _, group in itertools.groupby(enumerate(sorted(slots)), key=lambda pair: pair[1] - pair[0]):
        run = [slot for _, slot in group]
        yield run[0], len(run)
