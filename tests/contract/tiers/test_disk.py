"""What the disk tier promises, alone and behind the wrapper that can inject faults."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest

from kvstore.disk import DiskTier
from kvstore.disk_care import DiskCare
from kvstore.disk_store import DiskStore, StoreResult
from kvstore.errors import TierConfigError
from kvstore.transfer import Failure, TierEvents
from tests.disk_rows import BLOCK_BYTES, NAMESPACE, contents, key_of, open_disk, payload_of, store_row
from tests.fakes.clock import FakeClock
from tests.fakes.flaky_disk import FlakyDisk

ALICE, BOB = b"a" * 16, b"b" * 16


Wrap = Callable[[DiskTier], DiskStore]


@pytest.fixture(params=["alone", "wrapped"])
def wrap(request: pytest.FixtureRequest) -> Wrap:
    def wrap(disk: DiskTier) -> DiskStore:
        return FlakyDisk(disk) if request.param == "wrapped" else disk

    return wrap


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def disk(tmp_path: Path, clock: FakeClock) -> Iterator[DiskTier]:
    disk = open_disk(tmp_path, cap_rows=64, tenant_cap_rows=20, clock=clock)
    yield disk
    report = disk.care.verify()
    assert report.is_sound, report
    disk.close()


def into() -> memoryview:
    return memoryview(bytearray(BLOCK_BYTES))


def fetched(disk: DiskStore, number: int) -> bytes | Failure:
    target = into()
    failure = disk.fetch(key_of(number), target)
    return bytes(target) if failure is None else failure


def keys_on(disk: DiskTier) -> set[bytes]:
    return {key for keys in disk.key_chunks(chunk=3) for key in keys}


def test_a_record_comes_back_byte_for_byte(disk: DiskTier, wrap: Wrap) -> None:
    store = wrap(disk)
    assert store.store([store_row(number) for number in range(5)]) == StoreResult([None] * 5)
    assert [fetched(store, number) for number in range(5)] == [payload_of(key_of(number)) for number in range(5)]
    assert store.take_events() == TierEvents(stored=[key_of(number) for number in range(5)])


def test_a_key_that_was_never_stored_is_missing(disk: DiskTier, wrap: Wrap) -> None:
    assert fetched(wrap(disk), 1) is Failure.MISSING


def test_a_record_that_exists_is_not_written_again(disk: DiskTier, wrap: Wrap) -> None:
    store = wrap(disk)
    store.store([store_row(1)])
    store.take_events()
    store.store([store_row(1), store_row(2), store_row(2)])
    assert store.take_events().stored == [key_of(2)]
    assert disk.care.stats().namespaces[0].num_records == 2


def test_records_outlive_the_process_that_stored_them(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    disk.store([store_row(number) for number in range(40)])
    disk_id = disk.disk_id
    disk.close()
    disk = open_disk(tmp_path)
    assert disk.disk_id == disk_id
    assert contents(disk) == {key_of(number): payload_of(key_of(number)) for number in range(40)}
    disk.close()


def test_records_of_another_namespace_are_missing(tmp_path: Path) -> None:
    ours = open_disk(tmp_path)
    ours.store([store_row(1)])
    ours.close()
    other = open_disk(tmp_path, namespace=b"o" * 32)
    assert fetched(other, 1) is Failure.MISSING
    assert keys_on(other) == set()
    other.close()


def test_the_cap_holds_whatever_is_stored(disk: DiskTier, wrap: Wrap) -> None:
    store = wrap(disk)
    for start in range(0, 640, 10):
        assert store.store([store_row(number) for number in range(start, start + 10)]).failures == [None] * 10
        stats = disk.care.stats().namespaces[0]
        # One page is the superblock, and the file system's own blocks for a long list of extents.
        assert stats.file_bytes <= disk.options.cap_bytes + 3 * 4096
    events = store.take_events()
    assert len(events.stored) - len(events.evicted) == stats.num_records >= 48
    assert keys_on(disk) == set(events.stored) - set(events.evicted)


def test_what_was_used_last_stays(disk: DiskTier, wrap: Wrap, clock: FakeClock) -> None:
    store = wrap(disk)
    for number in range(50):
        clock.advance_s(10)
        store.store([store_row(number)])
    clock.advance_s(1000)
    assert fetched(store, 3) == payload_of(key_of(3))
    store.store([store_row(4)])
    for number in range(100, 140):
        store.store([store_row(number)])
    left = keys_on(disk)
    assert key_of(3) in left
    assert key_of(4) in left
    assert key_of(5) not in left


def test_hits_make_a_record_worth_more(disk: DiskTier, clock: FakeClock) -> None:
    disk.store([store_row(number) for number in range(50)])
    for _ in range(8):
        assert fetched(disk, 7) == payload_of(key_of(7))
    disk.flush()
    assert disk.care.stats().namespaces[0].num_hits == 8
    clock.advance_s(100)
    for number in range(100, 150):
        disk.store([store_row(number)])
    assert key_of(7) in keys_on(disk)
    assert key_of(8) not in keys_on(disk)


def test_a_head_outlives_its_tail(disk: DiskTier, clock: FakeClock) -> None:
    disk.store([store_row(number, depth=number) for number in range(56)])
    clock.advance_s(100)
    disk.store([store_row(number) for number in range(100, 116)])
    left = [number for number in range(56) if key_of(number) in keys_on(disk)]
    assert left == list(range(len(left)))
    assert 0 < len(left) < 56


def test_a_tenant_over_its_cap_evicts_only_its_own(disk: DiskTier, wrap: Wrap, clock: FakeClock) -> None:
    store = wrap(disk)
    store.store([store_row(number, tenant=BOB) for number in range(10)])
    store.store([store_row(number) for number in range(10, 20)])
    clock.advance_s(100)
    for start in range(100, 160, 10):
        rows = [store_row(number, tenant=ALICE) for number in range(start, start + 10)]
        assert store.store(rows).failures == [None] * 10
        assert disk.care.stats().tenant_bytes[ALICE] <= 20 * disk.options.slot_bytes
    assert {key_of(number) for number in range(20)} <= keys_on(disk)
    assert set(store.take_events().evicted) <= {key_of(number) for number in range(100, 160)}


def test_more_than_a_tenants_cap_at_once_is_refused(disk: DiskTier, wrap: Wrap) -> None:
    group = wrap(disk).store([store_row(number, tenant=ALICE) for number in range(16)])
    assert group.failures == [None] * 16
    small = open_disk_beside(disk)
    failures = small.store([store_row(number, tenant=BOB) for number in range(200, 216)]).failures
    assert failures == [None] * 4 + [Failure.FULL] * 12
    small.close()


def open_disk_beside(disk: DiskTier) -> DiskTier:
    return open_disk(disk.options.directory / "small", tenant_cap_rows=4)


def test_old_namespaces_give_way_under_the_common_cap(tmp_path: Path, clock: FakeClock) -> None:
    old = open_disk(tmp_path, cap_rows=32, clock=clock)
    old.store([store_row(number) for number in range(40)])
    old.close()
    clock.advance_s(1000)
    new = open_disk(tmp_path, cap_rows=32, namespace=b"n" * 32, clock=clock)
    assert new.store([store_row(number) for number in range(40)]).failures == [None] * 40
    stats = {entry.namespace: entry for entry in new.care.stats().namespaces}
    assert stats[b"n" * 32].num_records >= 24
    assert sum(entry.file_bytes for entry in stats.values()) <= new.options.cap_bytes + 6 * 4096
    assert new.care.verify().is_sound
    new.close()


def test_a_lowered_cap_gives_room_back(tmp_path: Path) -> None:
    roomy = open_disk(tmp_path, cap_rows=64)
    roomy.store([store_row(number) for number in range(56)])
    roomy.close()
    tight = open_disk(tmp_path, cap_rows=16)
    tight.store([store_row(100)])
    tight.store([store_row(101)])
    assert tight.care.stats().namespaces[0].file_bytes <= tight.options.cap_bytes + 3 * 4096
    assert fetched(tight, 101) == payload_of(key_of(101))
    tight.close()


def test_clearing_empties_one_namespace_and_gives_its_room_back(tmp_path: Path) -> None:
    ours, other = open_disk(tmp_path), b"o" * 32
    ours.store([store_row(number) for number in range(20)])
    ours.close()
    theirs = open_disk(tmp_path, namespace=other)
    theirs.store([store_row(number) for number in range(7)])
    assert theirs.clear() == 7
    assert set(theirs.take_events().evicted) == {key_of(number) for number in range(7)}
    assert fetched(theirs, 1) is Failure.MISSING
    stats = {entry.namespace: entry for entry in theirs.care.stats().namespaces}
    assert (stats[NAMESPACE].num_records, stats[other].num_records) == (20, 0)
    assert stats[other].file_bytes <= 2 * 4096
    theirs.store([store_row(1)])
    assert fetched(theirs, 1) == payload_of(key_of(1))
    assert theirs.care.clear() == 21
    assert theirs.care.verify().is_sound
    theirs.close()


def test_a_cap_below_a_few_records_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TierConfigError, match="disk cache is 49152 bytes"):
        open_disk(tmp_path, cap_rows=3)


def test_progress_of_a_verification_reaches_the_end(disk: DiskTier) -> None:
    disk.store([store_row(number) for number in range(9)])
    steps: list[tuple[int, int]] = []
    report = disk.care.verify(lambda done, total: steps.append((done, total)))
    assert steps == [(done, 9) for done in range(1, 10)]
    assert (report.num_records, report.num_bytes) == (9, 9 * BLOCK_BYTES)


def _verify_and_clear(directory: Path, answers: "SimpleQueue[tuple[int, int]]") -> None:
    care = DiskCare.open(directory)
    answers.put((care.verify().num_records, care.clear()))
    care.close()


def test_another_process_cares_for_the_directory_of_a_running_tier(disk: DiskTier) -> None:
    disk.store([store_row(number) for number in range(9)])
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    process = spawn.Process(target=_verify_and_clear, args=(disk.options.directory, answers))
    process.start()
    process.join(60)
    assert answers.get() == (9, 9)
    assert fetched(disk, 1) is Failure.MISSING
    disk.store([store_row(1)])
    assert fetched(disk, 1) == payload_of(key_of(1))
