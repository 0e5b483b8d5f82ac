"""Which of several workers gets a request."""

from collections.abc import Sequence

from engine.scheduling.request import CachedTokens, Request
from engine.scheduling.scheduler import Scheduler


class Router:
    """Sends a request where most of its prompt is cached, unless that worker is much busier than the others."""

    def __init__(self, max_load_gap: int = 8) -> None:
        self._max_load_gap = max_load_gap
        """Sequences that a worker may have beyond the least loaded one and still be chosen for its cache."""

    def choose(self, request: Request, schedulers: Sequence[Scheduler]) -> int:
        """The index of the scheduler to submit to: most hits, weighed by tier, then least load, then the first.

        Load is counted in sequences, running and waiting; the caller passes at least one scheduler.
        """
        loads = [scheduler.load for scheduler in schedulers]
        limit = min(loads)[0] + self._max_load_gap
        candidates = [i for i, load in enumerate(loads) if load[0] <= limit]
        if len(candidates) == 1:
            return candidates[0]
        return min(candidates, key=lambda i: (-_worth(schedulers[i].prefix_hits(request)), loads[i], i))


def _worth(hits: CachedTokens) -> float:
    """Cached tokens, those in a near tier for more than those in a far one."""
    return hits.device + 0.75 * hits.host + 0.5 * hits.disk
