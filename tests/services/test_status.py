"""Every error has one gRPC status, and survives the way through a refusal on the scheduler's stream."""

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from engine.errors import (
    Cancelled,
    ConfigError,
    DeadlinePassed,
    Draining,
    InferError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PromptTooLong,
    TierFull,
    WorkerLost,
)
from services.common.status import error_kind, error_of_kind, grpc_status

CODES = [
    (InvalidRequest("m"), grpc.StatusCode.INVALID_ARGUMENT),
    (PromptTooLong("m"), grpc.StatusCode.INVALID_ARGUMENT),
    (ModelNotFound("m"), grpc.StatusCode.NOT_FOUND),
    (Overloaded("m", 2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DeadlinePassed("m"), grpc.StatusCode.DEADLINE_EXCEEDED),
    (Cancelled("m"), grpc.StatusCode.CANCELLED),
    (TierFull("m"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (WorkerLost("m"), grpc.StatusCode.UNAVAILABLE),
    (Draining("m"), grpc.StatusCode.UNAVAILABLE),
    (ConfigError("m"), grpc.StatusCode.FAILED_PRECONDITION),
]


def rich(error: InferError) -> Status:
    metadata = grpc_status(error).trailing_metadata
    assert metadata is not None
    return Status.FromString(dict(metadata)["grpc-status-details-bin"])


def subclasses(error_class: type[InferError]) -> set[type[InferError]]:
    found = set(error_class.__subclasses__())
    return found.union(*(subclasses(each) for each in found)) if found else found


def test_every_error_class_is_mapped() -> None:
    assert {type(error) for error, _ in CODES} == subclasses(InferError)


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_the_status_names_class_domain_and_message(error: InferError, code: grpc.StatusCode) -> None:
    status = grpc_status(error)
    assert status.code is code
    assert status.details == "m"
    info = ErrorInfo()
    assert rich(error).details[0].Unpack(info)
    assert (info.reason, info.domain) == (type(error).__name__, "tiercel")


@pytest.mark.parametrize("error", [error for error, _ in CODES], ids=lambda value: type(value).__name__)
def test_a_refusal_keeps_class_message_and_retry_hint(error: InferError) -> None:
    retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else None
    again = error_of_kind(error_kind(error), error.message, retry_after_s)
    assert type(again) is type(error)
    assert again.message == error.message
    if isinstance(again, Overloaded):
        assert again.retry_after_s == 2.5


def test_a_refusal_of_an_unknown_kind_is_still_an_error() -> None:
    error = error_of_kind("Novelty", "m", None)
    assert type(error) is InferError
    assert grpc_status(error).code is grpc.StatusCode.INTERNAL


def test_a_field_becomes_a_violation_and_a_retry_hint_a_delay() -> None:
    violations = BadRequest()
    assert rich(InvalidRequest("too hot", field="sampling.temperature")).details[1].Unpack(violations)
    (violation,) = violations.field_violations
    assert (violation.field, violation.description) == ("sampling.temperature", "too hot")
    retry = RetryInfo()
    assert rich(Overloaded("full", 0.25)).details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0.25
