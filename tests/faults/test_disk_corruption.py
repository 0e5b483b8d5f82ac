"""Damaged, swapped and foreign records: never served, each counted and reported, and only they are dropped."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvstore.disk import DiskTier
from kvstore.errors import FilesReplaced, ForeignFile
from kvstore.record import HEADER_BYTES, RecordFault
from kvstore.slab_file import PAGE_BYTES
from kvstore.transfer import Failure
from tests.disk_rows import BLOCK_BYTES, NAMESPACE, contents, key_of, open_disk, payload_of, store_row

RECORDS = range(6)
BAD = 2
SLOT_BYTES = 4 * PAGE_BYTES

# Where each part of the record starts, and its last byte; `kvstore.record` has the table.
REGIONS = {
    "magic": (0, 7),
    "schema version": (8, 11),
    "header size": (12, 15),
    "payload size": (16, 23),
    "namespace": (24, 55),
    "key": (56, 87),
    "generation": (88, 95),
    "zeros": (96, 111),
    "checksum": (112, 127),
    "payload": (128, HEADER_BYTES + BLOCK_BYTES - 1),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskTier]:
    disk = open_disk(tmp_path)
    disk.store([store_row(number) for number in RECORDS])
    disk.take_events()
    yield disk
    disk.close()


def slab_path(disk: DiskTier) -> Path:
    return disk.options.directory / f"{NAMESPACE.hex()}.slab"


def offset(row: int) -> int:
    """Fresh slots are taken in order."""
    return PAGE_BYTES + row * SLOT_BYTES


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def read(path: Path, at: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(size)


def flip(path: Path, at: int) -> None:
    overwrite(path, at, bytes([read(path, at, 1)[0] ^ 0x40]))


def fetch(disk: DiskTier, number: int) -> bytes | Failure:
    into = memoryview(bytearray(BLOCK_BYTES))
    failure = disk.fetch(key_of(number), into)
    return bytes(into) if failure is None else failure


def expect_dropped(disk: DiskTier, bad: list[int], faults: set[RecordFault] | None = None) -> None:
    """The records are found by `verify`, refused once as corrupt, then missing; the others are untouched."""
    report = disk.care.verify()
    assert {record.key for record in report.bad} == {key_of(number) for number in bad}
    if faults is not None:
        assert {record.fault for record in report.bad} == faults
    assert [fetch(disk, number) for number in bad] == [Failure.CORRUPT] * len(bad)
    assert disk.num_corrupt == len(bad)
    assert disk.take_events().corrupt == [key_of(number) for number in bad]
    assert [fetch(disk, number) for number in bad] == [Failure.MISSING] * len(bad)
    disk.flush()
    assert disk.care.verify().is_sound
    assert contents(disk) == {key_of(n): payload_of(key_of(n)) for n in RECORDS if n not in bad}
    disk.store([store_row(number) for number in bad])
    assert [fetch(disk, number) for number in bad] == [payload_of(key_of(number)) for number in bad]


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("end", ["first", "last"])
def test_a_flipped_bit_anywhere_in_a_record_is_found(disk: DiskTier, region: str, end: str) -> None:
    flip(slab_path(disk), offset(BAD) + REGIONS[region][end == "last"])
    expect_dropped(disk, [BAD])


def test_every_single_byte_of_the_header_counts(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    disk.store([store_row(number) for number in range(HEADER_BYTES)])
    for number in range(HEADER_BYTES):
        flip(slab_path(disk), offset(number) + number)
    assert [fetch(disk, number) for number in range(HEADER_BYTES)] == [Failure.CORRUPT] * HEADER_BYTES
    disk.close()


RECORD_BYTES = HEADER_BYTES + BLOCK_BYTES


@pytest.mark.parametrize("left", [0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 1, RECORD_BYTES - 1])
def test_a_file_cut_short_loses_the_records_behind_the_cut(disk: DiskTier, left: int) -> None:
    os.truncate(slab_path(disk), offset(4) + left)
    expect_dropped(disk, [4, 5], {RecordFault.TRUNCATED})


def test_a_torn_record_is_found(disk: DiskTier) -> None:
    """The second half of the pages never reached the disk."""
    overwrite(slab_path(disk), offset(BAD) + 2 * PAGE_BYTES, bytes(2 * PAGE_BYTES))
    expect_dropped(disk, [BAD], {RecordFault.BAD_CHECKSUM})


def test_two_records_swapped_are_both_refused(disk: DiskTier) -> None:
    path = slab_path(disk)
    one, other = read(path, offset(1), SLOT_BYTES), read(path, offset(3), SLOT_BYTES)
    overwrite(path, offset(1), other)
    overwrite(path, offset(3), one)
    expect_dropped(disk, [1, 3], {RecordFault.OTHER_KEY})


def test_a_record_of_a_foreign_namespace_is_refused(disk: DiskTier, tmp_path: Path) -> None:
    """Equal key, equal size, a sound checksum: only the namespace tells."""
    other = open_disk(tmp_path / "other", namespace=b"o" * 32)
    other.store([store_row(number) for number in RECORDS])
    other.close()
    foreign = tmp_path / "other" / f"{(b'o' * 32).hex()}.slab"
    overwrite(slab_path(disk), offset(BAD), read(foreign, offset(BAD), SLOT_BYTES))
    expect_dropped(disk, [BAD], {RecordFault.OTHER_NAMESPACE})


def test_an_older_copy_of_a_record_is_refused(disk: DiskTier) -> None:
    """The same key in the same slot, stored again in between: only the generation tells."""
    path = slab_path(disk)
    old = read(path, offset(BAD), SLOT_BYTES)
    disk.clear()
    for number in (0, 1, BAD):
        disk.store([store_row(number)])
    overwrite(path, offset(BAD), old)
    assert {record.fault for record in disk.care.verify().bad} == {RecordFault.OTHER_GENERATION}
    assert fetch(disk, BAD) is Failure.CORRUPT


def test_a_hole_where_a_record_was_is_refused(disk: DiskTier) -> None:
    overwrite(slab_path(disk), offset(BAD), bytes(SLOT_BYTES))
    expect_dropped(disk, [BAD], {RecordFault.BAD_MAGIC})


def test_a_record_that_moved_while_it_was_read_is_a_miss_and_stays(disk: DiskTier) -> None:
    """Evicted and stored anew between look-up and read: a reader with the old entry sees another generation."""
    files = disk._files
    stale = files.look_up(key_of(BAD))
    assert stale is not None
    disk.clear()
    disk.store([store_row(number) for number in reversed(RECORDS)])
    answers = iter([stale])

    class Stale:
        """The tier's files, whose first look-up is from before."""

        def look_up(self, key: bytes) -> object:
            return next(answers, None) or files.look_up(key)

        def __getattr__(self, name: str) -> object:
            return getattr(files, name)

    disk._files = Stale()  # type: ignore[assignment]
    assert fetch(disk, BAD) is Failure.MISSING
    assert fetch(disk, BAD) == payload_of(key_of(BAD))
    assert disk.num_corrupt == 0


