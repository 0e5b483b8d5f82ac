"""A clock that stands still until it is told."""

import threading


class FakeClock:
    """Counts nanoseconds. Safe from any thread."""

    def __init__(self, now_ns: int = 10**15) -> None:
        self._now_ns = now_ns
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return self._now_ns

    def advance_s(self, seconds: float) -> None:
        with self._lock:
            self._now_ns += int(seconds * 1e9)
