"""One time at which something is to be called, put forward and back as often as you like."""

import asyncio
import time
from collections.abc import Callable

_LATE_S = 0.001
"""A hair late rather than early, so that who is called finds the time passed."""


class Alarm:
    """On the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at_ns: int | None) -> None:
        """In place of the time before. Monotonic; None: not at all."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if at_ns is not None:
            delay_s = max(0.0, (at_ns - time.monotonic_ns()) / 1e9)
            self._handle = self._loop.call_later(delay_s + _LATE_S, self._callback)
