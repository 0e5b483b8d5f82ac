"""Records whose payloads follow from their keys, and disk tiers for them. No torch, so that processes start fast."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from kvstore.disk import DiskTier
from kvstore.disk_store import StoreRow
from kvstore.slab_file import slot_bytes
from kvstore.transfer import NO_TENANT

BLOCK_BYTES = 4096 * 3 + 64
NAMESPACE = hashlib.sha256(b"the model of the tests").digest()


def key_of(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


def payload_of(key: bytes, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Bytes that only this key can have."""
    return (hashlib.sha512(key).digest() * (block_bytes // 64 + 1))[:block_bytes]


def store_row(number: int, depth: int = 0, tenant: bytes = NO_TENANT, block_bytes: int = BLOCK_BYTES) -> StoreRow:
    key = key_of(number)
    return StoreRow(key, memoryview(payload_of(key, block_bytes)), depth, tenant)


def open_disk(
    directory: Path,
    cap_rows: int = 1000,
    namespace: bytes = NAMESPACE,
    tenant_cap_rows: int | None = None,
    clock: Callable[[], int] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> DiskTier:
    size = slot_bytes(block_bytes)
    return DiskTier.open(
        directory,
        namespace=namespace,
        block_bytes=block_bytes,
        cap_bytes=cap_rows * size,
        tenant_cap_bytes=None if tenant_cap_rows is None else tenant_cap_rows * size,
        clock=clock or time.time_ns,
    )


def contents(disk: DiskTier) -> dict[bytes, bytes]:
    """Everything that the tier serves."""
    found = {}
    into = memoryview(bytearray(disk.options.block_bytes))
    for keys in disk.key_chunks():
        for key in keys:
            if disk.fetch(key, into) is None:
                found[key] = bytes(into)
    return found
