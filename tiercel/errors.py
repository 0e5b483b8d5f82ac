"""What a call to a Tiercel stack can fail with. One class per thing a caller may want to do about it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request that can never be accepted as it is."""

    field: str
    """Path within the request, such as `sampling.top_p`."""
    description: str


class TiercelError(Exception):
    """Base of everything that this package raises about a call.

    `code` is the name of the gRPC status, such as `UNAVAILABLE`; `reason` the server's own name of the error
    (`google.rpc.ErrorInfo`; None where the answer did not come from a Tiercel service); `retry_after_s` the
    server's hint when to try again.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.field_violations = field_violations
        self.retry_after_s = retry_after_s


class InvalidRequest(TiercelError):
    """The request can never succeed as it is; `field_violations` say which field is wrong."""


class NotFound(TiercelError):
    """The model or the report that was asked for is not here."""


class Overloaded(TiercelError):
    """The queue is full. Try again after `retry_after_s` seconds."""


class TierFull(TiercelError):
    """A tier of the cache has no room for what was to be pinned."""


class DeadlinePassed(TiercelError):
    """The call's timeout passed before the answer was complete."""


class Cancelled(TiercelError):
    """The call was cancelled."""


class Unavailable(TiercelError):
    """Nobody answers there, or the process that ran the request is gone. Safe to send again."""


class ServerFailure(TiercelError):
    """The server failed in a way that is not the caller's doing."""
