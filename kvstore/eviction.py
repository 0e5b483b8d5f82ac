"""Which records the disk gives up first.

    cost of keeping = age * (1 + log2(1 + depth) / 4) / (1 + log2(1 + hits))

Age counts from the last use. The product has no scale of its own, so it does for minutes and for months alike. A tail
goes before its head, since it is worth nothing without it, but a chain stored just now stays before older ones; a
record that was hit a few times may be a few times older. One scan reads all entries (0.5 µs each), so it frees
a batch of records at a time.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvstore.disk_entry import ENTRY_DTYPE, DiskEntry
from kvstore.disk_index import DiskIndex, Txn
from kvstore.slab_file import slot_bytes

_CHUNK_RECORDS = 16384
"""Between two chunks other threads get their turn."""


@dataclass(frozen=True, slots=True)
class Victim:
    cost: float
    namespace: bytes
    key: bytes
    entry: DiskEntry
    num_bytes: int


def keeping_cost(entries: npt.NDArray[np.void], now_ns: int) -> npt.NDArray[np.float64]:
    """`float64[n]` of `entries`, `ENTRY_DTYPE[n]`; the highest goes first."""
    age_s = np.maximum(now_ns - entries["used_ns"], 0) / 1e9
    depth = np.log2(1.0 + entries["depth"])
    hits = np.log2(1.0 + entries["hits"])
    # The millisecond lets depth decide among records that were stored this moment.
    cost: npt.NDArray[np.float64] = (age_s + 1e-3) * (1.0 + depth / 4.0) / (1.0 + hits)
    return cost


def choose_victims(
    index: DiskIndex,
    txn: Txn,
    num_bytes: int,
    now_ns: int,
    *,
    keep: Collection[bytes] = (),
    tenant: bytes | None = None,
) -> list[Victim]:
    """Records of at least `num_bytes`, if there are as many, over all namespaces; of `tenant` alone where one is given.

    Keys in `keep` are spared. Changes nothing.
    """
    candidates: list[Victim] = []
    for namespace, known in index.namespaces(txn).items():
        size = slot_bytes(known.block_bytes)
        wanted = -(-num_bytes // size) + len(keep)
        with txn.cursor(db=index.records(namespace)) as cursor:
            items = iter(cursor)
            while chunk := list(itertools.islice(items, _CHUNK_RECORDS)):
                entries = np.frombuffer(b"".join(value for _, value in chunk), ENTRY_DTYPE)
                cost = keeping_cost(entries, now_ns)
                rows = np.arange(len(chunk))
                if tenant is not None:
                    low, high = np.frombuffer(tenant, "<u8")
                    rows = rows[(entries["tenant_low"] == low) & (entries["tenant_high"] == high)]
                if len(rows) > wanted:
                    rows = rows[np.argpartition(cost[rows], len(rows) - wanted)[-wanted:]]
                for row in rows.tolist():
                    key, value = chunk[row]
                    if key not in keep:
                        candidates.append(Victim(float(cost[row]), namespace, key, DiskEntry.unpack(value), size))
    candidates.sort(key=lambda victim: victim.cost, reverse=True)
    chosen, left = [], num_bytes
    for victim in candidates:
        if left <= 0:
            break
        chosen.append(victim)
        left -= victim.num_bytes
    return chosen
