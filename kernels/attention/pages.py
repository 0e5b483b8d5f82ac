"""One pool's pages as the attention backends see them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PagedKv:
    """A view of a pool, which belongs to whoever allocated it; writes go through.

    A page is one head's K or V of one block: the elements of its tokens in order, then, for FP8, their scales, then
    perhaps padding. Pages lie side by side without gaps, so a page is found by one multiplication, and a token's
    scale is in the page that its elements are in: a gather brings both with one copy.
    """

    data: torch.Tensor
    """uint8 [num_blocks, layers, 2, kv_heads, page_bytes], contiguous; index 0 of the third dimension is K, 1 is V."""
    block_size: int
    head_dim: int
    dtype: torch.dtype
    """Of the elements: bfloat16, float16, float32 or float8_e4m3fn."""
    scales_offset_bytes: int | None
    """Where a page's `block_size` bfloat16 scales start; None: the elements are the values."""

    @property
    def num_layers(self) -> int:
        return self.data.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.data.shape[3]

    @property
    def element_bytes(self) -> int:
        """Of one page, without scales and padding."""
        return self.block_size * self.head_dim * self.dtype.itemsize

    @property
    def elements(self) -> torch.Tensor:
        """`[num_blocks, layers, 2, kv_heads, block_size, head_dim]`, strided."""
        shape = (*self.data.shape[:-1], self.block_size, self.head_dim)
        return self.data[..., : self.element_bytes].view(self.dtype).view(shape)

    @property
    def scales(self) -> torch.Tensor | None:
        """bfloat16 `[num_blocks, layers, 2, kv_heads, block_size]`, strided; see `kernels/kv_codec/e4m3.py`."""
        start = self.scales_offset_bytes
        if start is None:
            return None
        return self.data[..., start : start + self.block_size * torch.bfloat16.itemsize].view(torch.bfloat16)
