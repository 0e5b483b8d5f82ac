"""Sizes and offsets of one KV block: the record that moves between the tiers as one contiguous copy."""

from dataclasses import dataclass

import torch

RECORD_ALIGNMENT_BYTES = 64
"""A cache line, and what pinned copies and O_DIRECT-free writes like best."""


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """The K and V of `block_size` tokens in all layers, as `[layers, 2, kv_heads, block_size, head_dim]`.

    Index 0 of the second dimension is K, index 1 is V. A record is padded to a multiple of 64 bytes, so all
    records of an aligned pool start aligned.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    """Tokens per block."""
    dtype: torch.dtype
    """Element type of K and V: bfloat16, float16 or float32."""

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise ValueError(f"KV blocks hold bfloat16, float16 or float32, not {self.dtype}")

    @property
    def head_bytes(self) -> int:
        """One head's K (or V) of the block's tokens: the unit that attention reads."""
        return self.block_size * self.head_dim * self.dtype.itemsize

    @property
    def layer_bytes(self) -> int:
        return 2 * self.num_kv_heads * self.head_bytes

    @property
    def payload_bytes(self) -> int:
        return self.num_layers * self.layer_bytes

    @property
    def block_bytes(self) -> int:
        """The record: payload and padding."""
        return -(-self.payload_bytes // RECORD_ALIGNMENT_BYTES) * RECORD_ALIGNMENT_BYTES

    def offset_bytes(self, layer: int, is_value: bool, head: int = 0, token: int = 0) -> int:
        """Where `head_dim` elements of one token start within the record."""
        row = ((layer * 2 + is_value) * self.num_kv_heads + head) * self.block_size + token
        return row * self.head_dim * self.dtype.itemsize

    def allocate(self, num_blocks: int, device: torch.device) -> torch.Tensor:
        """A pool `uint8[num_blocks, block_bytes]` of zeros, owned by the caller.

        Zeros, because attention may read the unwritten tail of a block before it masks it, and 0 * NaN is NaN.
        """
        return torch.zeros(num_blocks, self.block_bytes, dtype=torch.uint8, device=device)

    def kv_view(self, pool: torch.Tensor) -> torch.Tensor:
        """`[num_blocks, layers, 2, kv_heads, block_size, head_dim]` over the pool's bytes; writes go through."""
        if pool.dtype != torch.uint8 or pool.dim() != 2 or pool.shape[1] != self.block_bytes:
            raise ValueError(
                f"a pool of this layout is uint8[num_blocks, {self.block_bytes}], not {pool.dtype}{list(pool.shape)}"
            )
        shape = (len(pool), self.num_layers, 2, self.num_kv_heads, self.block_size, self.head_dim)
        return pool[:, : self.payload_bytes].view(self.dtype).view(shape)

    def layer_views(self, pool: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each layer K and V as strided `[num_blocks, kv_heads, block_size, head_dim]` over the pool's bytes."""
        kv = self.kv_view(pool)
        return [(kv[:, layer, 0], kv[:, layer, 1]) for layer in range(self.num_layers)]
