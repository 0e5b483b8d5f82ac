"""The checkpoints that parity is checked on, and what transformers makes of them."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.checkpoints import edit_config, make_checkpoint

MAX_NEW_TOKENS = 12


@dataclass(frozen=True)
class ParityModel:
    name: str
    family: str
    config: dict[str, Any] = field(default_factory=dict)
    old_style_rope: bool = False
    """Write `rope_theta` and `rope_scaling` at the top level, as before transformers 5."""


def _rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


_LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
_LONGROPE = {
    "original_max_position_embeddings": 128,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0],
}
_WINDOWED = {"use_sliding_window": True, "sliding_window": 24}

PARITY_MODELS = (
    ParityModel("llama-mha", "llama", {"num_key_value_heads": 4}),
    ParityModel("llama-gqa-tied", "llama", {"tie_word_embeddings": True, "num_hidden_layers": 3}),
    ParityModel("llama-mqa", "llama", {"num_key_value_heads": 1}),
    ParityModel("llama-odd-heads", "llama", {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}),
    ParityModel("llama-biases", "llama", {"attention_bias": True, "mlp_bias": True}),
    ParityModel("llama-wide-heads", "llama", {"head_dim": 48}),
    ParityModel("llama-many-eos", "llama", {"eos_token_id": list(range(7, 512, 11))}),
    ParityModel("llama-linear", "llama", _rope("linear", factor=4.0)),
    ParityModel("llama-linear-old-style", "llama", _rope("linear", factor=2.0), old_style_rope=True),
    ParityModel("llama-dynamic", "llama", {**_rope("dynamic", factor=4.0), "max_position_embeddings": 256}),
    ParityModel("llama-yarn", "llama", _rope("yarn", factor=4.0, original_max_position_embeddings=256)),
    ParityModel("llama-longrope", "llama", _rope("longrope", **_LONGROPE)),
    ParityModel("llama-llama3", "llama", _rope("llama3", **_LLAMA3)),
    ParityModel("llama-proportional", "llama", _rope("proportional", partial_rotary_factor=0.5)),
    ParityModel("mistral-windowed", "mistral", {"sliding_window": 40}),
    ParityModel("mistral-full", "mistral", {"sliding_window": None, "num_key_value_heads": 1}),
    ParityModel("qwen2-tied", "qwen2", {"tie_word_embeddings": True}),
    ParityModel("qwen2-upper-windows", "qwen2", {**_WINDOWED, "num_hidden_layers": 3, "max_window_layers": 1}),
    ParityModel("qwen2-dynamic", "qwen2", {**_rope("dynamic", factor=8.0), "max_position_embeddings": 128}),
    ParityModel("qwen3-tied", "qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    ParityModel("qwen3-yarn-biases", "qwen3", {**_rope("yarn", factor=4.0), "attention_bias": True}),
    ParityModel(
        "qwen3-alternating-windows",
        "qwen3",
        {
            **_WINDOWED,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
)


@dataclass(frozen=True)
class Expected:
    """What transformers' greedy `generate` says to one prompt."""

    token_ids: list[int]
    logits: torch.Tensor
    """fp32 [generated, vocab_size]: the distribution that each token was taken from."""


def write_checkpoint(model: ParityModel, directory: Path) -> Path:
    make_checkpoint(directory, model.family, **model.config)
    if model.old_style_rope:
        parameters = dict(model.config["rope_parameters"])
        theta = parameters.pop("rope_theta")
        parameters["type"] = parameters.pop("rope_type")
        edit_config(directory, rope_parameters=None, rope_theta=theta, rope_scaling=parameters)
    return directory


@lru_cache(maxsize=4)
def hf_model(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    model.eval()
    return model


def hf_generate(directory: Path, prompt: list[int], max_new_tokens: int = MAX_NEW_TOKENS) -> Expected:
    model = hf_model(directory)
    # Dynamic RoPE remembers the longest sequence that the object has seen; a server's answers depend on no other.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return Expected(output.sequences[0, len(prompt) :].tolist(), torch.cat(output.logits).float())


def assert_same_ids(expected: Expected, token_ids: list[int], what: str) -> None:
    """Equal, or different from a position on where our token's logit is as close to transformers' best as rounding."""
    if token_ids == expected.token_ids:
        return
    pairs = zip(expected.token_ids, token_ids, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(token_ids), len(expected.token_ids)))
    assert first < min(len(token_ids), len(expected.token_ids)), (
        f"{what}: {len(token_ids)} tokens {token_ids} instead of {expected.token_ids}"
    )
    logits = expected.logits[first]
    best, ours = logits.max().item(), logits[token_ids[first]].item()
    assert best - ours < 1e-4, (
        f"{what}: token {first} is {token_ids[first]} instead of {expected.token_ids[first]}; transformers' best logit "
        f"is {best}, that of our token {ours}"
    )
