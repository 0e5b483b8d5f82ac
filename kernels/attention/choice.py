"""Which backend attends, by device and KV dtype."""

from collections.abc import Sequence

import torch

from kernels.attention.pages import PagedKv
from kernels.attention.protocol import AttentionBackend
from kernels.attention.reference import ReferenceAttention
from kernels.attention.torch_sdpa import TorchAttention

NAMES = ("torch", "reference")


def choose_attention(
    kv: PagedKv, windows: Sequence[int | None], dtype: torch.dtype, name: str | None = None
) -> AttentionBackend:
    """A backend over one pool's pages, by their device and dtype.

    `windows` has an entry per layer, `dtype` is that of the computation. `name` overrides the choice; ValueError
    where there is no such backend. There is no kernel of our own yet: torch is the choice for every device and dtype.
    """
    match name:
        case "reference":
            return ReferenceAttention(kv, windows)
        case "torch" | None:
            return TorchAttention(kv, windows, dtype)
        case _:
            raise ValueError(f"no attention backend is called {name!r}; there are {', '.join(NAMES)}")
