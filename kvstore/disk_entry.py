"""What the index knows of a record and of a namespace; fixed-size values in LMDB, little-endian."""

import struct
from dataclasses import dataclass

import numpy as np

_ENTRY = struct.Struct("<IQIIqq16s")
_NAMESPACE = struct.Struct("<IQQQ")

ENTRY_DTYPE = np.dtype(
    [
        ("slot", "<u4"),
        ("generation", "<u8"),
        ("depth", "<u4"),
        ("hits", "<u4"),
        ("stored_ns", "<i8"),
        ("used_ns", "<i8"),
        ("tenant_low", "<u8"),
        ("tenant_high", "<u8"),
    ]
)
"""The same bytes, for many entries at once."""
assert ENTRY_DTYPE.itemsize == _ENTRY.size

_MAX_U32 = 2**32 - 1


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """Where a record is and what it is worth. Its size is the namespace's."""

    slot: int
    generation: int
    depth: int
    """Position in the chain, 0 for the head."""
    hits: int
    stored_ns: int
    """Wall clock, since several processes and restarts share it."""
    used_ns: int
    tenant: bytes

    def pack(self) -> bytes:
        return _ENTRY.pack(
            self.slot, self.generation, self.depth, min(self.hits, _MAX_U32), self.stored_ns, self.used_ns, self.tenant
        )

    @staticmethod
    def unpack(value: bytes) -> "DiskEntry":
        return DiskEntry(*_ENTRY.unpack(value))


@dataclass(frozen=True, slots=True)
class NamespaceEntry:
    """What the index knows of a namespace's slab file."""

    number: int
    """Short for the namespace within this directory; prefix of its free slots."""
    block_bytes: int
    num_slots: int
    """Slots ever laid out in the file: taken, free and punched."""
    num_held: int
    """Of these, the ones that take room on the disk: taken or free, not punched."""

    def pack(self) -> bytes:
        return _NAMESPACE.pack(self.number, self.block_bytes, self.num_slots, self.num_held)

    @staticmethod
    def unpack(value: bytes) -> "NamespaceEntry":
        return NamespaceEntry(*_NAMESPACE.unpack(value))
