"""Carries what the engine's thread has to say to the loop, on a small thread of its own.

Waking the loop is a system call, which gives up the interpreter lock; the loop would take it and work while the next
plan waits. A put on the courier's queue keeps the lock, so the next step starts at once and the loop works while the
step is in torch.
"""

import asyncio
import functools
import queue
import threading
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")


class Courier:
    """`keep` and `send` are called on the engine's thread, `deliver` on any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.has_stopped = False
        """The loop has closed, and nobody listens any more."""
        self._loop = loop
        self._news: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._kept: list[Callable[[], object]] = []
        self._thread = threading.Thread(target=self._carry, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After what has been sent."""
        self._news.put(None)

    def keep(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """Have `callback` called on the loop's thread, in the order of the calls of this method.

        It waits until `send`, which comes when the next step computes or there is none: the loop's thread would
        otherwise take the interpreter lock while that step is prepared, and the device would idle.
        """
        self._kept.append(functools.partial(callback, *args))

    def send(self) -> None:
        for call in self._kept:
            self._news.put(call)
        self._kept.clear()

    def deliver(self, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
        """At once."""
        self._news.put(functools.partial(callback, *args))

    def _carry(self) -> None:
        """The courier's thread."""
        while (call := self._news.get()) is not None:
            try:
                self._loop.call_soon_threadsafe(call)
            except RuntimeError:
                # The loop has closed: the process is leaving.
                self.has_stopped = True
                return
