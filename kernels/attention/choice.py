"""Which backend attends, by device, head size and what this machine has."""

import logging
from collections.abc import Sequence

import torch

from kernels.attention.native import NativeAttention, unsupported
from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttentionBackend
from kernels.attention.reference import ReferenceAttention
from kernels.attention.torch_sdpa import TorchAttention
from kernels.cpu.library import KernelsUnavailable, load_kernels

NAMES = ("cpu", "torch", "reference")

_log = logging.getLogger(__name__)


def choose_attention(
    kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, name: str | None = None
) -> AttentionBackend:
    """A backend over one pool's pages: our own kernels where they can attend over them, else torch.

    `windows` has an entry per layer, `dtype` is that of the computation. `name` overrides the choice; ValueError
    where there is no such backend, or it cannot be had here.
    """
    match name:
        case "reference":
            return ReferenceAttention(kv, windows)
        case "torch":
            return TorchAttention(kv, windows, dtype)
        case "cpu" | None:
            native = _native_or_reason(kv, windows, dtype)
            if isinstance(native, NativeAttention):
                return native
            if name is not None:
                raise ValueError(f"the attention backend 'cpu' cannot be had: {native}")
            # On other devices torch is the choice, not the way out.
            level = logging.WARNING if kv.data.device.type == "cpu" else logging.DEBUG
            _log.log(level, "attention runs on torch, without native kernels: %s", native)
            return TorchAttention(kv, windows, dtype)
        case _:
            raise ValueError(f"no attention backend is called {name!r}; there are {', '.join(NAMES)}")


def _native_or_reason(kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> NativeAttention | str:
    if reason := unsupported(kv):
        return reason
    try:
        return NativeAttention(kv, windows, dtype, load_kernels())
    except KernelsUnavailable as error:
        return str(error)
