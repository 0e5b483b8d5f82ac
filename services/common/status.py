"""Errors as gRPC status, and errors as the `kind` of a refusal: the only place that maps the hierarchy."""

import contextlib
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

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

ERROR_DOMAIN = "tiercel"

_CODES: dict[type[InferError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    PromptTooLong: grpc.StatusCode.INVALID_ARGUMENT,
    ModelNotFound: grpc.StatusCode.NOT_FOUND,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    Cancelled: grpc.StatusCode.CANCELLED,
    TierFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    WorkerLost: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
}
_CLASSES = {error_class.__name__: error_class for error_class in _CODES}

ERROR_KINDS = tuple(_CLASSES)


def grpc_status(error: InferError) -> grpc.Status:
    """The status with `ErrorInfo` (reason = class name), and `BadRequest` or `RetryInfo` where the error has them."""
    code = _CODES.get(type(error), grpc.StatusCode.INTERNAL)
    details: list[Message] = [ErrorInfo(reason=type(error).__name__, domain=ERROR_DOMAIN)]
    if isinstance(error, InvalidRequest) and error.field is not None:
        violation = BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    number: int = code.value[0]
    status: grpc.Status = rpc_status.to_status(Status(code=number, message=error.message, details=_packed(details)))
    return status


def _packed(details: list[Message]) -> list[AnyMessage]:
    packed = []
    for detail in details:
        holder = AnyMessage()
        holder.Pack(detail)
        packed.append(holder)
    return packed


@contextlib.asynccontextmanager
async def errors_as_status(context: grpc.aio.ServicerContext[Any, Any], log: logging.Logger) -> AsyncIterator[None]:
    """Around the body of a handler: what it raises ends the call with the right status.

    An error that is not an `InferError` is ours: the client gets INTERNAL and a reference, the log gets the traceback.
    """
    try:
        yield
    except InferError as error:
        await context.abort_with_status(grpc_status(error))
    except (grpc.aio.AbortError, grpc.aio.UsageError):
        raise
    except Exception:
        await _abort_internal(context, log)


async def _abort_internal(context: grpc.aio.ServicerContext[Any, Any], log: logging.Logger) -> NoReturn:
    reference = secrets.token_hex(4)
    log.exception("internal error, reference %s", reference)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"internal error, reference {reference}; the service's log has the details"
    )


def error_of_call(error: grpc.aio.AioRpcError, where: str) -> InferError:
    """What a call to another service of the stack ended with, to be passed on. `where` names the service."""
    message = error.details() or error.code().name
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
            return error_of_kind(info.reason, message, None)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return WorkerLost(f"{where} is not reachable ({message}); try again later")
    return InferError(f"{where}: {message}")


def error_kind(error: InferError) -> str:
    """The `kind` of a refusal on the scheduler's stream."""
    return type(error).__name__


def error_of_kind(kind: str, message: str, retry_after_s: float | None) -> InferError:
    """The error that a refusal stands for. A kind of a newer scheduler becomes a plain `InferError`."""
    error_class = _CLASSES.get(kind)
    if error_class is Overloaded:
        return Overloaded(message, retry_after_s if retry_after_s is not None else 1.0)
    return error_class(message) if error_class is not None else InferError(message)
