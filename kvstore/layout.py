"""Sizes and offsets of one KV block: the record that moves between the tiers as one contiguous copy."""

import math
from dataclasses import dataclass

import torch

from kernels.attention.pages import PagedKv
from kernels.huge_pages import zeros

RECORD_ALIGNMENT_BYTES = 64
"""A cache line, and what pinned copies and O_DIRECT-free writes like best."""

_SCALE_BYTES = torch.bfloat16.itemsize
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn)


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """The K and V of `block_size` tokens in all layers: pages `[layers, 2, kv_heads]` of `page_bytes` each.

    Index 0 of the second dimension is K, index 1 is V. A page is one head's K or V: `[block_size, head_dim]` elements,
    then, for float8_e4m3fn, `[block_size]` bfloat16 scales (`kernels/kv_codec/e4m3.py`). A record is a multiple of
    64 bytes, so all records of an aligned pool start aligned; where pages alone do not come to that (a block size of
    16 always does), each page is padded by a few bytes, so that pages stay evenly spaced over the whole pool.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    """Tokens per block."""
    dtype: torch.dtype
    """Element type of K and V: bfloat16, float16, float32 or float8_e4m3fn."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dtype not in _DTYPES:
            raise ValueError(f"KV blocks hold bfloat16, float16, float32 or float8_e4m3fn, not {self.dtype}")

    @property
    def has_scales(self) -> bool:
        return self.dtype == torch.float8_e4m3fn

    @property
    def scale_mode(self) -> str:
        """How elements become values; part of the identity of a block."""
        return "token-head-bf16" if self.has_scales else "none"

    @property
    def num_pages(self) -> int:
        """In one block."""
        return self.num_layers * 2 * self.num_kv_heads

    @property
    def page_payload_bytes(self) -> int:
        """Elements and scales of a page."""
        scales = self.block_size * _SCALE_BYTES if self.has_scales else 0
        return self._scales_offset_in_page + scales

    @property
    def page_bytes(self) -> int:
        """From one page to the next."""
        # The least padding that makes all pages of a block come to a multiple of the record's alignment.
        step = RECORD_ALIGNMENT_BYTES // math.gcd(RECORD_ALIGNMENT_BYTES, self.num_pages)
        step = math.lcm(step, _SCALE_BYTES if self.has_scales else self.dtype.itemsize)
        return -(-self.page_payload_bytes // step) * step

    @property
    def layer_bytes(self) -> int:
        return 2 * self.num_kv_heads * self.page_bytes

    @property
    def payload_bytes(self) -> int:
        """The record without padding."""
        return self.num_pages * self.page_payload_bytes

    @property
    def block_bytes(self) -> int:
        """The record."""
        return self.num_layers * self.layer_bytes

    def offset_bytes(self, layer: int, is_value: bool, head: int = 0, token: int = 0) -> int:
        """Where `head_dim` elements of one token start within the record."""
        return self._page(layer, is_value, head) * self.page_bytes + token * self.head_dim * self.dtype.itemsize

    def scale_offset_bytes(self, layer: int, is_value: bool, head: int = 0, token: int = 0) -> int:
        """Where the scale of those elements is within the record. The layout must have scales."""
        assert self.has_scales
        page = self._page(layer, is_value, head)
        return page * self.page_bytes + self._scales_offset_in_page + token * _SCALE_BYTES

    def allocate(self, num_blocks: int, device: torch.device) -> torch.Tensor:
        """A pool `uint8[num_blocks, block_bytes]` of zeros, owned by the caller.

        Zeros, because attention may read the unwritten tail of a block before it masks it, and 0 * NaN is NaN.
        """
        if device.type == "cpu":
            return zeros(num_blocks * self.block_bytes).view(num_blocks, self.block_bytes)
        return torch.zeros(num_blocks, self.block_bytes, dtype=torch.uint8, device=device)

    def pages(self, pool: torch.Tensor) -> PagedKv:
        """What attention works on, over the pool's bytes; writes go through."""
        if pool.dtype != torch.uint8 or pool.dim() != 2 or pool.shape[1] != self.block_bytes:
            raise ValueError(
                f"a pool of this layout is uint8[num_blocks, {self.block_bytes}], not {pool.dtype}{list(pool.shape)}"
            )
        return PagedKv(
            data=pool.view(len(pool), self.num_layers, 2, self.num_kv_heads, self.page_bytes),
            block_size=self.block_size,
            head_dim=self.head_dim,
            dtype=self.dtype,
            scales_offset_bytes=self._scales_offset_in_page if self.has_scales else None,
        )

    def kv_view(self, pool: torch.Tensor) -> torch.Tensor:
        """The elements, `[num_blocks, layers, 2, kv_heads, block_size, head_dim]`, strided; writes go through."""
        return self.pages(pool).elements

    @property
    def _scales_offset_in_page(self) -> int:
        size = self.block_size * self.head_dim * self.dtype.itemsize
        return -(-size // _SCALE_BYTES) * _SCALE_BYTES if self.has_scales else size

    def _page(self, layer: int, is_value: bool, head: int) -> int:
        return (layer * 2 + is_value) * self.num_kv_heads + head
