"""A matrix product with a weight that stays: plain until it is loaded, then in the layout the machine reads fastest."""

import torch
import torch.nn.functional as F

from kernels.cpu.decoder import LinearWeights

_PACKED_FOR_ROWS = 32
"""oneDNN's layout depends on the expected rows; the one for 32 is as good as any from 1 to 512 (measured)."""


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN has blocked bf16 weights here (AVX-512 or AMX): half to two thirds of the time at few rows."""
    return device.type == "cpu" and dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Linear:
    """y = x Wᵀ + b. Several projections of one input are rows of one weight."""

    __slots__ = ("_packed", "bias", "weight")

    def __init__(
        self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.weight: torch.Tensor | None = torch.empty(out_features, in_features, dtype=dtype, device=device)
        """`[out_features, in_features]`; None once packed."""
        self.bias = torch.empty(out_features, dtype=dtype, device=device) if bias else None
        self._packed: torch.Tensor | None = None

    @classmethod
    def sharing(cls, weight: torch.Tensor) -> "Linear":
        """Over a weight that someone else owns and reads; packing makes a copy of it."""
        linear = cls(0, 0, False, weight.dtype, weight.device)
        linear.weight = weight
        return linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed is not None:
            packed: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
            return packed
        assert self.weight is not None
        return F.linear(x, self.weight, self.bias)

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + x Wᵀ + b; `residual` may be overwritten."""
        if self._packed is not None:
            packed: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self._packed, self.bias, "add"
            )
            return packed
        return residual.add_(self(x))

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """x Wᵀ into `out`, for a plain weight without a bias."""
        assert self.weight is not None
        assert self.bias is None
        torch.mm(x, self.weight.t(), out=out)

    def targets(self, parts: dict[str, int]) -> dict[str, torch.Tensor]:
        """Checkpoint names to views: `parts` gives each projection's full name and number of rows, in order."""
        assert self.weight is not None, "a packed weight cannot be loaded into"
        found: dict[str, torch.Tensor] = {}
        start = 0
        for name, rows in parts.items():
            found[f"{name}.weight"] = self.weight[start : start + rows]
            if self.bias is not None:
                found[f"{name}.bias"] = self.bias[start : start + rows]
            start += rows
        assert start == self.weight.shape[0]
        return found

    def plain(self) -> LinearWeights:
        """The weight and bias as they were loaded."""
        assert self.weight is not None, "a packed weight is not plain any more"
        return LinearWeights(self.weight, self.bias)

    def pack(self) -> None:
        """Re-lay the loaded weight and drop the plain one."""
        assert self.weight is not None
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, _PACKED_FOR_ROWS)
        self.weight = None
