"""A fake of what copies use of `torch.cuda`: streams that run only when somebody waits, and events between them.

It runs as late and in as odd an order as CUDA may, so that a missing fence or wait shows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stream:
    def __init__(self, device: object = None) -> None:
        self.device = device
        self.queue: list[Callable[[], object]] = []
        self._num_done = 0

    def wait_event(self, event: "Event") -> None:
        self.queue.append(event.reach)

    def run(self, until: int) -> None:
        while self._num_done < until:
            self._num_done += 1
            self.queue[self._num_done - 1]()


class Event:
    def __init__(self, blocking: bool = False) -> None:
        self.blocking = blocking
        self._stream: Stream | None = None
        self._position = 0

    def record(self, stream: Stream) -> None:
        self._stream, self._position = stream, len(stream.queue)

    def reach(self) -> None:
        if self._stream is not None:
            self._stream.run(self._position)

    def synchronize(self) -> None:
        self.reach()


class FakeCuda:
    """In place of the module `torch.cuda`."""

    def __init__(self) -> None:
        self.Stream, self.Event = Stream, Event
        self.compute = Stream()
        self._current = self.compute

    def current_stream(self, device: object = None) -> Stream:  # noqa: ARG002 - there is one device
        return self._current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before


class QueuedTensor:
    """A tensor whose copies are queued in the stream that is current, as those of a CUDA tensor are."""

    def __init__(self, cuda: FakeCuda, tensor: torch.Tensor) -> None:
        self._cuda = cuda
        self.tensor = tensor

    def __getitem__(self, rows: slice) -> "QueuedTensor":
        return QueuedTensor(self._cuda, self.tensor[rows])

    def copy_(self, source: "QueuedTensor", non_blocking: bool = False) -> None:
        assert non_blocking, "would wait for the device"
        self._cuda.current_stream().queue.append(lambda: self.tensor.copy_(source.tensor))
