"""Stands in for a CUDA device's waits: fails on every operation that would make the host wait for one.

The tensors are the CPU's, where nothing ever waits, so what would wait is told by the operation: one that gives the
host a value, one whose result's shape depends on values, and a tensor made from host data outside of the staging.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING = {
    "aten::_local_scalar_dense": "gives the host a value (.item(), bool(), int(), a scalar index)",
    "aten::equal": "gives the host a value",
    "aten::is_nonzero": "gives the host a value",
    "aten::nonzero": "has a shape that depends on values",
    "aten::masked_select": "has a shape that depends on values",
    "aten::_unique2": "has a shape that depends on values",
    "aten::repeat_interleave": "has a shape that depends on values",
    "aten::lift_fresh": "makes a tensor of host data (torch.tensor, from_numpy) outside of the staging",
}
_HARMLESS = ("self_int",)
"""Overloads: of repeat_interleave, the one with one number for all."""


class WouldWait(AssertionError):
    """On a CUDA device the host would wait here."""


class SyncWatch(TorchDispatchMode):
    """Entered around what must not wait; `allowed` around what may."""

    def __init__(self) -> None:
        super().__init__()
        self._num_allowing = 0
        self.num_operations = 0

    @contextmanager
    def allowed(self) -> Iterator[None]:
        self._num_allowing += 1
        try:
            yield
        finally:
            self._num_allowing -= 1

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not self._num_allowing:
            self.num_operations += 1
            name = func._schema.name  # type: ignore[attr-defined]
            if name in _WAITING and func._overloadname not in _HARMLESS:  # type: ignore[attr-defined]
                raise WouldWait(f"{name} {_WAITING[name]}")
            if name in ("aten::index", "aten::index_put", "aten::index_put_"):
                indices = [index for index in args[1] if index is not None]
                if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                    raise WouldWait(f"{name} with a mask has a shape that depends on values")
        return func(*args, **(kwargs or {}))
