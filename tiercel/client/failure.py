"""From a failed gRPC call to the client's errors."""

from collections.abc import Iterable
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tiercel import errors

_CLASSES: dict[grpc.StatusCode, type[errors.TiercelError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlinePassed,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
}
_CLASSES_BY_REASON: dict[str, type[errors.TiercelError]] = {"TierFull": errors.TierFull}
"""Where the status alone does not say enough."""
_DETAILS_KEY = "grpc-status-details-bin"


class FailedCall(Protocol):
    """What sync and asyncio call errors have in common."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...


def error_of(call: FailedCall, target: str) -> errors.TiercelError:
    """The error of a call to `target` that ended with a status other than OK."""
    code = call.code()
    reason: str | None = None
    violations: list[errors.FieldViolation] = []
    retry_after_s: float | None = None
    for detail in _details(call):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            violations += (errors.FieldViolation(v.field, v.description) for v in bad_request.field_violations)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    error_class = _CLASSES_BY_REASON.get(reason or "", _CLASSES.get(code, errors.ServerFailure))
    return error_class(
        _message(code, call.details() or "", reason, target),
        code=code.name,
        reason=reason,
        field_violations=tuple(violations),
        retry_after_s=retry_after_s,
    )


def _details(call: FailedCall) -> Iterable[Any]:
    """The `google.protobuf.Any` messages of a rich status; none where the peer sent a bare one."""
    trailing = getattr(call, "trailing_metadata", lambda: None)() or ()
    for key, value in trailing:
        if key == _DETAILS_KEY:
            try:
                return tuple(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return ()
    return ()


def _message(code: grpc.StatusCode, details: str, reason: str | None, target: str) -> str:
    """A service's own words as they are; gRPC's own words with what they mean for the caller."""
    if reason is not None:
        return details
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"nothing answers at {target} ({details}). Is the stack up? `infer-cli up` starts one"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the call's timeout passed before {target} had answered in full"
        case grpc.StatusCode.CANCELLED:
            return "the call was cancelled"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{target} is not a Tiercel tokenizer service, or one of another version ({details})"
        case _:
            return details or code.name
