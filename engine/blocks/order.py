"""In which order the records of one tier are given up.

    unsaved   dropping one loses its content
    settled   a copy is in a tier below, or could not be made: dropping one costs nothing more

Settled records go first, the least recently used of them at the front; unsaved ones only when no settled one is left.
Whoever moves copies down takes them from the front of the unsaved.
"""

from collections import OrderedDict
from itertools import islice
from typing import Generic, TypeVar

Record = TypeVar("Record", bound=int)


class EvictionOrder(Generic[Record]):
    """Records that nobody uses now. Every operation is O(1)."""

    def __init__(self) -> None:
        # Record -> stamp of its last use. The first two are sorted by stamp, as records come with rising stamps.
        self._unsaved: OrderedDict[Record, int] = OrderedDict()
        self._settled: OrderedDict[Record, int] = OrderedDict()
        # Settled after they had waited as unsaved. Taken from the front there, so nearly sorted as well.
        self._settled_later: OrderedDict[Record, int] = OrderedDict()
        self._num_stamps = 0

    def __len__(self) -> int:
        return len(self._unsaved) + len(self._settled) + len(self._settled_later)

    def __contains__(self, record: Record) -> bool:
        return record in self._settled or record in self._unsaved or record in self._settled_later

    @property
    def num_unsaved(self) -> int:
        return len(self._unsaved)

    @property
    def num_settled(self) -> int:
        return len(self._settled) + len(self._settled_later)

    def add(self, record: Record, is_settled: bool) -> None:
        """The record has just been used for the last time."""
        self._num_stamps += 1
        (self._settled if is_settled else self._unsaved)[record] = self._num_stamps

    def remove(self, record: Record) -> int:
        """Take the record out, for use. Returns the stamp with which `restore` puts it back in its place."""
        for records in (self._settled, self._unsaved, self._settled_later):
            stamp = records.pop(record, None)
            if stamp is not None:
                return stamp
        raise AssertionError(f"record {record} is not in the eviction order")

    def restore(self, record: Record, stamp: int, is_settled: bool) -> None:
        """Put back a record that was moved, not used."""
        if not is_settled:
            self._unsaved[record] = stamp
            self._unsaved.move_to_end(record, last=False)
        elif not self._settled or stamp > next(reversed(self._settled.values())):
            self._settled[record] = stamp
        else:
            self._settled_later[record] = stamp

    def settle(self, record: Record) -> None:
        """Nothing more will be done for this record."""
        stamp = self._unsaved.pop(record, None)
        if stamp is not None:
            self.restore(record, stamp, is_settled=True)

    def pop(self) -> tuple[Record, bool]:
        """Take out the record to drop first. True: it was settled."""
        settled, later = self._settled, self._settled_later
        if later and (not settled or next(iter(later.values())) < next(iter(settled.values()))):
            settled = later
        if settled:
            return settled.popitem(last=False)[0], True
        return self._unsaved.popitem(last=False)[0], False

    def first_unsaved(self, count: int) -> list[Record]:
        """Those that would be dropped first, in order."""
        return list(islice(self._unsaved, count))

    def last_unsaved(self, count: int) -> list[Record]:
        """Those used last, the very last first: heads of chains before their tails."""
        return list(islice(reversed(self._unsaved), count))

    def records(self) -> list[Record]:
        """All of them."""
        return [*self._settled, *self._settled_later, *self._unsaved]
