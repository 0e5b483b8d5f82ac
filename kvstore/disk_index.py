"""The index of a cache directory: one LMDB environment, shared by all processes of the host.

    meta                 schema version, id of the disk, last generation, number of namespaces
    namespaces           namespace digest → NamespaceEntry
    tenants              tenant → bytes that its records take
    pins                 namespace, digest of a name → the name and the keys that it pins
    free                 namespace number, held or punched, slot → nothing
    records.<digest>     block key → DiskEntry, one such database per namespace

LMDB lets one process write at a time and readers are never blocked. The map size is set once, far above need, and the
file grows only as it is used. A commit is synced, but for the meta page: a crash of the system may lose the last one,
never the tree. That was measured at 1 ms per group of 15 MB on a quiet machine and 5 ms on a busy one, a third to a
half of the time of a group, and spares any doubt about the index after a crash. A file next to the index is locked,
shared, by everyone who has it open.
"""

import errno
import fcntl
import os
import struct
import uuid
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import lmdb

from kvstore.disk_entry import NamespaceEntry
from kvstore.errors import (
    DirectoryLocked,
    DirectoryNotWritable,
    DiskTierError,
    FilesReplaced,
    ForeignFile,
    NoSpaceLeft,
    SchemaMismatch,
)
from kvstore.schema import SCHEMA_VERSION

MAP_BYTES = 4 << 30
"""Of address space. About 25 million records; the file stays as small as its content."""
MAX_NAMESPACES = 1000
_MAX_READERS = 1000

Txn: TypeAlias = "lmdb.Transaction[bytes]"
Records: TypeAlias = "lmdb._Database"

HELD, PUNCHED = 0, 1
"""Kinds of free slots: with room on the disk, and without."""

FULL_CODES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED_CODES = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT})
_FREE_KEY = struct.Struct(">IBI")
_U64 = struct.Struct("<Q")


