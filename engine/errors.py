"""Everything that can go wrong with a request or a set-up, as one small hierarchy.

A message says what was wrong, what is allowed and what to do. `services/common/status.py` maps the
classes to gRPC status; nothing else does. `assert` is for our own invariants, never for input.
"""


class InferError(Exception):
    """Base of all errors that reach a client or an operator."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(InferError):
    """The request can never succeed as it is. `field` names the offending field, if one does."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for one token of output within the model's context."""


class ModelNotFound(InvalidRequest):
    """The request names a model (or a report) that is not here."""


class Overloaded(InferError):
    """The queue is full. Try again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(InferError):
    """The client's deadline passed, in the queue or while running."""


class Cancelled(InferError):
    """The client went away or cancelled the call."""


class TierFull(InferError):
    """A tier of the cache has no room for what was asked of it."""


class WorkerLost(InferError):
    """The process that ran the request died, or none is there. Safe to send again."""


class Draining(WorkerLost):
    """The service is shutting down and takes no new work. Safe to send to another replica."""


class ConfigError(InferError):
    """A setting, a path or a checkpoint is unusable. The process does not start."""
