"""A fake of `PinnedStaging` for tests without a GPU: host and "device" memory are both the CPU's, but apart.

So everything takes the ways that it takes on CUDA: columns are copied to tensors that stay, and nothing the host writes
reaches the device unsent.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch


class CopiedStaging:
    """`within` is entered around each operation, for tests that watch all others."""

    is_shared = False

    def __init__(self, within: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.device = torch.device("cpu")
        self.num_sent = 0
        self.num_fetched = 0
        self._within = within

    def memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        with self._within():
            return torch.full(shape, -99, dtype=dtype)

    def send(self, host: torch.Tensor) -> torch.Tensor:
        self.num_sent += 1
        with self._within():
            return host.clone()

    def refill(self, target: torch.Tensor, host: torch.Tensor) -> None:
        self.num_sent += 1
        with self._within():
            target.copy_(host)

    def numbers(self, values: Sequence[int] | Sequence[float], dtype: torch.dtype) -> torch.Tensor:
        self.num_sent += 1
        with self._within():
            return torch.tensor(values, dtype=dtype)

    def fetch(self, ids: torch.Tensor) -> list[int]:
        self.num_fetched += 1
        with self._within():
            found: list[int] = ids.tolist()
            return found
