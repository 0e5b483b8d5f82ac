"""Opening the files of a disk tier: index and slab file of one namespace, together or not at all."""

from dataclasses import dataclass, replace
from pathlib import Path

from kvstore.disk_care import DiskCare
from kvstore.disk_entry import DiskEntry, NamespaceEntry
from kvstore.disk_index import FULL_CODES, DiskIndex, Records
from kvstore.disk_pins import PINNED_SHARE, DiskPins
from kvstore.disk_space import DiskSpace, slab_path
from kvstore.errors import DirectoryNotWritable, FilesReplaced, NoSpaceLeft, TierConfigError
from kvstore.schema import DIGEST_BYTES
from kvstore.slab_file import SlabFile, slot_bytes

MIN_CAP_ROWS = 4


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """What a disk tier is opened with."""

    directory: Path
    namespace: bytes
    """32 bytes: which model, weights, KV format. Records of another one are never served."""
    block_bytes: int
    cap_bytes: int
    """For all namespaces in the directory together: what the slab files may take on the disk."""
    tenant_cap_bytes: int | None = None
    """For each tenant, over all namespaces; None: no cap of its own."""

    def __post_init__(self) -> None:
        assert len(self.namespace) == DIGEST_BYTES
        least = MIN_CAP_ROWS * self.slot_bytes
        for name, cap in (("disk cache", self.cap_bytes), ("disk cap per tenant", self.tenant_cap_bytes)):
            if cap is not None and cap < least:
                raise TierConfigError(
                    f"The {name} is {cap} bytes; with this model and block size it needs at least {least}, or 0 to "
                    f"go without"
                )

    @property
    def max_pinned_bytes(self) -> int:
        """What pinned records may take of the cap and be kept."""
        return int(self.cap_bytes * PINNED_SHARE)

    @property
    def slot_bytes(self) -> int:
        """What one record takes on the disk."""
        return slot_bytes(self.block_bytes)

    def full_notice(self, error: OSError) -> str:
        """For people, when the file system refuses room that the cap would allow."""
        return (
            f"The file system of {self.directory} is full ({error.strerror}): the cache stays below its "
            f"{self.cap_bytes / 2**30:.2f} GiB and makes room among its own records. Free some space, or lower "
            f"the disk cache"
        )


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """What was opened together and is replaced together. A user keeps a reference while it works with them."""

    options: DiskOptions
    index: DiskIndex
    slab: SlabFile
    space: DiskSpace
    pins: DiskPins
    records: Records
    lost_keys: tuple[bytes, ...]
    """Records whose slab file was gone when the files were opened."""

    def look_up(self, key: bytes) -> DiskEntry | None:
        with self.index.read() as txn:
            value = txn.get(key, db=self.records)
        return None if value is None else DiskEntry.unpack(value)

    def require_slab(self) -> None:
        """Raises FilesReplaced unless the slab file is still the one that is open."""
        if not self.slab.is_in_place():
            raise FilesReplaced(
                f"{self.slab.path} was replaced or removed under the running tier; stop whatever changes files in "
                f"{self.options.directory}. The tier opens what is there now"
            )


def open_files(options: DiskOptions) -> DiskFiles:
    """Open or make everything. Raises a DiskTierError or TierConfigError."""
    index = DiskIndex(options.directory, create=True)
    try:
        return attach(options, index)
    except BaseException:
        index.close()
        raise


def attach(options: DiskOptions, index: DiskIndex) -> DiskFiles:
    """Make the namespace known to an open index, and its slab file ready, under the directory's write lock."""
    namespace, lost = options.namespace, list[bytes]()
    records, path = index.records(namespace), slab_path(index, namespace)
    try:
        with index.write() as txn:
            known = index.namespaces(txn)
            entry = known.get(namespace) or NamespaceEntry(len(known), options.block_bytes, 0, 0)
            if entry.block_bytes != options.block_bytes:
                raise TierConfigError(
                    f"{options.directory} knows this model's blocks with {entry.block_bytes} bytes, not "
                    f"{options.block_bytes}: the namespace does not tell two layouts apart"
                )
            if not path.exists():
                lost = DiskCare(index).forget(txn, namespace)
            slab = SlabFile(
                path,
                disk_id=index.disk_id,
                namespace=namespace,
                block_bytes=options.block_bytes,
                is_new=index.num_records(txn, namespace) == 0,
            )
            if slab.is_blank:
                index.forget_free(txn, entry.number)
                entry = replace(entry, num_slots=0, num_held=0)
            index.put_namespace(txn, namespace, entry)
    except OSError as error:
        if error.errno in FULL_CODES:
            raise NoSpaceLeft(options.full_notice(error)) from error
        raise DirectoryNotWritable(f"{path} cannot be opened: {error}. Remove it, or use another directory") from error
    return DiskFiles(options, index, slab, DiskSpace(index, options.cap_bytes), DiskPins(index), records, tuple(lost))