def test_a_slab_file_replaced_under_an_open_tier_is_noticed(disk: DiskTier, tmp_path: Path) -> None:
    path = slab_path(disk)
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    overwrite(copy, offset(BAD) + HEADER_BYTES, b"rot")
    copy.replace(path)
    assert fetch(disk, BAD) == payload_of(key_of(BAD))  # the open file is still the old one
    with pytest.raises(FilesReplaced, match="was replaced"):
        disk.store([store_row(100)])
    disk.revive()
    expect_dropped(disk, [BAD])


def test_a_slab_file_removed_under_an_open_tier_starts_anew(disk: DiskTier) -> None:
    slab_path(disk).unlink()
    with pytest.raises(FilesReplaced):
        disk.store([store_row(100)])
    disk.revive()
    assert set(disk.take_events().evicted) == {key_of(number) for number in RECORDS}
    disk.store([store_row(100)])
    assert contents(disk) == {key_of(100): payload_of(key_of(100))}
    assert disk.care.verify().is_sound


def test_a_slab_file_of_another_cache_is_never_taken_over(disk: DiskTier, tmp_path: Path) -> None:
    other = open_disk(tmp_path / "other")
    other.store([store_row(number) for number in RECORDS])
    other.close()
    (tmp_path / "other" / slab_path(disk).name).replace(slab_path(disk))
    with pytest.raises(ForeignFile, match="belongs to another cache"):
        disk.revive()


def test_a_directory_replaced_under_an_open_tier_is_noticed(disk: DiskTier, tmp_path: Path) -> None:
    other = open_disk(tmp_path / "other")
    other.store([store_row(9)])
    other.close()
    for path in (tmp_path / "other").iterdir():
        if path.is_file():
            path.replace(disk.options.directory / path.name)
    with pytest.raises(FilesReplaced):
        fetch(disk, 1)
    disk.revive()
    assert contents(disk) == {key_of(9): payload_of(key_of(9))}


def test_an_index_cut_short_in_place_is_noticed_before_it_is_touched(disk: DiskTier) -> None:
    os.truncate(disk.options.directory / "index.mdb", 4096)
    with pytest.raises(FilesReplaced, match="cut short"):
        fetch(disk, 1)
    shutil.rmtree(disk.options.directory)
    disk.revive()
    assert fetch(disk, 1) is Failure.MISSING
