"""Where copies between device and host run, and what they wait for. The one file here that calls CUDA.

A copy must not begin before the compute that was handed over earlier: a spill would read a block that is not written
yet, a load would overwrite one that is still being read. Both directions therefore wait for a fence. That a plan has
been *confirmed* says nothing about the device.
"""

import ctypes
from collections.abc import Callable, Sequence
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

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Copy, for each (target, source), one contiguous run of records, `uint8[rows, bytes]` on both sides."""
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

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for target, source in pairs:
            if self._copy is None:
                np.copyto(target.numpy(), source.numpy())
                continue
            assert target.is_contiguous()
            assert source.is_contiguous()
            assert target.nbytes == source.nbytes
            self._copy(target.data_ptr(), source.data_ptr(), target.nbytes)

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

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        with _cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)

    def finish(self) -> None:
        self._done.record(self._stream)
        self._done.synchronize()


def copy_stream(device: torch.device) -> CopyStream:
    """The stream that belongs to the device of the pool."""
    return CudaStream(device) if device.type == "cuda" else CpuStream()
