"""What a decoder layer computes between its products and its attention: the seam between the models and who does it."""

import logging
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from engine.models.linear import Linear
from engine.models.rope import rotate

_log = logging.getLogger(__name__)


class RmsNorm:
    """y = weight * x / sqrt(mean(x²) + eps) over the last dimension (arXiv:1910.07467), the mean in fp32."""

    __slots__ = ("eps", "shape", "weight")

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(size, dtype=dtype, device=device)
        self.shape = (size,)
        self.eps = eps


class HeadNorms(NamedTuple):
    """Over each head of q and of k, before RoPE."""

    q: RmsNorm
    k: RmsNorm


class Operations(Protocol):
    """Works on flat `[tokens, ...]` in the model's dtype. Chosen once for a model, by its device."""

    name: str

    def rope_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of the tables of cosines and sines that `rotate` wants in a model of this dtype."""
        ...

    def norm(self, x: torch.Tensor, norm: RmsNorm) -> torch.Tensor:
        """RMSNorm of x [tokens, size], a new tensor."""
        ...

    def project_add_norm(
        self, x: torch.Tensor, linear: Linear, residual: torch.Tensor, norm: RmsNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """residual + linear(x), and its RMSNorm; `residual` [tokens, size] may be overwritten."""
        ...

    def rotate(
        self, heads: torch.Tensor, num_heads: int, cos: torch.Tensor, sin: torch.Tensor, norms: HeadNorms | None
    ) -> None:
        """Normalise, where there are norms, and rotate q and k heads [tokens, q and k heads, head_dim], in place.

        The first `num_heads` are q. cos and sin [tokens, 1, head_dim] come from `RotaryEmbedding.cos_sin`.
        """
        ...

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of [tokens, 2 * size], gate first: [tokens, size]."""
        ...


class TorchOperations:
    """With torch's own operations, on any device."""

    name = "torch"

    def rope_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return dtype

    def norm(self, x: torch.Tensor, norm: RmsNorm) -> torch.Tensor:
        return F.rms_norm(x, norm.shape, norm.weight, norm.eps)

    def project_add_norm(
        self, x: torch.Tensor, linear: Linear, residual: torch.Tensor, norm: RmsNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = linear.added(x, residual)
        return total, F.rms_norm(total, norm.shape, norm.weight, norm.eps)

    def rotate(
        self, heads: torch.Tensor, num_heads: int, cos: torch.Tensor, sin: torch.Tensor, norms: HeadNorms | None
    ) -> None:
        if norms is not None:
            q, k = heads[:, :num_heads], heads[:, num_heads:]
            q.copy_(self.norm(q, norms.q))
            k.copy_(self.norm(k, norms.k))
        rotate(heads, cos, sin)

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=1)
        return F.silu(gate).mul_(up)


def choose_operations(device: torch.device) -> Operations:
    """Triton's kernels on CUDA, where the package is there; else torch's operations."""
    if device.type != "cuda":
        return TorchOperations()
    try:
        from engine.models.triton_operations import TritonOperations
    except ImportError as error:
        _log.warning("layers run on torch's operations, without fused kernels: %s", error)
        return TorchOperations()
    return TritonOperations()
