"""Anonymous memory in huge pages, where the kernel has them: fewer page faults, and fewer waits for the translation of
addresses, when blocks that lie anywhere in gigabytes are read, or weights faster than their pages are looked up."""

import math
import mmap
from collections.abc import Sequence

import torch


def anonymous_map(num_bytes: int) -> mmap.mmap:
    """Zeros that take no memory until they are touched; the caller's. Raises OSError where there is no room."""
    region = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)
    return region


def zeros(num_bytes: int) -> torch.Tensor:
    """`uint8[num_bytes]` over such memory, which lives as long as the tensor or a view of it. Raises MemoryError.

    All of it is touched: to find and clear a huge page takes up to milliseconds, which no step should wait for.
    """
    try:
        return torch.frombuffer(anonymous_map(num_bytes), dtype=torch.uint8).zero_()
    except OSError as error:
        raise MemoryError(f"there is no room for {num_bytes} bytes: {error}") from error


class TensorStack:
    """Tensors one behind the other in huge pages, for as long as any of them lives."""

    _REGION_BYTES = 64 << 20
    """Mapped at a time; what is not touched takes no memory."""

    _ALIGNMENT = 64

    def __init__(self) -> None:
        self._region = torch.empty(0, dtype=torch.uint8)
        self._used_bytes = 0

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values in such memory, contiguous. Raises MemoryError."""
        return self._next(tensor.shape, tensor.dtype).copy_(tensor)

    def zeros(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """All of it touched. Raises MemoryError."""
        return self._next(shape, dtype).zero_()

    def _next(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        num_bytes = math.prod(shape) * dtype.itemsize
        start = -(-self._used_bytes // self._ALIGNMENT) * self._ALIGNMENT
        if start + num_bytes > len(self._region):
            try:
                region = anonymous_map(max(self._REGION_BYTES, num_bytes))
            except OSError as error:
                raise MemoryError(f"there is no room for {num_bytes} bytes: {error}") from error
            self._region, start = torch.frombuffer(region, dtype=torch.uint8), 0
        self._used_bytes = start + num_bytes
        return self._region[start : self._used_bytes].view(dtype).view(shape)
