"""The parts that decoders are made of. Weights are plain tensors; every forward runs on flat `[tokens, ...]`."""

import torch
import torch.nn.functional as F

from engine.models.config import ModelConfig


class RmsNorm:
    """y = weight * x / sqrt(mean(x²) + eps) over the last dimension (arXiv:1910.07467), the mean in fp32."""

    __slots__ = ("_eps", "_shape", "weight")

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(size, dtype=dtype, device=device)
        self._shape = (size,)
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._shape, self.weight, self._eps)


class Linear:
    """y = x Wᵀ + b. Several projections of one input are rows of one weight."""

    __slots__ = ("bias", "weight")

    def __init__(
        self, in_features: int, out_features: int, bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
        self.bias = torch.empty(out_features, dtype=dtype, device=device) if bias else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def targets(self, prefix: str, parts: dict[str, int]) -> dict[str, torch.Tensor]:
        """Checkpoint names to views: `parts` gives each projection's name and number of rows, in order."""
        found: dict[str, torch.Tensor] = {}
        start = 0
        for name, rows in parts.items():
            found[f"{prefix}.{name}.weight"] = self.weight[start : start + rows]
            if self.bias is not None:
                found[f"{prefix}.{name}.bias"] = self.bias[start : start + rows]
            start += rows
        assert start == self.weight.shape[0]
        return found


class GatedMlp:
    """down(silu(gate(x)) * up(x)) (SwiGLU, arXiv:2002.05202), gate and up merged."""

    __slots__ = ("_down", "_gate_up", "_intermediate_size")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._intermediate_size = config.intermediate_size
        self._gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, config.mlp_bias, dtype, device)
        self._down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, dtype, device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        merged = self._gate_up(x)
        gate, up = merged[:, : self._intermediate_size], merged[:, self._intermediate_size :]
        return self._down(F.silu(gate).mul_(up))

    def targets(self, prefix: str) -> dict[str, torch.Tensor]:
        size = self._intermediate_size
        return {
            **self._gate_up.targets(prefix, {"gate_proj": size, "up_proj": size}),
            **self._down.targets(prefix, {"down_proj": self._down.weight.shape[0]}),
        }
