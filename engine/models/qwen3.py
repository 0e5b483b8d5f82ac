"""Qwen3 (arXiv:2505.09388): Llama with an RMSNorm over each head of q and k before RoPE."""

from dataclasses import replace

import torch

from engine.models.config import ModelConfig
from engine.models.llama import LlamaLayer, LlamaModel
from engine.models.operations import HeadNorms, Operations, RmsNorm
from kernels.cpu.decoder import LayerWeights


class Qwen3Layer(LlamaLayer):
    def __init__(
        self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device, operations: Operations
    ) -> None:
        super().__init__(config, index, dtype, device, operations)
        self._q_norm = RmsNorm(config.head_dim, config.rms_norm_eps, dtype, device)
        self._k_norm = RmsNorm(config.head_dim, config.rms_norm_eps, dtype, device)
        self._head_norms = HeadNorms(self._q_norm, self._k_norm)

    def targets(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            **super().targets(prefix),
            f"{prefix}.self_attn.q_norm.weight": self._q_norm.weight,
            f"{prefix}.self_attn.k_norm.weight": self._k_norm.weight,
        }

    def plain(self, window: int | None) -> LayerWeights:
        return replace(super().plain(window), q_norm=self._q_norm.weight, k_norm=self._k_norm.weight)


class Qwen3Model(LlamaModel):
    def build_layer(
        self, config: ModelConfig, index: int, dtype: torch.dtype, device: torch.device, operations: Operations
    ) -> LlamaLayer:
        return Qwen3Layer(config, index, dtype, device, operations)
