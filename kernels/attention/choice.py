"""Which backend attends, by device and KV dtype."""

from collections.abc import Sequence

import torch

from kernels.attention.protocol import AttentionBackend
from kernels.attention.reference import ReferenceAttention
from kernels.attention.torch_sdpa import TorchAttention

NAMES = ("torch", "reference")


def choose_attention(
    kv: torch.Tensor, windows: Sequence[int | None], dtype: torch.dtype, name: str | None = None
) -> AttentionBackend:
    """A backend over one pool's `[num_blocks, layers, 2, kv_heads, block_size, head_dim]`.

    `windows` has an entry per layer, `dtype` is that of the computation. `name` overrides the choice; ValueError
    where there is no such backend.
    """
    match name:
        case "reference":
            return ReferenceAttention(kv, windows)
        case "torch" | None:
            return TorchAttention(kv, windows, dtype)
        case _:
            raise ValueError(f"no attention backend is called {name!r}; there are {', '.join(NAMES)}")
