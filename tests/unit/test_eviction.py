"""What a record on the disk is worth."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvstore.disk_entry import ENTRY_DTYPE, DiskEntry
from kvstore.eviction import keeping_cost

NOW_NS = 10**18

ENTRIES = st.builds(
    DiskEntry,
    slot=st.integers(0, 2**32 - 1),
    generation=st.integers(0, 2**64 - 1),
    depth=st.integers(0, 10**6),
    hits=st.integers(0, 10**6),
    stored_ns=st.integers(0, NOW_NS),
    used_ns=st.integers(0, NOW_NS),
    tenant=st.binary(min_size=16, max_size=16),
)


def cost(**changes: int) -> float:
    fields = {"slot": 0, "generation": 1, "depth": 5, "hits": 3, "stored_ns": 0, "used_ns": NOW_NS - 10**11} | changes
    entry = DiskEntry(**fields, tenant=bytes(16))
    return float(keeping_cost(np.frombuffer(entry.pack(), ENTRY_DTYPE), NOW_NS)[0])


def test_older_deeper_and_less_used_records_cost_more_to_keep() -> None:
    assert cost(used_ns=NOW_NS - 2 * 10**11) > cost()
    assert cost(depth=6) > cost()
    assert cost(hits=2) > cost()


def test_a_clock_that_went_back_makes_nobody_immortal() -> None:
    assert cost(used_ns=NOW_NS + 10**15) == cost(used_ns=NOW_NS)


@given(ENTRIES)
def test_an_entry_survives_packing_and_reads_the_same_in_bulk(entry: DiskEntry) -> None:
    assert DiskEntry.unpack(entry.pack()) == entry
    row = np.frombuffer(entry.pack(), ENTRY_DTYPE)[0]
    assert (row["slot"], row["generation"], row["depth"], row["hits"]) == (
        entry.slot,
        entry.generation,
        entry.depth,
        entry.hits,
    )
    assert (row["stored_ns"], row["used_ns"]) == (entry.stored_ns, entry.used_ns)
    assert np.array([row["tenant_low"], row["tenant_high"]], "<u8").tobytes() == entry.tenant
