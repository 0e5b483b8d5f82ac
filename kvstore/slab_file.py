"""The file that holds the payloads of one namespace: a superblock page, then slots of equal size.

    page 0          magic, schema version, disk id, namespace, block size, slot size, checksum of these
    then per slot   one record (`kvstore.record`), padded to whole pages

Which slot is taken is the index's business alone. Reads and writes go by one scattered system call straight into and
from the host slot, without the interpreter lock. The file is sparse: a slot costs disk only once it is `reserve`d,
and no longer after `punch`. Safe to use from several threads.
"""

import ctypes
import errno
import os
import struct
import weakref
from pathlib import Path

import xxhash

from kvstore.errors import ForeignFile, SchemaMismatch
from kvstore.record import HEADER_BYTES, RecordFault, RecordIdentity, encode_header, find_fault
from kvstore.schema import SCHEMA_VERSION

PAGE_BYTES = 4096
_MAGIC = b"TIERSLAB"
_SUPERBLOCK = struct.Struct("<8sI16s32sQQ")
_CHECKSUM_BYTES = 16

_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def slot_bytes(block_bytes: int) -> int:
    """What one record takes on disk: header, payload, padding to whole pages."""
    return -(-(HEADER_BYTES + block_bytes) // PAGE_BYTES) * PAGE_BYTES


class SlabFile:
    """An open slab file. Its descriptor closes with the last reference, never under a read or a write."""

    def __init__(self, path: Path, *, disk_id: bytes, namespace: bytes, block_bytes: int, is_new: bool) -> None:
        """Opens the file; makes it, or makes it anew where `is_new` says that no record of it is known.

        Raises ForeignFile (never overwriting what is not ours), SchemaMismatch, FileNotFoundError where the file is
        gone and `is_new` is false, OSError.
        """
        self.path = path
        self.namespace = namespace
        self.block_bytes = block_bytes
        self.slot_bytes = slot_bytes(block_bytes)
        self._padding = bytes(self.slot_bytes - HEADER_BYTES - block_bytes)
        superblock = _SUPERBLOCK.pack(_MAGIC, SCHEMA_VERSION, disk_id, namespace, block_bytes, self.slot_bytes)
        superblock += xxhash.xxh3_128_digest(superblock)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_new else 0), 0o644)
        weakref.finalize(self, os.close, self._fd)
        found = os.pread(self._fd, len(superblock), 0)
        self.is_blank = found != superblock
        """Whether the file was made, or made anew: it holds no record."""
        if found != superblock:
            # A killed predecessor may have left less than a superblock; anything else has an owner.
            if found.strip(b"\0"):
                _require_ours(path, found)
            if not is_new:
                raise ForeignFile(
                    f"{path} belongs to another cache or is damaged: its first page is not the one that the index "
                    f"beside it expects. Bring the right file back, or remove this one to give up its records"
                )
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, superblock, 0)
        status = os.fstat(self._fd)
        self._identity = (status.st_dev, status.st_ino)

    def is_in_place(self) -> bool:
        """Whether the path still leads to the file that is open here."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def reserve(self, first_slot: int, num_slots: int) -> None:
        """Give the slots room on the disk, so that a full one is noticed before anything is written."""
        os.posix_fallocate(self._fd, self._offset(first_slot), num_slots * self.slot_bytes)

    def punch(self, first_slot: int, num_slots: int) -> None:
        """Give the room of slots that hold nothing back to the file system, where it can take it back."""
        mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        if _libc.fallocate(self._fd, mode, self._offset(first_slot), num_slots * self.slot_bytes):
            code = ctypes.get_errno()
            if code != errno.EOPNOTSUPP:
                raise OSError(code, os.strerror(code), str(self.path))

    def write(self, slot: int, identity: RecordIdentity, payload: memoryview) -> None:
        """Write a record. The slot is free in the committed index, so nobody reads it as valid. Raises OSError."""
        assert len(payload) == self.block_bytes, f"a payload has {self.block_bytes} bytes, not {len(payload)}"
        # Whole pages: a part of one would have to be read from the disk first.
        parts: list[bytes | memoryview] = [encode_header(identity, payload), payload, self._padding]
        offset, left = self._offset(slot), self.slot_bytes
        while (written := os.pwritev(self._fd, parts, offset)) < left:
            # Rare: what did not fit goes on from where it stopped, or raises.
            rest = memoryview(b"".join(parts))[written:]
            parts, offset, left = [rest], offset + written, left - written

    def read(self, slot: int, identity: RecordIdentity, into: memoryview) -> RecordFault | None:
        """Read a record's payload into `into`, which holds garbage where a fault is returned. Raises OSError."""
        assert len(into) == self.block_bytes, f"a payload has {self.block_bytes} bytes, not {len(into)}"
        header = bytearray(HEADER_BYTES)
        size = HEADER_BYTES + len(into)
        num_read = os.preadv(self._fd, [header, into], self._offset(slot))
        while 0 < num_read < size:
            # A signal may cut a read short; the end of the file gives 0.
            at = max(0, num_read - HEADER_BYTES)
            parts = [memoryview(header)[num_read:], into] if num_read < HEADER_BYTES else [into[at:]]
            more = os.preadv(self._fd, parts, self._offset(slot) + num_read)
            if not more:
                break
            num_read += more
        return find_fault(header, into, num_read, identity)

    def read_ahead(self, slot: int) -> None:
        """Let the kernel begin to read a slot."""
        os.posix_fadvise(self._fd, self._offset(slot), HEADER_BYTES + self.block_bytes, os.POSIX_FADV_WILLNEED)

    def drop_cached(self) -> None:
        """Write everything out and drop it from the page cache, for measurements from cold."""
        os.fsync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def file_bytes(self) -> int:
        """What the file takes on the disk, holes not counted."""
        return os.fstat(self._fd).st_blocks * 512

    def _offset(self, slot: int) -> int:
        return PAGE_BYTES + slot * self.slot_bytes


def _require_ours(path: Path, found: bytes) -> None:
    if len(found) >= _SUPERBLOCK.size + _CHECKSUM_BYTES and found.startswith(_MAGIC):
        fields, checksum = found[: _SUPERBLOCK.size], found[_SUPERBLOCK.size :]
        version = _SUPERBLOCK.unpack(fields)[1]
        if version != SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{path} was written with schema version {version}; this program writes {SCHEMA_VERSION}. "
                f"Use another directory, or remove this one to start anew"
            )
        if xxhash.xxh3_128_digest(fields) == checksum:
            return
    raise ForeignFile(
        f"{path} is not a slab file of this program, or is damaged. Move it away, or use another directory"
    )
