"""How many calls may be open at once, and when the last one has left."""

import asyncio
import contextlib
from collections.abc import Iterator

from engine.errors import Draining, Overloaded

_RETRY_AFTER_S = 1.0


class Admission:
    """On the loop's thread."""

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._num_open = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_open(self) -> int:
        return self._num_open

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Around one call. Raises Overloaded or Draining."""
        if self._is_draining:
            raise Draining("the service is shutting down and takes no new requests; send it to another replica")
        if self._num_open >= self._max_concurrent:
            raise Overloaded(
                f"{self._num_open} requests are open here and at most {self._max_concurrent} may be; try again later",
                _RETRY_AFTER_S,
            )
        self._num_open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_open -= 1
            if not self._num_open:
                self._idle.set()

    async def drain(self) -> None:
        """Admit nothing more; return when the last call has left."""
        self._is_draining = True
        await self._idle.wait()
