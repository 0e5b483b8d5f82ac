"""The parts that decoders are made of. Weights are plain tensors; every forward runs on flat `[tokens, ...]`."""

import torch
import torch.nn.functional as F

from engine.models.config import ModelConfig
from engine.models.linear import Linear
from kernels.cpu.decoder import LinearWeights


class RmsNorm:
    """y = weight * x / sqrt(mean(x²) + eps) over the last dimension (arXiv:1910.07467), the mean in fp32."""

    __slots__ = ("_eps", "_shape", "weight")

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(size, dtype=dtype, device=device)
        self._shape = (size,)
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self._shape, self.weight, self._eps)


class GatedMlp:
    """down(silu(gate(x)) * up(x)) (SwiGLU, arXiv:2002.05202), gate and up merged."""

    __slots__ = ("_down", "_gate_up", "_hidden_size", "_intermediate_size")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._hidden_size = config.hidden_size
        self._intermediate_size = config.intermediate_size
        self._gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, config.mlp_bias, dtype, device)
        self._down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, dtype, device)

    def added(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual + the MLP of x; `residual` may be overwritten."""
        merged = self._gate_up(x)
        gate, up = merged[:, : self._intermediate_size], merged[:, self._intermediate_size :]
        return self._down.added(F.silu(gate).mul_(up), residual)

    def targets(self, prefix: str) -> dict[str, torch.Tensor]:
        size = self._intermediate_size
        return {
            **self._gate_up.targets({f"{prefix}.gate_proj": size, f"{prefix}.up_proj": size}),
            **self._down.targets({f"{prefix}.down_proj": self._hidden_size}),
        }

    def plain(self) -> tuple[LinearWeights, LinearWeights]:
        """Gate and up merged, and down, as they were loaded."""
        return self._gate_up.plain(), self._down.plain()

    def pack(self) -> None:
        self._gate_up.pack()
        self._down.pack()
