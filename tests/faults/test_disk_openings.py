"""Directories that cannot hold a tier: each says what is wrong and what to do, and nothing foreign is touched."""

import errno
import fcntl
import multiprocessing
import os
import resource
import struct
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import lmdb
import pytest

from kvstore.disk import DiskTier
from kvstore.disk_care import DiskCare
from kvstore.errors import (
    DirectoryLocked,
    DirectoryNotWritable,
    DiskTierError,
    ForeignFile,
    SchemaMismatch,
)
from kvstore.transfer import Failure
from tests.disk_rows import NAMESPACE, contents, key_of, open_disk, payload_of, store_row
from tests.fakes.clock import FakeClock

SLAB = f"{NAMESPACE.hex()}.slab"


def filled(directory: Path) -> None:
    disk = open_disk(directory)
    disk.store([store_row(number) for number in range(4)])
    disk.close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DirectoryNotWritable, match="cannot be written"):
        open_disk(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"


def _open_unprivileged(directory: Path, answers: "SimpleQueue[str]") -> None:
    if os.getuid() == 0:
        os.setuid(65534)  # root may write anywhere
    try:
        open_disk(directory)
    except DiskTierError as error:
        answers.put(f"{type(error).__name__}: {error}")
    else:
        answers.put("opened")


@pytest.mark.parametrize("is_filled", [False, True])
def test_a_read_only_directory_is_refused(tmp_path: Path, is_filled: bool) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    if is_filled:
        filled(directory)
    directory.chmod(0o555)
    for parent in tmp_path.parents:
        if parent.owner() != "root" or parent.name.startswith("pytest"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    process = spawn.Process(target=_open_unprivileged, args=(directory, answers))
    process.start()
    process.join(60)
    assert answers.get().startswith(f"DirectoryNotWritable: The cache directory {directory}")
    directory.chmod(0o755)


def test_an_index_of_another_schema_version_is_refused_and_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    change_index(tmp_path, b"schema", struct.pack("<Q", 7))
    with pytest.raises(SchemaMismatch, match="schema version 7; this program writes 1"):
        open_disk(tmp_path)
    change_index(tmp_path, b"schema", struct.pack("<Q", 1))
    disk = open_disk(tmp_path)
    assert contents(disk) == {key_of(number): payload_of(key_of(number)) for number in range(4)}
    disk.close()


def change_index(directory: Path, key: bytes, value: bytes) -> None:
    with lmdb.open(str(directory / "index.mdb"), subdir=False, max_dbs=8) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(key, value, db=meta)


@pytest.mark.parametrize("content", [b"a text of mine\n" * 1000, os.urandom(65536), b"x"])
def test_a_foreign_file_in_place_of_the_index_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.mdb").write_bytes(content)
    with pytest.raises(ForeignFile, match="Move it away"):
        open_disk(tmp_path)
    assert (tmp_path / "index.mdb").read_bytes() == content


def test_an_index_of_another_program_is_refused_and_kept(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "index.mdb"), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"precious")
    with pytest.raises(ForeignFile, match="another program"):
        open_disk(tmp_path)
    with lmdb.open(str(tmp_path / "index.mdb"), subdir=False) as env, env.begin() as txn:
        assert txn.get(b"theirs") == b"precious"


@pytest.mark.parametrize("content", [b"a text of mine\n" * 1000, os.urandom(65536)])
def test_a_foreign_file_in_place_of_the_slab_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SLAB).write_bytes(content)
    with pytest.raises(ForeignFile, match="Move it away"):
        open_disk(tmp_path)
    assert (tmp_path / SLAB).read_bytes() == content


def test_a_damaged_superblock_is_refused_while_there_are_records(tmp_path: Path) -> None:
    filled(tmp_path)
    with (tmp_path / SLAB).open("r+b") as file:
        file.write(b"TIERSLABrot")
    with pytest.raises(DiskTierError, match=r"schema version|not ours"):
        open_disk(tmp_path)