class DiskIndex:
    """Owns the environment of `directory`. Reading is safe from any thread, writing takes LMDB's one write lock."""

    def __init__(self, directory: Path, *, create: bool) -> None:
        """Opens the index, or makes an empty one. Raises a DiskTierError."""
        self.directory = directory
        self._path = directory / "index.mdb"
        self._records: dict[bytes, Records] = {}
        self._num_writes = 0
        try:
            if create:
                directory.mkdir(parents=True, exist_ok=True)
            elif not self._path.exists():
                raise ForeignFile(f"{directory} holds no cache: there is no {self._path.name} in it")
            lock_fd = _lock_shared(directory / "lock")
        except OSError as error:
            raise _as_tier_error(directory, error.errno, str(error)) from error
        self._unlock = weakref.finalize(self, os.close, lock_fd)
        try:
            self._env = lmdb.open(
                str(self._path), subdir=False, map_size=MAP_BYTES, create=create, metasync=False,
                max_dbs=MAX_NAMESPACES + 8, max_readers=_MAX_READERS,
            )  # fmt: skip
            self._env.reader_check()  # the readers of killed processes would keep old pages alive
            status = os.stat(self._path)
            self._identity, self._file_bytes = (status.st_dev, status.st_ino), status.st_size
            self._open_databases()
        except lmdb.Error as error:
            raise _explain(self._path, error) from error

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A snapshot, for as short as possible."""
        self.require_in_place()
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise _explain(self._path, error) from error

    @contextmanager
    def write(self) -> Iterator[Txn]:
        """The one write transaction of the directory; commits at the end, leaves no trace after an error."""
        self.require_in_place()
        try:
            while True:
                with self._env.begin(write=True) as txn:
                    number = txn.id()
                    # A namespace that another process has made is opened before, never within, the transaction.
                    if all(self.is_open(namespace) for namespace in self.namespaces(txn)):
                        yield txn
                        break
                    txn.abort()
                self.open_all_records()
            # One that changed nothing leaves its number to the next.
            self._num_writes += int(self._env.info()["last_txnid"]) >= number
        except lmdb.Error as error:
            raise _explain(self._path, error) from error

    def require_in_place(self) -> None:
        """Raises FilesReplaced unless the path still leads to the open file, and that has not shrunk."""
        known_bytes = self._file_bytes  # before the look at the file, which another thread may let grow meanwhile
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise FilesReplaced(f"{self._path} is gone: {error}. The cache starts anew in its place") from error
        if (status.st_dev, status.st_ino) != self._identity or status.st_size < known_bytes:
            raise FilesReplaced(
                f"{self._path} was replaced or cut short under the running tier; stop whatever changes files in "
                f"{self.directory}. The tier opens what is there now"
            )
        self._file_bytes = max(self._file_bytes, status.st_size)

    def records(self, namespace: bytes) -> Records:
        """The database of a namespace. The first time, which writes, never within a transaction."""
        if namespace not in self._records:
            try:
                self._records[namespace] = self._env.open_db(b"records." + namespace.hex().encode())
            except lmdb.DbsFullError as error:
                raise NoSpaceLeft(
                    f"{self.directory} holds {MAX_NAMESPACES} namespaces, one per model and KV format ever used; "
                    f"clear the cache or use another directory"
                ) from error
            except lmdb.Error as error:
                raise _explain(self._path, error) from error
        return self._records[namespace]

    def is_open(self, namespace: bytes) -> bool:
        return namespace in self._records

    def open_all_records(self) -> None:
        """Make `records` of every known namespace ready for use in a later transaction. Writers need not call it."""
        with self.read() as txn:
            namespaces = list(self.namespaces(txn))
        for namespace in namespaces:
            self.records(namespace)

    def namespaces(self, txn: Txn) -> dict[bytes, NamespaceEntry]:
        with txn.cursor(db=self._namespaces) as cursor:
            return {namespace: NamespaceEntry.unpack(value) for namespace, value in cursor}

    def put_namespace(self, txn: Txn, namespace: bytes, entry: NamespaceEntry) -> None:
        txn.put(namespace, entry.pack(), db=self._namespaces)

    def next_generation(self, txn: Txn) -> int:
        generation = _U64.unpack(txn.get(b"generation", bytes(8), db=self._meta))[0] + 1
        txn.put(b"generation", _U64.pack(generation), db=self._meta)
        return int(generation)

    def num_records(self, txn: Txn, namespace: bytes) -> int:
        return txn.stat(self.records(namespace))["entries"]

    def free_slots(self, txn: Txn, number: int, kind: int, at_most: int) -> list[int]:
        slots: list[int] = []
        if at_most <= 0:
            return slots
        with txn.cursor(db=self._free) as cursor:
            if not cursor.set_range(_FREE_KEY.pack(number, kind, 0)):
                return slots
            for key in cursor.iternext(keys=True, values=False):
                found, of_kind, slot = _FREE_KEY.unpack(key)
                if (found, of_kind) != (number, kind) or len(slots) == at_most:
                    break
                slots.append(slot)
        return slots

    def forget_free(self, txn: Txn, number: int) -> None:
        """The slots of a namespace no longer exist."""
        for kind in (HELD, PUNCHED):
            self.remove_free(txn, number, kind, self.free_slots(txn, number, kind, 1 << 40))

    def add_free(self, txn: Txn, number: int, kind: int, slots: Iterable[int]) -> None:
        for slot in slots:
            txn.put(_FREE_KEY.pack(number, kind, slot), b"", db=self._free)

    def remove_free(self, txn: Txn, number: int, kind: int, slots: Iterable[int]) -> None:
        for slot in slots:
            is_removed = txn.delete(_FREE_KEY.pack(number, kind, slot), db=self._free)
            assert is_removed, f"slot {slot} of namespace {number} is not free"

    def tenant_bytes(self, txn: Txn, tenant: bytes) -> int:
        return int(_U64.unpack(txn.get(tenant, bytes(8), db=self._tenants))[0])

    def tenants(self, txn: Txn) -> dict[bytes, int]:
        with txn.cursor(db=self._tenants) as cursor:
            return {tenant: int(_U64.unpack(value)[0]) for tenant, value in cursor}

    def add_tenant_bytes(self, txn: Txn, tenant: bytes, num_bytes: int) -> None:
        """Count a record (negative: no longer). The tenant of all zeros is nobody and is not counted."""
        if any(tenant):
            total = self.tenant_bytes(txn, tenant) + num_bytes
            assert total >= 0, f"tenant {tenant.hex()} is down to {total} bytes"
            if total:
                txn.put(tenant, _U64.pack(total), db=self._tenants)
            else:
                txn.delete(tenant, db=self._tenants)

    def num_writes_of_others(self) -> int:
        """Transactions that were not written here, from any start. It changes when another process has written."""
        return int(self._env.info()["last_txnid"]) - self._num_writes

    def file_bytes(self) -> int:
        return os.stat(self._path).st_blocks * 512

    def close(self) -> None:
        """No transaction may be open in any thread."""
        self._env.close()
        self._unlock()

    def _open_databases(self) -> None:
        with self._env.begin() as txn:
            is_empty = txn.stat()["entries"] == 0
            has_meta = txn.get(b"meta") is not None
        if not is_empty and not has_meta:
            raise ForeignFile(
                f"{self._path} is an LMDB file of another program. Move it away, or use another directory"
            )
        with self._env.begin(write=True) as txn:
            self._meta = self._env.open_db(b"meta", txn=txn)
            version = txn.get(b"schema", db=self._meta)
            if version is None:
                txn.put(b"schema", _U64.pack(SCHEMA_VERSION), db=self._meta)
                txn.put(b"disk_id", uuid.uuid4().bytes, db=self._meta)
            elif version != _U64.pack(SCHEMA_VERSION):
                raise SchemaMismatch(
                    f"{self.directory} was written with schema version {int.from_bytes(version, 'little')}; this "
                    f"program "
                    f"writes {SCHEMA_VERSION}. Use another directory, or remove this one to start anew"
                )
            disk_id = txn.get(b"disk_id", db=self._meta)
            if disk_id is None or len(disk_id) != 16:
                raise ForeignFile(f"{self._path} is damaged: it has no id. Remove {self.directory} to start anew")
            self.disk_id = disk_id
            self._namespaces = self._env.open_db(b"namespaces", txn=txn)
            self._tenants = self._env.open_db(b"tenants", txn=txn)
            self._free = self._env.open_db(b"free", txn=txn)
            self.pins = self._env.open_db(b"pins", txn=txn)


def _lock_shared(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise DirectoryLocked(
            f"{path.parent} is held by another process for itself alone ({path} is locked). Wait until it is done, "
            f"or use another directory"
        ) from error
    return fd


def _as_tier_error(path: Path, code: int | None, reason: str) -> DiskTierError:
    if code in FULL_CODES:
        return NoSpaceLeft(f"No space left for the cache in {path}: {reason}. Free some, or use another directory")
    if code in _DENIED_CODES:
        return DirectoryNotWritable(
            f"The cache directory {path} cannot be written: {reason}. Give this user the right to write there, or use "
            f"another directory"
        )
    return DiskTierError(f"The cache in {path} failed: {reason}. Look at the disk; the tier is tried again")


def _explain(path: Path, error: lmdb.Error) -> DiskTierError:
    reason = str(error)
    if isinstance(error, lmdb.MapFullError):
        return NoSpaceLeft(f"The index {path} has reached its {MAP_BYTES >> 20} MiB. Clear the cache or lower its size")
    damage = (
        lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError, lmdb.PanicError,
        lmdb.IncompatibleError,
    )  # fmt: skip
    if isinstance(error, damage):
        return ForeignFile(
            f"{path} is not an index of this program, or is damaged ({reason}). Move it away or remove "
            f"{path.parent} to start anew"
        )
    if isinstance(error, lmdb.LockError) or "already open in this process" in reason:
        return DirectoryLocked(f"{path} is in use in a way that cannot be shared ({reason}). Use another directory")
    return _as_tier_error(path, getattr(error, "code", None), reason)
