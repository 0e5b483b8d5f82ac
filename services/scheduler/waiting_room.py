"""Requests that no worker can take at the moment: they wait for one, for a bounded time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import DeadlinePassed, InferError, Overloaded, WorkerLost
from engine.scheduling.request import Request

_RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _Place:
    request: Request
    timer: asyncio.TimerHandle


class WaitingRoom:
    """All on the loop's thread. A request leaves by `take_all`, by `remove`, or by `on_refused` when its time is up."""

    def __init__(
        self,
        max_requests: int,
        wait_s: float,
        is_worker_coming: Callable[[], bool],
        on_refused: Callable[[str, InferError], None],
    ) -> None:
        """While `is_worker_coming` says that a worker loads, only a request's own deadline ends its wait."""
        self._max_requests = max_requests
        self._wait_s = wait_s
        self._is_worker_coming = is_worker_coming
        self._on_refused = on_refused
        self._places: dict[str, _Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, request: Request) -> None:
        """Raises Overloaded when there is no place left."""
        if len(self._places) >= self._max_requests:
            raise Overloaded(
                f"no worker is ready and {len(self._places)} requests wait for one; no more may, try again later",
                _RETRY_AFTER_S,
            )
        self._places[request.request_id] = _Place(request, self._timer(request))

    def remove(self, engine_id: str) -> None:
        place = self._places.pop(engine_id, None)
        if place is not None:
            place.timer.cancel()

    def take_all(self) -> list[Request]:
        """In the order in which they came."""
        places, self._places = self._places, {}
        for place in places.values():
            place.timer.cancel()
        return [place.request for place in places.values()]

    def _timer(self, request: Request) -> asyncio.TimerHandle:
        wait_s = self._wait_s
        if request.deadline_ns is not None:
            wait_s = min(wait_s, max(0.0, (request.deadline_ns - time.monotonic_ns()) / 1e9))
        return asyncio.get_running_loop().call_later(wait_s, self._on_timer, request)

    def _on_timer(self, request: Request) -> None:
        has_expired = request.deadline_ns is not None and request.deadline_ns <= time.monotonic_ns()
        if not has_expired and self._is_worker_coming():
            self._places[request.request_id].timer = self._timer(request)
            return
        del self._places[request.request_id]
        if has_expired:
            self._on_refused(request.request_id, DeadlinePassed("the deadline passed while no worker was ready"))
        else:
            message = f"no worker became ready within {self._wait_s:g} s; it is safe to send the request again"
            self._on_refused(request.request_id, WorkerLost(message))
