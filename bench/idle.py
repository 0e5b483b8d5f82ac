"""Waits for the machine to have nothing to do.

After their work OpenMP's threads spin for a while, Intel's for 200 ms, and caches write to disk what they have got:
what one peer leaves behind would be counted as the next one's time.
"""

import time

import psutil

_IDLE_PERCENT = 10.0
"""Of all cores. Services that wait take a few."""

_WINDOW_S = 0.2


def wait_until_idle(timeout_s: float = 20.0) -> None:
    """Returns after a window in which little ran, or at the latest after the time-out."""
    give_up = time.monotonic() + timeout_s
    while psutil.cpu_percent(interval=_WINDOW_S) > _IDLE_PERCENT and time.monotonic() < give_up:
        pass
