"""Where copies between device and host run, and what they wait for. The one file here that calls CUDA.

A copy must not begin before the compute that was handed over earlier: a spill would read a block that is not written
yet, a load would overwrite one that is still being read. Both directions therefore wait for a fence. That a plan has
been *confirmed* says nothing about the device.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from kernels.cpu.library import KernelsUnavailable, load_kernels

_cuda: Any = torch.cuda  # its classes have no annotations


class CopyStream(Protocol):
    """An ordered lane of copies beside the compute."""

    def fence(self) -> object:
        """A point behind all compute handed to the device so far. Called on the thread that computes."""
        ...

    def wait(self, fence: object) -> None:
        """Let the copies that follow begin only after `fence`. Does not block the caller."""
        ...

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy one contiguous run of records, `uint8[rows, bytes]` on both sides."""
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
            function = load_kernels().function("tiercel_stream_copy", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        except KernelsUnavailable:
            self._copy: Callable[..., None] | None = None
        else:
            self._copy = function

    def fence(self) -> object:
        return None

    def wait(self, fence: object) -> None:
        pass

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if self._copy is None:
            np.copyto(target.numpy(), source.numpy())
            return
        assert target.is_contiguous()
        assert source.is_contiguous()
        assert target.nbytes == source.nbytes
        self._copy(target.data_ptr(), source.data_ptr(), target.nbytes)

    def finish(self) -> None:
        pass


class CudaStream:
    """Copies on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _cuda.Stream(device)

    def fence(self) -> object:
        event = _cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self, fence: object) -> None:
        assert isinstance(fence, torch.cuda.Event)
        self._stream.wait_event(fence)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def finish(self) -> None:
        done = _cuda.Event(blocking=True)
        done.record(self._stream)
        done.synchronize()


def copy_stream(device: torch.device) -> CopyStream:
    """The stream that belongs to the device of the pool."""
    return CudaStream(device) if device.type == "cuda" else CpuStream()
