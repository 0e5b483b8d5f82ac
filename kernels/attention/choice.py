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

NAMES = ("cpu", "flash", "triton", "torch", "reference")

_log = logging.getLogger(__name__)


def choose_attention(
    kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, name: str | None = None, isa: str = ""
) -> AttentionBackend:
    """A backend over one pool's pages: `cpu` on the CPU, `flash` or else `triton` on CUDA, `torch` where there is none.

    `windows` has an entry per layer, `dtype` is that of the computation. `name` overrides the choice; ValueError
    where there is no such backend, or it cannot be had here. `isa` names the best instruction set that our kernels for
    the CPU may use, "" being any.
    """
    match name:
        case None:
            return _best(kv, windows, dtype, isa)
        case "reference":
            return ReferenceAttention(kv, windows)
        case "torch":
            return TorchAttention(kv, windows, dtype)
        case "cpu" | "flash" | "triton":
            backend = _named(name, kv, windows, dtype, isa)
            if isinstance(backend, str):
                raise ValueError(f"the attention backend {name!r} cannot be had: {backend}")
            return backend
        case _:
            raise ValueError(f"no attention backend is called {name!r}; there are {', '.join(NAMES)}")


def _best(kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, isa: str) -> AttentionBackend:
    # flash-attn's prefill is ahead of Triton's; decode rows over FP8 are the same kernel's in both.
    names = {"cpu": ("cpu",), "cuda": ("flash", "triton")}.get(kv.data.device.type, ())
    for name in names:
        backend = _named(name, kv, windows, dtype, isa)
        if not isinstance(backend, str):
            return backend
        # flash-attn is an extra; that the last choice fails is worth a warning.
        level = logging.WARNING if name == names[-1] else logging.INFO
        _log.log(level, "the attention backend %r cannot be had: %s", name, backend)
    return TorchAttention(kv, windows, dtype)


def _named(
    name: str, kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, isa: str
) -> AttentionBackend | str:
    """This backend, or why it cannot be had."""
    if name == "cpu":
        return _native(kv, windows, dtype, isa)
    try:
        # Triton is there with torch's builds for CUDA alone.
        return _flash(kv, windows, dtype) if name == "flash" else _triton(kv, windows, dtype)
    except ImportError as error:
        return f"triton does not load: {error}"


def _native(kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, isa: str) -> NativeAttention | str:
    if reason := unsupported(kv):
        return reason
    try:
        return NativeAttention(kv, windows, dtype, load_kernels(isa))
    except KernelsUnavailable as error:
        return str(error)


def _triton(kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> AttentionBackend | str:
    from kernels.attention.triton import TritonAttention
    from kernels.attention.triton import unsupported as unsupported_by_triton

    return unsupported_by_triton(kv, dtype) or TritonAttention(kv, windows, dtype)


def _flash(kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype) -> AttentionBackend | str:
    from kernels.attention.flash import FlashAttention, FlashUnavailable, load_flash
    from kernels.attention.flash import unsupported as unsupported_by_flash

    device = kv.data.device
    if device.type != "cuda":
        return f"the pages are on {device}"
    if reason := unsupported_by_flash(kv, dtype, torch.cuda.get_device_capability(device)):
        return reason
    try:
        return FlashAttention(kv, windows, dtype, load_flash(device))
    except FlashUnavailable as error:
        return str(error)
