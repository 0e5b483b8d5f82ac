"""The deadlines of live requests, earliest first."""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush

from engine.errors import DeadlinePassed
from engine.scheduling.live_request import LiveRequest

_MIN_COMPACTION = 64


class Deadlines:
    """A heap over the live requests that have a deadline. Requests that ended drop out by themselves."""

    def __init__(self, live_requests: Mapping[str, LiveRequest]) -> None:
        self._live_requests = live_requests
        # The arrival number is unique, so requests themselves are never compared.
        self._heap: list[tuple[int, int, LiveRequest]] = []

    def __len__(self) -> int:
        """Entries held, those of ended requests that have not dropped out included."""
        return len(self._heap)

    def add(self, live: LiveRequest) -> None:
        if live.request.deadline_ns is None:
            return
        if len(self._heap) >= _MIN_COMPACTION + 2 * len(self._live_requests):
            self._heap = [entry for entry in self._heap if self._is_live(entry[2])]
            heapify(self._heap)
        heappush(self._heap, (live.request.deadline_ns, live.arrival, live))

    def next_ns(self) -> int | None:
        while self._heap and not self._is_live(self._heap[0][2]):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_passed(self, now_ns: int) -> list[LiveRequest]:
        passed: list[LiveRequest] = []
        while self._heap and self._heap[0][0] <= now_ns:
            live = heappop(self._heap)[2]
            if self._is_live(live):
                passed.append(live)
        return passed

    def _is_live(self, live: LiveRequest) -> bool:
        return self._live_requests.get(live.request.request_id) is live


def deadline_passed(live: LiveRequest, now_ns: int) -> DeadlinePassed:
    """What is told to whoever sent it."""
    state = "running" if live.has_started else "waiting in the queue"
    passed_ms = (now_ns - live.submitted_ns) / 1e6
    return DeadlinePassed(
        f"The deadline passed while the request was {state}, {passed_ms:.0f} ms after it arrived; "
        "allow more time, or ask for fewer tokens"
    )
