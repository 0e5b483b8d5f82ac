"""Rotary embedding against transformers' own module, forward pass by forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from engine.models.config import ModelConfig
from engine.models.rope import RotaryEmbedding, length_dependent_from, rotate
from tests.checkpoints import make_checkpoint

CPU = torch.device("cpu")
ORIGINAL = 64

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "yarn-mscale": {"factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.5},
    "longrope": {
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0 + i / 10 for i in range(8)],
        "long_factor": [2.0 + i for i in range(8)],
        "factor": 4.0,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "proportional": {"partial_rotary_factor": 0.5, "factor": 2.0},
}


def scaled_config(directory: Path, name: str) -> tuple[ModelConfig, LlamaConfig]:
    parameters = {"rope_type": name.split("-")[0], "rope_theta": 10000.0, **SCALINGS[name]}
    make_checkpoint(directory, max_position_embeddings=ORIGINAL, rope_parameters=parameters)
    return ModelConfig.from_hf(directory), LlamaConfig.from_pretrained(directory)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("num_prompt_tokens", [1, 40, ORIGINAL, ORIGINAL + 1, 150])
def test_rotation_equals_transformers_for_prompt_and_generated_tokens(
    name: str, num_prompt_tokens: int, tmp_path: Path
) -> None:
    config, hf_config = scaled_config(tmp_path, name)
    ours = RotaryEmbedding(config, 256, torch.float32, CPU)
    theirs = LlamaRotaryEmbedding(hf_config)
    passes = [range(num_prompt_tokens)] + [range(p, p + 1) for p in range(num_prompt_tokens, num_prompt_tokens + 60)]
    for span in passes:
        positions = torch.tensor(list(span))
        heads = torch.randn(len(positions), 3, config.head_dim)
        cos, sin = theirs(heads, positions[None])
        want, _ = apply_rotary_pos_emb(heads[None].transpose(1, 2), heads[None].transpose(1, 2), cos, sin)
        got = rotate(heads.clone(), *ours.cos_sin(positions, torch.full_like(positions, num_prompt_tokens)))
        assert torch.allclose(got, want[0].transpose(0, 1), atol=2e-5)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_sequences_of_different_lengths_share_a_step_without_influence(name: str, tmp_path: Path) -> None:
    config, _ = scaled_config(tmp_path, name)
    rope = RotaryEmbedding(config, 256, torch.float32, CPU)
    positions = torch.tensor([0, 1, 10, 199, 64, 30])
    lengths = torch.tensor([200, 2, 20, 200, 65, 70])
    cos, sin = rope.cos_sin(positions, lengths)
    for i in range(len(positions)):
        alone = rope.cos_sin(positions[i : i + 1], lengths[i : i + 1])
        assert torch.equal(cos[i : i + 1], alone[0])
        assert torch.equal(sin[i : i + 1], alone[1])


@pytest.mark.parametrize("name", SCALINGS)
def test_only_dynamic_and_longrope_depend_on_the_length(name: str, tmp_path: Path) -> None:
    config, _ = scaled_config(tmp_path, name)
    expected = ORIGINAL if name in ("dynamic", "longrope") else 0
    assert length_dependent_from(config) == expected
    rope = RotaryEmbedding(config, 256, torch.float32, CPU)
    positions = torch.tensor([5, 40])
    short = rope.cos_sin(positions, torch.tensor([41, 41]))[0]
    at_limit = rope.cos_sin(positions, torch.tensor([ORIGINAL, ORIGINAL]))[0]
    beyond = rope.cos_sin(positions, torch.tensor([200, 200]))[0]
    assert torch.equal(short, at_limit)
    assert torch.equal(short, beyond) == (expected == 0)
