"""What is pinned on a disk: names and the keys that they keep, in the index, so that they outlive every process.

Eviction passes over the records of pinned keys, as long as they take no more than `PINNED_SHARE` of the cap. Beyond it,
where somebody has lowered the cap, those of the last names in the order of the index are evicted like others. A pinned
key need not have a record.
"""

import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from kvstore.disk_index import DiskIndex, Txn
from kvstore.schema import DIGEST_BYTES

PINNED_SHARE = 0.5
"""Of the cap of the directory, over all namespaces."""

_NAME_LENGTH = struct.Struct("<H")


class DiskPins:
    """Over an index that its owner closes. Every method takes part in the caller's transaction."""

    def __init__(self, index: DiskIndex) -> None:
        self._index = index

    def names(self, txn: Txn, namespace: bytes) -> Iterator[tuple[str, list[bytes]]]:
        """Names and their keys."""
        with txn.cursor(db=self._index.pins) as cursor:
            if cursor.set_range(namespace):
                for key, value in cursor:
                    if not key.startswith(namespace):
                        return
                    yield _unpack(value)

    def add(self, txn: Txn, namespace: bytes, name: str, keys: Sequence[bytes]) -> None:
        """Keys that the name pins already stay pinned."""
        at = _key(namespace, name)
        value = txn.get(at, db=self._index.pins)
        known = [] if value is None else _unpack(value)[1]
        wanted = list(dict.fromkeys([*known, *keys]))
        if value is None or len(wanted) > len(known):
            txn.put(at, _pack(name, wanted), db=self._index.pins)

    def remove(self, txn: Txn, namespace: bytes, name: str) -> None:
        """A name that is not there is ignored."""
        txn.delete(_key(namespace, name), db=self._index.pins)

    def remove_all(self, txn: Txn, namespace: bytes) -> None:
        for name in [name for name, _ in self.names(txn, namespace)]:
            self.remove(txn, namespace, name)

    def protected(self, txn: Txn, max_bytes: int, slot_bytes: dict[bytes, int]) -> set[bytes]:
        """The pinned keys, of all namespaces, whose records may not be evicted.

        `slot_bytes` is what a record takes, by namespace.
        """
        kept: set[bytes] = set()
        left = max_bytes
        with txn.cursor(db=self._index.pins) as cursor:
            for at, value in cursor:
                size = slot_bytes.get(at[:DIGEST_BYTES])
                if size is not None:
                    new = [key for key in _unpack(value)[1] if key not in kept][: left // size]
                    kept.update(new)
                    left -= len(new) * size
        return kept


def _key(namespace: bytes, name: str) -> bytes:
    """A name may be longer than LMDB allows for a key."""
    return namespace + blake2b(name.encode(), digest_size=16).digest()


def _pack(name: str, keys: Sequence[bytes]) -> bytes:
    encoded = name.encode()
    return b"".join([_NAME_LENGTH.pack(len(encoded)), encoded, *keys])


def _unpack(value: bytes) -> tuple[str, list[bytes]]:
    start = _NAME_LENGTH.size + _NAME_LENGTH.unpack_from(value)[0]
    name = value[_NAME_LENGTH.size : start].decode()
    return name, [value[i : i + DIGEST_BYTES] for i in range(start, len(value), DIGEST_BYTES)]
