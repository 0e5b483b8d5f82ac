"""What is pinned on a disk stays there: over processes, under pressure, up to its share."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.disk import DiskTier
from kvstore.disk_care import DiskCare
from kvstore.transfer import Failure
from tests.disk_rows import NAMESPACE, contents, key_of, open_disk, store_row

OTHER = b"o" * 32
LONG_NAME = "🦆" * 128
"""As long as a name may be, and longer than LMDB allows for a key."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskTier]:
    disk = open_disk(tmp_path, cap_rows=64)
    yield disk
    report = disk.care.verify()
    assert report.is_sound, report
    disk.close()


def store(disk: DiskTier, numbers: range) -> list[Failure | None]:
    return disk.store([store_row(number) for number in numbers]).failures


def keys(numbers: range) -> list[bytes]:
    return [key_of(number) for number in numbers]


def keys_on(disk: DiskTier) -> set[bytes]:
    """Without reading them, which would count as a use."""
    return {key for chunk in disk.key_chunks() for key in chunk}


def test_pins_outlive_the_tier_that_wrote_them(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    disk.pin("cook", keys(range(3)))
    disk.pin(LONG_NAME, keys(range(2, 5)))
    disk.close()
    disk = open_disk(tmp_path)
    assert disk.pins() == {"cook": keys(range(3)), LONG_NAME: keys(range(2, 5))}
    disk.close()


def test_a_name_gathers_and_is_given_up_as_a_whole(disk: DiskTier) -> None:
    disk.pin("cook", keys(range(3)))
    disk.pin("cook", keys(range(2, 6)))
    assert disk.pins() == {"cook": keys(range(6))}
    disk.unpin("nobody")
    disk.unpin("cook")
    assert disk.pins() == {}


def test_namespaces_have_their_own_names(tmp_path: Path) -> None:
    disk = open_disk(tmp_path / "kv")
    disk.pin("cook", keys(range(3)))
    disk.close()
    other = open_disk(tmp_path / "kv", namespace=OTHER)
    assert other.pins() == {}
    other.pin("cook", keys(range(5, 6)))
    other.unpin("cook")
    other.close()
    disk = open_disk(tmp_path / "kv")
    assert disk.pins() == {"cook": keys(range(3))}
    disk.close()


def test_eviction_passes_over_what_is_pinned(disk: DiskTier) -> None:
    store(disk, range(24))
    disk.pin("cook", keys(range(24)))
    store(disk, range(100, 400))
    assert set(keys(range(24))) <= keys_on(disk)
    assert len(keys_on(disk)) > 40, "the rest of the disk is used too"
    disk.unpin("cook")
    store(disk, range(400, 700))
    assert not set(keys(range(24))) & keys_on(disk)


def test_what_is_pinned_before_it_is_stored_stays_too(disk: DiskTier) -> None:
    disk.pin("cook", keys(range(8)))
    store(disk, range(100, 200))
    store(disk, range(8))
    store(disk, range(200, 500))
    assert set(keys(range(8))) <= contents(disk).keys()


def test_beyond_the_share_pinned_records_are_evicted_like_others(disk: DiskTier) -> None:
    """Half of 64 rows: whoever pins more, as after a lower cap, still leaves a disk that takes new records."""
    store(disk, range(48))
    disk.pin("cook", keys(range(48)))
    assert store(disk, range(100, 300)) == [None] * 200
    found = contents(disk)
    assert len(set(keys(range(48))) & found.keys()) == 32
    assert set(keys(range(290, 300))) <= found.keys()


def test_pins_of_another_namespace_hold_as_well(tmp_path: Path) -> None:
    other = open_disk(tmp_path, cap_rows=64, namespace=OTHER)
    other.store([store_row(number) for number in range(20)])
    other.pin("cook", keys(range(20)))
    other.close()
    disk = open_disk(tmp_path, cap_rows=64)
    store(disk, range(100, 400))
    disk.close()
    other = open_disk(tmp_path, cap_rows=64, namespace=OTHER)
    assert set(keys(range(20))) == contents(other).keys()
    other.close()


def test_a_tenant_at_its_cap_keeps_what_is_pinned(tmp_path: Path) -> None:
    disk = open_disk(tmp_path, cap_rows=200, tenant_cap_rows=20)
    alice = b"a" * 16
    disk.store([store_row(number, tenant=alice) for number in range(10)])
    disk.pin("cook", keys(range(10)))
    for number in range(100, 200):
        assert disk.store([store_row(number, tenant=alice)]).failures == [None]
    assert set(keys(range(10))) <= contents(disk).keys()
    disk.close()


def test_clearing_gives_up_the_pins_of_what_it_clears(tmp_path: Path) -> None:
    for namespace in (NAMESPACE, OTHER):
        disk = open_disk(tmp_path, namespace=namespace)
        store(disk, range(3))
        disk.pin("cook", keys(range(3)))
        disk.close()
    disk = open_disk(tmp_path)
    disk.clear()
    assert disk.pins() == {}
    disk.close()
    other = open_disk(tmp_path, namespace=OTHER)
    assert other.pins() == {"cook": keys(range(3))}
    other.close()
    care = DiskCare.open(tmp_path)
    care.clear()
    care.close()
    other = open_disk(tmp_path, namespace=OTHER)
    assert other.pins() == {}
    other.close()


def test_what_another_process_writes_is_noticed_and_what_this_one_writes_is_not(tmp_path: Path) -> None:
    """LMDB opens an environment once per process, so the other one is a real one."""
    disk = open_disk(tmp_path)
    before = disk.num_writes_of_others()
    store(disk, range(40))
    disk.pin("cook", keys(range(3)))
    disk.pin("cook", keys(range(3)))
    disk.flush()
    disk.unpin("cook")
    disk.clear()
    assert disk.num_writes_of_others() == before
    code = f"from tests.disk_rows import *; disk = open_disk(Path({str(tmp_path)!r})); disk.store([store_row(1)])"
    subprocess.run([sys.executable, "-c", "from pathlib import Path; " + code], check=True, timeout=60)
    assert disk.num_writes_of_others() != before
    disk.close()
