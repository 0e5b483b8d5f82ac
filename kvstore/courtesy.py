"""How movers share the cores with those who compute: a part of the time while somebody does, all of it otherwise.

Where the model computes on the same cores, each operation waits for its slowest thread, so whoever takes a core for x
prolongs the step by about x. Each piece that is moved meanwhile is therefore followed by a pause that grows with it.
Nothing is held back while nobody computes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

_LINGER_NS = 5_000_000
"""Somebody who computed so shortly ago is between two steps."""
_MIN_PAUSE_NS = 4_000_000
"""Shorter pauses are saved up: each costs a wake-up, which takes its time from those who compute as well."""


class ComputeGauge:
    """Whether somebody computes. Entered and left by the one thread that computes, asked by any."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`clock` counts nanoseconds."""
        self._clock = clock
        self._is_computing = False
        self._ended_ns: int | None = None

    def __enter__(self) -> None:
        self._is_computing = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended_ns = self._clock()
        self._is_computing = False

    @property
    def is_busy(self) -> bool:
        ended_ns = self._ended_ns
        return self._is_computing or (ended_ns is not None and self._clock() - ended_ns < _LINGER_NS)


class Courtesy:
    """One budget of time, kept by all threads that move for one purpose. Safe from any of them."""

    def __init__(
        self,
        gauge: ComputeGauge,
        share: float,
        clock: Callable[[], int] = time.monotonic_ns,
        core_clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        """`share`, in (0, 1], of one core's time may go into moving while somebody computes.

        `core_clock` counts the nanoseconds that the calling thread has had a core: waiting for a disk costs nobody.
        """
        assert 0 < share <= 1, share
        self._gauge = gauge
        self._share = share
        self._clock = clock
        self._core_clock = core_clock
        self._lock = threading.Lock()
        self._free_at_ns = 0

    @property
    def is_due(self) -> bool:
        """Whether somebody computes."""
        return self._gauge.is_busy

    def pause_ns(self) -> int:
        """How long to wait before the next piece, as things are now. 0 while nobody computes, or if it is short."""
        if not self._gauge.is_busy:
            return 0
        pause_ns = self._free_at_ns - self._clock()
        return pause_ns if pause_ns >= _MIN_PAUSE_NS else 0

    @contextmanager
    def charged(self) -> Iterator[None]:
        """What the calling thread does within is a piece."""
        begin_ns = self._core_clock()
        try:
            yield
        finally:
            taken_ns = self._core_clock() - begin_ns
            if self._gauge.is_busy:
                with self._lock:
                    now_ns = self._clock()
                    self._free_at_ns = max(self._free_at_ns, now_ns) + int(taken_ns * (1 / self._share - 1))
