"""Transfers, their results and the disk's news as protobuf. Runs on the asyncio thread."""

from hashlib import blake2b

from engine.errors import InvalidRequest
from kvstore.transfer import (
    NO_TENANT,
    TENANT_BYTES,
    Failure,
    MoveKind,
    PinKept,
    PinnedKeys,
    TierEvents,
    TierFault,
    Transfer,
    TransferResult,
)
from services.common.keys_wire import keys_from_wire, keys_to_wire
from tiercel.v1 import execution_pb2

_KINDS = {
    execution_pb2.TRANSFER_KIND_SPILL: MoveKind.SPILL,
    execution_pb2.TRANSFER_KIND_LOAD: MoveKind.LOAD,
    execution_pb2.TRANSFER_KIND_PERSIST: MoveKind.PERSIST,
    execution_pb2.TRANSFER_KIND_FETCH: MoveKind.FETCH,
}
_FAILURES = {
    None: execution_pb2.TRANSFER_FAILURE_UNSPECIFIED,
    Failure.MISSING: execution_pb2.TRANSFER_FAILURE_MISSING,
    Failure.CORRUPT: execution_pb2.TRANSFER_FAILURE_CORRUPT,
    Failure.FULL: execution_pb2.TRANSFER_FAILURE_FULL,
    Failure.IO_ERROR: execution_pb2.TRANSFER_FAILURE_IO_ERROR,
    Failure.TIMEOUT: execution_pb2.TRANSFER_FAILURE_TIMEOUT,
    Failure.CANCELLED: execution_pb2.TRANSFER_FAILURE_CANCELLED,
}


def transfers_from_wire(message: execution_pb2.Transfers) -> list[Transfer]:
    """Raises InvalidRequest or ValueError for what no scheduler of this release sends."""
    return [_transfer(transfer) for transfer in message.transfers]


def _transfer(message: execution_pb2.Transfer) -> Transfer:
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise InvalidRequest(f"a transfer of kind {message.kind} is not known here; run one release of all services")
    return Transfer(
        transfer_id=message.transfer_id,
        kind=kind,
        keys=list(keys_from_wire(message.keys)),
        block_ids=list(message.block_ids),
        host_slots=list(message.host_slots),
        depths=list(message.depths),
        tenant=_tenant(message.tenant),
        timeout_ns=message.timeout_ns,
    )


def _tenant(name: str) -> bytes:
    """Records carry tenants at a fixed size."""
    return blake2b(name.encode(), digest_size=TENANT_BYTES).digest() if name else NO_TENANT


def transfer_result_to_wire(result: TransferResult) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(
        transfer_result=execution_pb2.TransferResult(
            transfer_id=result.transfer_id,
            num_done=result.num_done,
            failure=_FAILURES[result.failure],
            num_bytes=result.num_bytes,
            wait_ns=result.wait_ns,
            copy_ns=result.copy_ns,
        )
    )


def tier_events_to_wire(events: TierEvents) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(
        tier_events=execution_pb2.TierEvents(
            stored=keys_to_wire(events.stored),
            evicted=keys_to_wire(events.evicted),
            corrupt=keys_to_wire(events.corrupt),
            begins_listing=events.begins_listing,
            ends_listing=events.ends_listing,
        )
    )


def pin_from_wire(message: execution_pb2.PinnedKeys) -> PinnedKeys:
    return PinnedKeys(message.name, list(keys_from_wire(message.keys)), message.is_removed)


def pinned_to_wire(pinned: PinnedKeys) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(
        pinned=execution_pb2.PinnedKeys(name=pinned.name, keys=keys_to_wire(pinned.keys), is_removed=pinned.is_removed)
    )


def pin_kept_to_wire(kept: PinKept) -> execution_pb2.WorkerMessage:
    return execution_pb2.WorkerMessage(pin_kept=execution_pb2.PinKept(name=kept.name, why_not=kept.why_not))


def tier_fault_to_wire(fault: TierFault) -> execution_pb2.WorkerMessage:
    message = "" if fault.is_over else fault.message
    return execution_pb2.WorkerMessage(tier_fault=execution_pb2.TierFault(tier=fault.tier.value, message=message))
