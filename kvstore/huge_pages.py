"""Anonymous memory in huge pages, where the kernel has them: fewer page faults, and fewer misses when blocks that lie
anywhere in gigabytes are read."""

import mmap

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
