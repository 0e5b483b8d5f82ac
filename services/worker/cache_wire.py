"""What a worker says of its disk, as protobuf."""

import itertools
from collections.abc import Iterator

from kvstore.disk_care import BadRecord, DiskStats, NamespaceStats, VerifyReport
from kvstore.record import RecordFault
from services.worker.disk_keeper import DiskKeeper
from tiercel.v1 import common_pb2

_BAD_RECORDS_PER_MESSAGE = 4096
"""Some 120 bytes each."""


def description_to_wire(keeper: DiskKeeper, stats: DiskStats) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(
        disk=common_pb2.DiskDescription(
            disk_id=stats.disk_id,
            directory=str(keeper.directory),
            capacity_bytes=keeper.capacity_bytes,
            index_bytes=stats.index_file_bytes,
            served_namespace=keeper.namespace,
            corrupt_records=keeper.num_corrupt,
            namespaces=[_namespace(namespace) for namespace in stats.namespaces],
            tenants=len(stats.tenant_bytes),
            tenant_bytes=sum(stats.tenant_bytes.values()),
        )
    )


def _namespace(stats: NamespaceStats) -> common_pb2.DiskNamespace:
    message = common_pb2.DiskNamespace(
        namespace=stats.namespace,
        block_bytes=stats.block_bytes,
        records=stats.num_records,
        payload_bytes=stats.num_bytes,
        file_bytes=stats.file_bytes,
        hits=stats.num_hits,
        hit_records=stats.num_hit_records,
    )
    if stats.age_s is not None:
        # The wall clock may have been set back since a record was used.
        message.youngest_ns, message.median_age_ns, message.oldest_ns = (max(0, int(s * 1e9)) for s in stats.age_s)
    return message


def progress_to_wire(num_done: int, num_records: int) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(
        progress=common_pb2.CacheProgress(done_records=num_done, total_records=num_records)
    )


def verification_to_wire(report: VerifyReport) -> Iterator[common_pb2.ManageCacheEvent]:
    bad = iter(report.bad)
    while chunk := list(itertools.islice(bad, _BAD_RECORDS_PER_MESSAGE)):
        yield common_pb2.ManageCacheEvent(bad_records=common_pb2.BadRecords(records=map(_bad_record, chunk)))
    yield common_pb2.ManageCacheEvent(
        verification=common_pb2.DiskVerification(
            records=report.num_records,
            bytes=report.num_bytes,
            bad_records=len(report.bad),
            index_faults=report.index_faults,
        )
    )


def _bad_record(record: BadRecord) -> common_pb2.BadRecord:
    fault = record.fault.value if isinstance(record.fault, RecordFault) else record.fault
    return common_pb2.BadRecord(namespace=record.namespace, key=record.key, fault=fault)


def clearing_to_wire(num_records: int) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(clearing=common_pb2.DiskClearing(records=num_records))


def failure_to_wire(message: str) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(failure=common_pb2.CareFailure(message=message))


def no_disk_to_wire(reason: str) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(no_disk=common_pb2.NoDisk(reason=reason))
