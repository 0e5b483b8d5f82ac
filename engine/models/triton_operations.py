"""`Operations` by the Triton kernels. Imported only where it is chosen: Triton is an optional package."""

import torch

from engine.models.linear import Linear
from engine.models.operations import HeadNorms, RmsNorm
from kernels.triton.activation import silu_mul
from kernels.triton.norm import add_rms_norm, rms_norm
from kernels.triton.rope import rotate_heads


class TritonOperations:
    """One pass over memory each, in fp32 between a load and a store."""

    name = "triton"

    def rope_dtype(self, dtype: torch.dtype) -> torch.dtype:  # noqa: ARG002 - the tables' rounding would be the largest
        return torch.float32

    def norm(self, x: torch.Tensor, norm: RmsNorm) -> torch.Tensor:
        return rms_norm(x, norm.weight, norm.eps)

    def project_add_norm(
        self, x: torch.Tensor, linear: Linear, residual: torch.Tensor, norm: RmsNorm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return residual, add_rms_norm(linear(x), residual, norm.weight, norm.eps)

    def rotate(
        self, heads: torch.Tensor, num_heads: int, cos: torch.Tensor, sin: torch.Tensor, norms: HeadNorms | None
    ) -> None:
        cos, sin = cos.squeeze(1), sin.squeeze(1)
        if norms is None:
            rotate_heads(heads, num_heads, cos, sin)
        else:
            rotate_heads(heads, num_heads, cos, sin, (norms.q.weight, norms.k.weight), norms.q.eps)

    def gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        return silu_mul(gate_up)
