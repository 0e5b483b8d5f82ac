"""From the events of ManageCache to what the client returns."""

from tiercel.client.cache import (
    BadRecord,
    CacheClearing,
    CacheReport,
    CacheVerification,
    CareNote,
    CareProgress,
    DiskClearing,
    DiskNamespace,
    DiskReport,
    DiskVerification,
    MemoryClearing,
    PinnedPrefix,
)
from tiercel.v1 import common_pb2


def describe_request() -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(describe=common_pb2.DescribeCache())


def verify_request() -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(verify=common_pb2.VerifyCache())


def clear_request(all_namespaces: bool) -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(clear=common_pb2.ClearCache(all_namespaces=all_namespaces))


def unpin_request(name: str) -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(unpin=common_pb2.UnpinPrefix(name=name))


def settle_request(timeout_s: float) -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(settle=common_pb2.SettleCache(timeout_ns=int(timeout_s * 1e9)))


class CareAnswers:
    """Takes the events of one call; has the answer once the stream has ended."""

    def __init__(self, on_progress: CareProgress | None = None) -> None:
        self._on_progress = on_progress
        self._disks: list[DiskReport] = []
        self._pinned: list[PinnedPrefix] = []
        self._verifications: list[DiskVerification] = []
        self._bad_records: list[BadRecord] = []
        self._clearings: list[DiskClearing] = []
        self._memory: list[MemoryClearing] = []
        self.is_settled = True
        self._unpinned: dict[str, None] = {}
        self._without_disk: list[CareNote] = []
        self._failures: list[CareNote] = []

    def add(self, message: common_pb2.ManageCacheEvent) -> None:
        """An event of a later version that this client does not know is ignored."""
        worker = message.worker
        match message.WhichOneof("event"):
            case "progress":
                if self._on_progress is not None:
                    self._on_progress(worker, message.progress.done_records, message.progress.total_records)
            case "disk":
                self._disks.append(_disk(worker, message.disk))
            case "no_disk":
                self._without_disk.append(CareNote(worker, message.no_disk.reason))
            case "pinned":
                pin = message.pinned
                tiers = (pin.device_blocks, pin.host_blocks, pin.disk_blocks)
                self._pinned.append(PinnedPrefix(worker, pin.name, pin.blocks, *tiers))
            case "bad_records":
                self._bad_records += (
                    BadRecord(worker, record.namespace.hex(), record.key.hex(), record.fault)
                    for record in message.bad_records.records
                )
            case "verification":
                done = message.verification
                self._verifications.append(
                    DiskVerification(worker, done.records, done.bytes, done.bad_records, tuple(done.index_faults))
                )
            case "clearing":
                self._clearings.append(DiskClearing(worker, message.clearing.records))
            case "memory_clearing":
                memory = message.memory_clearing
                blocks = (memory.device_blocks, memory.host_blocks, memory.kept_blocks)
                self._memory.append(MemoryClearing(worker, *blocks))
            case "unpinned":
                self._unpinned[message.unpinned.name] = None
            case "settling":
                self.is_settled &= message.settling.is_settled
            case "failure":
                self._failures.append(CareNote(worker, message.failure.message))
            case _:
                pass

    def report(self) -> CacheReport:
        return CacheReport(tuple(self._disks), tuple(self._pinned), tuple(self._without_disk), tuple(self._failures))

    def verification(self) -> CacheVerification:
        return CacheVerification(
            tuple(self._verifications), tuple(self._bad_records), tuple(self._without_disk), tuple(self._failures)
        )

    def clearing(self) -> CacheClearing:
        return CacheClearing(
            tuple(self._clearings),
            tuple(self._memory),
            tuple(self._unpinned),
            tuple(self._without_disk),
            tuple(self._failures),
        )

    @property
    def unpinned(self) -> tuple[str, ...]:
        return tuple(self._unpinned)


def _disk(worker: str, disk: common_pb2.DiskDescription) -> DiskReport:
    return DiskReport(
        worker=worker,
        disk_id=disk.disk_id.hex(),
        directory=disk.directory,
        capacity_bytes=disk.capacity_bytes,
        index_bytes=disk.index_bytes,
        corrupt_records=disk.corrupt_records,
        tenants=disk.tenants,
        tenant_bytes=disk.tenant_bytes,
        namespaces=tuple(_namespace(each, disk.served_namespace) for each in disk.namespaces),
    )


def _namespace(message: common_pb2.DiskNamespace, served: bytes) -> DiskNamespace:
    return DiskNamespace(
        namespace=message.namespace.hex(),
        is_served=message.namespace == served,
        block_bytes=message.block_bytes,
        records=message.records,
        payload_bytes=message.payload_bytes,
        file_bytes=message.file_bytes,
        hits=message.hits,
        hit_records=message.hit_records,
        youngest_ns=message.youngest_ns if message.HasField("youngest_ns") else None,
        median_age_ns=message.median_age_ns if message.HasField("median_age_ns") else None,
        oldest_ns=message.oldest_ns if message.HasField("oldest_ns") else None,
    )