@pytest.mark.parametrize("left", [0, 1, 50])
def test_a_slab_file_whose_maker_was_killed_is_made_anew(tmp_path: Path, left: int) -> None:
    open_disk(tmp_path).close()
    os.truncate(tmp_path / SLAB, left)
    if left:
        with (tmp_path / SLAB).open("r+b") as file:
            file.write(bytes(left))
    disk = open_disk(tmp_path)
    disk.store([store_row(1)])
    assert contents(disk) == {key_of(1): payload_of(key_of(1))}
    disk.close()


def test_records_without_their_slab_file_are_forgotten(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / SLAB).unlink()
    disk = open_disk(tmp_path)
    assert list(disk.key_chunks()) == []
    assert set(disk.take_events().evicted) == {key_of(number) for number in range(4)}
    assert disk.care.verify().is_sound
    disk.close()


def test_a_directory_that_another_process_holds_alone_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    holder = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(DirectoryLocked, match="held by another process"):
        open_disk(tmp_path)
    os.close(holder)
    open_disk(tmp_path).close()


def test_a_second_tier_in_one_process_is_refused(tmp_path: Path) -> None:
    disk = open_disk(tmp_path)
    with pytest.raises(DirectoryLocked, match="already open in this process"):
        open_disk(tmp_path, namespace=b"o" * 32)
    disk.close()


def test_a_directory_without_a_cache_is_not_made_into_one_by_looking(tmp_path: Path) -> None:
    with pytest.raises(ForeignFile, match="holds no cache"):
        DiskCare.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _store_with_little_space(directory: Path, limit_bytes: int, answers: "SimpleQueue[object]") -> None:
    """No file may grow beyond the limit, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    disk = open_disk(directory, cap_rows=1000)
    results = [disk.store([store_row(number) for number in range(start, start + 8)]) for start in range(0, 400, 8)]
    answers.put([result.notice for result in results if result.notice])
    answers.put([failure for result in results for failure in result.failures])
    answers.put((disk.care.verify().is_sound, len(contents(disk))))
    disk.close()


def test_a_full_disk_says_so_and_goes_on_within_what_there_is(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.SimpleQueue()
    process = spawn.Process(target=_store_with_little_space, args=(tmp_path, 100 * 16384, answers))
    process.start()
    notices, failures, (is_sound, num_records) = answers.get(), answers.get(), answers.get()
    process.join(60)
    assert all("is full" in notice and "Free some space" in notice for notice in notices)
    assert notices
    assert failures.count(None) == len(failures)
    assert is_sound
    assert 60 < num_records < 100


def test_a_full_disk_is_said_until_it_gives_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    disk = open_disk(tmp_path, cap_rows=200, clock=clock)
    rooms = iter(range(10, 200, 10))

    def notice() -> str | None:
        start = next(rooms)
        return disk.store([store_row(number) for number in range(start, start + 10)]).notice

    assert notice() is None
    with monkeypatch.context() as full:
        full.setattr(os, "posix_fallocate", _fail(errno.ENOSPC))
        assert [notice() is not None for _ in range(3)] == [True] * 3, "also where its own records made room"
        clock.advance_s(60)
        assert notice() is not None
    assert [notice() for _ in range(3)] == [None] * 3
    disk.close()


def _fail(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_disk_without_any_room_refuses_rows_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = open_disk(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", _fail(errno.ENOSPC))
    result = disk.store([store_row(number) for number in range(3)])
    assert result.failures == [Failure.FULL] * 3
    assert result.notice is not None
    assert "No space left on device" in result.notice
    monkeypatch.undo()
    disk.close()


def test_an_io_error_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    disk: DiskTier = open_disk(tmp_path)
    monkeypatch.setattr(os, "preadv", _fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        disk.fetch(key_of(1), memoryview(bytearray(disk.options.block_bytes)))
    monkeypatch.undo()
    disk.flush()
    assert len(contents(disk)) == 4
    assert disk.num_corrupt == 0
    disk.close()
