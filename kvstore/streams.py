"""Where copies between device and host run, and what they wait for. The one file here that calls CUDA.

A copy must not begin before the compute that was handed over earlier: a spill would read a block that is not written
yet, a load would overwrite one that is still being read. Both directions therefore wait for a fence. That a plan has
been *confirmed* says nothing about the device.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from kernels.cpu.library import KernelsUnavailable, load_kernels

_cuda: Any = torch.cuda  # its classes have no annotations


@dataclass(frozen=True, slots=True)
class Run:
    """`num_rows` records, from row `source` on, that go to row `target` and behind it."""

    source: int
    target: int
    num_rows: int

    @property
    def sources(self) -> slice:
        return slice(self.source, self.source + self.num_rows)

    @property
    def targets(self) -> slice:
        return slice(self.target, self.target + self.num_rows)


class CopyStream(Protocol):
    """An ordered lane of copies beside the compute."""

    def fence(self) -> object:
        """A point behind all compute handed to the device so far. Called on the thread that computes."""
        ...

    def wait(self, fence: object) -> None:
        """Let the copies that follow begin only after `fence`. Does not block the caller."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor, runs: Sequence[Run]) -> None:
        """Copy runs of records, which lie within `uint8[rows, bytes]` on both sides."""
        ...

    def finish(self) -> None:
        """Return when all copies so far are done. Blocks the copier's thread alone, without the interpreter lock."""
        ...


class CpuStream:
    """Copies on the calling thread. Compute is over when its thread comes to hand a transfer over.

    The native copy writes past the caches, which hold what those who compute beside it are using. Where it cannot be
    had numpy copies: like the native one it gives up the interpreter lock and stays on one core.
    """

    def __init__(self) -> None:
        try:
            self._copy_rows: Callable[..., None] | None = load_kernels().function(
                "tiercel_copy_rows", *[ctypes.c_void_p] * 2, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
            )
        except KernelsUnavailable:
            self._copy_rows = None

    def fence(self) -> object:
        return None

    def wait(self, fence: object) -> None:
        pass

    def copy(self, target: torch.Tensor, source: torch.Tensor, runs: Sequence[Run]) -> None:
        if self._copy_rows is None:
            to, what = target.numpy(), source.numpy()
            for run in runs:
                np.copyto(to[run.targets], what[run.sources])
            return
        # One call for all: what surrounds a copy of a small record would cost more than the copy.
        columns = np.array([(run.source, run.target, run.num_rows) for run in runs], np.int64)
        self._copy_rows(target.data_ptr(), source.data_ptr(), target.shape[1], columns.ctypes.data, len(runs))

    def finish(self) -> None:
        pass


class CudaStream:
    """Copies on a stream of its own, which a copy engine carries out beside the kernels.

    The host side should be page-locked (`kvstore/slab.py` registers it): only then do copies run by themselves, at the
    link's full rate. Those of one call are all in the stream's queue before the first is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _cuda.Stream(device)
        # The thread that waits sleeps, and leaves the core to the one that launches steps.
        self._done = _cuda.Event(blocking=True)

    def fence(self) -> object:
        event = _cuda.Event()
        event.record(_cuda.current_stream(self._device))
        return event

    def wait(self, fence: object) -> None:
        assert isinstance(fence, _cuda.Event)
        self._stream.wait_event(fence)

    def copy(self, target: torch.Tensor, source: torch.Tensor, runs: Sequence[Run]) -> None:
        with _cuda.stream(self._stream):
            for run in runs:
                target[run.targets].copy_(source[run.sources], non_blocking=True)

    def finish(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()


def copy_stream(device: torch.device) -> CopyStream:
    """The stream that belongs to the device of the pool."""
    return CudaStream(device) if device.type == "cuda" else CpuStream()
