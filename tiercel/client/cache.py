"""What a stack says about its cache when it is looked after: disks, pinned prefixes, what is wrong with them."""

from collections.abc import Callable
from dataclasses import dataclass

CareProgress = Callable[[str, int, int], None]
"""Called with a worker's address, the records of its disk that are done, and those in all."""


@dataclass(frozen=True, slots=True)
class DiskNamespace:
    """The records of one model, in one KV format, on one disk."""

    namespace: str
    """Hexadecimal."""
    is_served: bool
    """By the worker that says so."""
    block_bytes: int
    records: int
    payload_bytes: int
    file_bytes: int
    """Of the file system: with headers, padding and free slots."""
    hits: int
    """Of the records that are there, since they were stored."""
    hit_records: int
    """Hit at least once."""
    youngest_ns: int | None
    """Since the last use. None: there is no record."""
    median_age_ns: int | None
    oldest_ns: int | None


@dataclass(frozen=True, slots=True)
class DiskReport:
    """One disk, as one of the workers on it sees it."""

    worker: str
    disk_id: str
    """Hexadecimal. Workers with the same one share their records."""
    directory: str
    capacity_bytes: int
    index_bytes: int
    """Of the file system, beside those of the namespaces."""
    corrupt_records: int
    """Found by this worker since it opened the disk, and dropped."""
    tenants: int
    """With a name, that have records."""
    tenant_bytes: int
    namespaces: tuple[DiskNamespace, ...]


@dataclass(frozen=True, slots=True)
class CareNote:
    """Why a worker had nothing to say, or could not do what was asked."""

    worker: str
    message: str


@dataclass(frozen=True, slots=True)
class PinnedPrefix:
    """A name and the blocks that it pins, with how many of them have a copy in each tier of this worker."""

    worker: str
    name: str
    blocks: int
    device_blocks: int
    host_blocks: int
    disk_blocks: int


@dataclass(frozen=True, slots=True)
class CacheReport:
    disks: tuple[DiskReport, ...]
    pinned: tuple[PinnedPrefix, ...]
    without_disk: tuple[CareNote, ...]
    failures: tuple[CareNote, ...]


@dataclass(frozen=True, slots=True)
class BadRecord:
    worker: str
    namespace: str
    """Hexadecimal, as the key."""
    key: str
    fault: str


@dataclass(frozen=True, slots=True)
class DiskVerification:
    worker: str
    records: int
    bytes: int
    bad_records: int
    index_faults: tuple[str, ...]
    """Contradictions within the index."""


@dataclass(frozen=True, slots=True)
class CacheVerification:
    disks: tuple[DiskVerification, ...]
    bad_records: tuple[BadRecord, ...]
    without_disk: tuple[CareNote, ...]
    failures: tuple[CareNote, ...]

    @property
    def is_sound(self) -> bool:
        """Every disk could be read, and nothing is wrong with any record or index."""
        return not (self.bad_records or self.failures or any(disk.index_faults for disk in self.disks))


@dataclass(frozen=True, slots=True)
class DiskClearing:
    worker: str
    records: int


@dataclass(frozen=True, slots=True)
class MemoryClearing:
    """Blocks that a worker has no more on its device and in host memory."""

    worker: str
    device_blocks: int
    host_blocks: int
    kept_blocks: int
    """Of both: running requests use them."""


@dataclass(frozen=True, slots=True)
class CacheClearing:
    disks: tuple[DiskClearing, ...]
    memory: tuple[MemoryClearing, ...]
    unpinned: tuple[str, ...]
    """Names."""
    without_disk: tuple[CareNote, ...]
    failures: tuple[CareNote, ...]
