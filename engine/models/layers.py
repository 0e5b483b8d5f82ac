"""The gated MLP that decoders have. Weights are plain tensors; every forward runs on flat `[tokens, ...]`."""

import torch

from engine.models.config import ModelConfig
from engine.models.linear import Linear
from engine.models.operations import Operations, RmsNorm
from kernels.cpu.decoder import LinearWeights


class GatedMlp:
    """down(silu(gate(x)) * up(x)) (SwiGLU, arXiv:2002.05202), gate and up merged."""

    __slots__ = ("_down", "_gate_up", "_hidden_size", "_intermediate_size", "_operations")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device, operations: Operations) -> None:
        self._hidden_size = config.hidden_size
        self._intermediate_size = config.intermediate_size
        self._operations = operations
        self._gate_up = Linear(config.hidden_size, 2 * config.intermediate_size, config.mlp_bias, dtype, device)
        self._down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias, dtype, device)

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: RmsNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """residual + the MLP of x, and its norm; `residual` may be overwritten."""
        gated = self._operations.gated(self._gate_up(x))
        return self._operations.project_add_norm(gated, self._down, residual, norm)

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
