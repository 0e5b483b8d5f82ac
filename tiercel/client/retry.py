"""When a failed call is sent again. Pure: the clients do the waiting."""

import random
import time
from dataclasses import dataclass

from tiercel.errors import Overloaded, TiercelError, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Calls are repeated only where that is safe: nobody answered, or the queue was full and said when to return.

    A stream that has delivered an event is never repeated.
    """

    max_attempts: int = 4
    initial_backoff_s: float = 0.2
    """Doubles with each attempt; the wait is drawn from the upper half of it."""
    max_backoff_s: float = 5.0
    max_retry_after_s: float = 30.0
    """A server's hint beyond this is not waited for: the error is raised, with the hint."""


class Attempts:
    """The attempts of one call under one deadline."""

    def __init__(self, policy: RetryPolicy | None, timeout_s: float | None) -> None:
        self._policy = policy
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._num_failed = 0

    def remaining_s(self) -> float | None:
        """What is left of the timeout, for the next attempt."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def delay_s(self, error: TiercelError, received: bool) -> float | None:
        """How long to wait before the next attempt; None: raise the error."""
        self._num_failed += 1
        if self._policy is None or received or self._num_failed >= self._policy.max_attempts:
            return None
        match error:
            case Unavailable():
                delay = error.retry_after_s if error.retry_after_s is not None else self._backoff_s(self._policy)
            case Overloaded(retry_after_s=float(hint)):
                delay = hint
            case _:
                return None
        if delay > self._policy.max_retry_after_s:
            return None
        remaining = self.remaining_s()
        return None if remaining is not None and delay >= remaining else delay

    def _backoff_s(self, policy: RetryPolicy) -> float:
        limit = min(policy.initial_backoff_s * 2.0 ** (self._num_failed - 1), policy.max_backoff_s)
        return limit * random.uniform(0.5, 1.0)
