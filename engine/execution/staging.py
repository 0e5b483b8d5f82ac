"""How a step's numbers reach the device, without a wait, and how its ids come back, with the one wait that it needs.

A copy from pageable memory may wait for the device, and one that is not marked always does; so everything that the host
prepares for a CUDA device goes through page-locked memory from here.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

_cuda: Any = torch.cuda  # its classes have no annotations


class Staging(Protocol):
    """Between the host and one device. One thread at a time."""

    device: torch.device
    is_shared: bool
    """The device is the host: what is sent stays where it is."""

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Host memory to fill and send, uninitialised. It may be dropped at once; what is kept may be filled anew
        only after a `fetch`."""
        ...

    def send(self, host: torch.Tensor) -> torch.Tensor:
        """What `memory` gave, on the device."""
        ...

    def refill(self, target: torch.Tensor, host: torch.Tensor) -> None:
        """`send` into a tensor that is there already, behind all that was launched before."""
        ...

    def numbers(self, values: Sequence[int] | Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        """[len(values)] on the device."""
        ...

    def fetch(self, ids: torch.Tensor) -> list[int]:
        """int64 [count] from the device. Waits for all that was launched."""
        ...


class SharedStaging:
    """For models on the CPU."""

    is_shared = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype)

    def send(self, host: torch.Tensor) -> torch.Tensor:
        return host

    def refill(self, target: torch.Tensor, host: torch.Tensor) -> None:
        if target is not host:
            target.copy_(host)

    def numbers(self, values: Sequence[int] | Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype)

    def fetch(self, ids: torch.Tensor) -> list[int]:
        found: list[int] = ids.tolist()
        return found


class PinnedStaging:
    """For models on a CUDA device. torch gives page-locked memory out again only when no copy reads it any more."""

    is_shared = False

    def __init__(self, device: torch.device, max_ids: int) -> None:
        """`max_ids` bounds what is fetched at once."""
        self.device = device
        self._ids = self.memory((max_ids,), torch.int64)
        self._done = _cuda.Event()

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def send(self, host: torch.Tensor) -> torch.Tensor:
        return host.to(self.device, non_blocking=True)

    def refill(self, target: torch.Tensor, host: torch.Tensor) -> None:
        target.copy_(host, non_blocking=True)

    def numbers(self, values: Sequence[int] | Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        return self.send(torch.tensor(values, dtype=dtype, pin_memory=True))

    def fetch(self, ids: torch.Tensor) -> list[int]:
        host = self._ids[: len(ids)]
        host.copy_(ids, non_blocking=True)
        self._done.record()
        self._done.synchronize()
        found: list[int] = host.tolist()
        return found


def staging_for(device: torch.device, max_ids: int) -> Staging:
    """What the device needs."""
    return PinnedStaging(device, max_ids) if device.type == "cuda" else SharedStaging(device)
