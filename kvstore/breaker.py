"""Whether a tier that may fail is worth a try.

    closed ──failures in a row, or one that hangs──▶ open ──after a while──▶ trying ──success──▶ closed
                                                      ◀──────────failure──────┘

Each way from closed to open and back is told once, to people; every transfer in between is refused at once. Not
thread-safe: its owner calls it under a lock.
"""

import enum

from kvstore.transfer import Tier, TierFault


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    TRYING = "trying"


class Breaker:
    """Of one tier."""

    def __init__(self, tier: Tier, max_failures: int, retry_after_ns: int) -> None:
        self.state = BreakerState.CLOSED
        self.reason: str | None = None
        """Why it is open."""
        self._tier = tier
        self._max_failures = max_failures
        self._retry_after_ns = retry_after_ns
        self._failures = 0
        self._retry_at_ns = 0

    def may_try(self, now_ns: int) -> bool:
        """Whether a task may begin. Once after each pause, a single one may, which decides."""
        if self.state is BreakerState.OPEN and now_ns >= self._retry_at_ns:
            self.state = BreakerState.TRYING
            return True
        return self.state is BreakerState.CLOSED

    def is_refusing(self, now_ns: int) -> bool:
        """Whether `may_try` would say no. Changes nothing."""
        is_waiting = self.state is BreakerState.OPEN and now_ns < self._retry_at_ns
        return is_waiting or self.state is BreakerState.TRYING

    def succeed(self) -> TierFault | None:
        """A task went well."""
        self._failures = 0
        if self.state is BreakerState.OPEN:
            self._retry_at_ns = 0  # what hung has come back
        if self.state is not BreakerState.TRYING:
            return None
        self.state, self.reason = BreakerState.CLOSED, None
        return TierFault(self._tier, f"The {self._tier.value} tier works again", is_over=True)

    def fail(self, message: str, now_ns: int, *, at_once: bool = False) -> TierFault | None:
        """A task failed; `at_once` opens without waiting for more of them."""
        self._failures += 1
        was = self.state
        if was is BreakerState.CLOSED and self._failures < self._max_failures and not at_once:
            return None
        self.state = BreakerState.OPEN
        self._retry_at_ns = now_ns + self._retry_after_ns
        if was is not BreakerState.CLOSED:
            return None
        self.reason = message
        return TierFault(self._tier, message)
