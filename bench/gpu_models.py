"""Random models made on the device: nothing is read from a disk; what a step costs follows from shapes and types."""

from collections.abc import Mapping

import torch

from engine.models.config import ModelConfig
from engine.models.families import MODELS
from engine.models.llama import LlamaModel

_STD = 0.02


def config_of(
    architecture: str,
    *,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate: int,
    vocab: int,
    tied: bool,
    rope: Mapping[str, object],
    positions: int,
) -> ModelConfig:
    """A decoder without biases and windows, in bfloat16."""
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=1e-6 if architecture.startswith("Qwen3") else 1e-5,
        max_position_embeddings=positions,
        rope_parameters=rope,
        tie_word_embeddings=tied,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        windows=(None,) * layers,
        eos_token_ids=(),
        dtype=torch.bfloat16,
    )


QWEN3_06B = config_of(
    "Qwen3ForCausalLM",
    layers=28,
    hidden=1024,
    heads=16,
    kv_heads=8,
    head_dim=128,
    intermediate=3072,
    vocab=151936,
    tied=True,
    rope={"rope_type": "default", "rope_theta": 1e6},
    positions=40960,
)
LLAMA_8B = config_of(
    "LlamaForCausalLM",
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14336,
    vocab=128256,
    tied=False,
    rope={
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    positions=131072,
)
"""Llama-3.1-8B's shape."""


def random_model(config: ModelConfig, max_tokens: int, device: torch.device) -> LlamaModel:
    """bfloat16 weights, normal with a standard deviation of 0.02 from a fixed seed; those of norms are 1."""
    with torch.inference_mode():
        model = MODELS[config.architecture](config, max_tokens, torch.bfloat16, device)
        generator = torch.Generator(device).manual_seed(20)
        for name, weight in model.targets().items():
            if name.endswith("norm.weight"):
                weight.fill_(1)
            else:
                weight.normal_(0, _STD, generator=generator)
    return model
