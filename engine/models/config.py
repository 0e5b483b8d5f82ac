"""What a checkpoint's `config.json` says, reduced to what the models need."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from engine.errors import ConfigError

ARCHITECTURES: Mapping[str, type[PretrainedConfig]] = {
    "LlamaForCausalLM": LlamaConfig,
    "MistralForCausalLM": MistralConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
}
"""Supported architectures, with the class that fills in what an older `config.json` leaves out."""

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shapes and switches of one decoder. Everything in it except `eos_token_ids` and `dtype` changes logits."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    """The context that the checkpoint was made for, in tokens."""
    rope_parameters: Mapping[str, Any]
    """As transformers 5 standardises them: `rope_type`, `rope_theta` and what the type needs."""
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    """Of the attention's output projection."""
    mlp_bias: bool
    windows: tuple[int | None, ...]
    """[layers] tokens that a layer attends to, the current one included; None is all."""
    eos_token_ids: tuple[int, ...]
    dtype: torch.dtype | None
    """Of the checkpoint; None where config.json does not say."""

    @property
    def rope_type(self) -> str:
        return str(self.rope_parameters["rope_type"])

    @classmethod
    def from_hf(cls, directory: str | Path) -> "ModelConfig":
        """Read `config.json` and `generation_config.json`. Raises ConfigError for what cannot be served."""
        directory = Path(directory)
        raw = _read_json(directory / "config.json", required=True)
        architecture = _architecture(raw, directory)
        if raw.get("quantization_config") or raw.get("compression_config"):
            method = (raw.get("quantization_config") or raw["compression_config"]).get("quant_method", "unknown")
            raise ConfigError(
                f"{directory}: the checkpoint is quantized ({method}); serve an unquantized bfloat16, float16 or "
                "float32 checkpoint"
            )
        hf = _standardise(ARCHITECTURES[architecture], raw, directory)
        config = cls(
            architecture=architecture,
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            intermediate_size=hf.intermediate_size,
            num_layers=hf.num_hidden_layers,
            num_heads=hf.num_attention_heads,
            num_kv_heads=hf.num_key_value_heads,
            head_dim=hf.head_dim if getattr(hf, "head_dim", None) else hf.hidden_size // hf.num_attention_heads,
            rms_norm_eps=float(hf.rms_norm_eps),
            max_position_embeddings=hf.max_position_embeddings,
            rope_parameters=dict(hf.rope_parameters),
            tie_word_embeddings=bool(hf.tie_word_embeddings),
            qkv_bias=architecture == "Qwen2ForCausalLM" or bool(getattr(hf, "attention_bias", False)),
            output_bias=architecture != "Qwen2ForCausalLM" and bool(getattr(hf, "attention_bias", False)),
            mlp_bias=bool(getattr(hf, "mlp_bias", False)),
            windows=_windows(architecture, hf),
            eos_token_ids=_eos_token_ids(raw, _read_json(directory / "generation_config.json", required=False)),
            dtype=_dtype(raw, directory),
        )
        config._check(directory, hf)
        return config

    def rope_config(self) -> PretrainedConfig:
        """The configuration object that transformers' RoPE functions read."""
        return LlamaConfig(
            hidden_size=self.num_heads * self.head_dim,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.max_position_embeddings,
            rope_parameters=dict(self.rope_parameters),
        )

    def _check(self, directory: Path, hf: PretrainedConfig) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{directory}: config.json gives {name} {getattr(self, name)}; it must be positive")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{directory}: {self.num_heads} attention heads cannot share {self.num_kv_heads} key/value heads "
                "evenly; num_attention_heads must be a multiple of num_key_value_heads"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise ConfigError(f"{directory}: head_dim is {self.head_dim}; RoPE needs an even one")
        if hf.hidden_act != "silu":
            raise ConfigError(f"{directory}: hidden_act is {hf.hidden_act!r}; only 'silu' is supported")
        if len(self.windows) != self.num_layers:
            raise ConfigError(f"{directory}: layer_types has {len(self.windows)} entries for {self.num_layers} layers")
        if any(window is not None and window < 1 for window in self.windows):
            raise ConfigError(f"{directory}: sliding_window is {hf.sliding_window}; it must be at least 1")
        if self.rope_type not in ROPE_TYPES:
            raise ConfigError(
                f"{directory}: RoPE type {self.rope_type!r} is not supported; supported are {', '.join(ROPE_TYPES)}"
            )
        partial = self.rope_parameters.get("partial_rotary_factor")
        if partial not in (None, 1, 1.0) and self.rope_type != "proportional":
            raise ConfigError(
                f"{directory}: partial_rotary_factor {partial} is not supported for {self.architecture}; it must be 1"
            )
        if self.rope_type == "longrope":
            for name in ("short_factor", "long_factor"):
                if len(self.rope_parameters[name]) != self.head_dim // 2:
                    raise ConfigError(
                        f"{directory}: RoPE {name} has {len(self.rope_parameters[name])} entries; "
                        f"head_dim {self.head_dim} needs {self.head_dim // 2}"
                    )


def _read_json(path: Path, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if not required:
            return {}
        raise ConfigError(
            f"{path} does not exist; a model directory holds config.json, tokenizer files and *.safetensors"
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; a JSON object is needed")
    return value


def _architecture(raw: dict[str, Any], directory: Path) -> str:
    named = raw.get("architectures") or []
    for architecture in named:
        if architecture in ARCHITECTURES:
            return str(architecture)
    raise ConfigError(
        f"{directory}: architecture {', '.join(map(str, named)) or 'not named'} is not supported; supported are "
        f"{', '.join(ARCHITECTURES)}"
    )


def _standardise(config_class: type[PretrainedConfig], raw: dict[str, Any], directory: Path) -> PretrainedConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if any(isinstance(value, dict) for value in rope.values()) if isinstance(rope, dict) else True:
        raise ConfigError(f"{directory}: RoPE parameters must be one flat object for all layers, not {rope!r}")
    if rope_type not in ROPE_TYPES:
        raise ConfigError(
            f"{directory}: RoPE type {rope_type!r} is not supported; supported are {', '.join(ROPE_TYPES)}"
        )
    fields = {key: value for key, value in raw.items() if key not in ("torch_dtype", "dtype")}
    try:
        return config_class.from_dict(fields)
    # transformers validates with exceptions of many classes (huggingface_hub's strict dataclasses, KeyError, ...).
    except Exception as error:
        raise ConfigError(f"{directory}: config.json is inconsistent: {error}") from error


def _windows(architecture: str, hf: PretrainedConfig) -> tuple[int | None, ...]:
    windows: list[int | None]
    match architecture:
        case "MistralForCausalLM":
            windows = [hf.sliding_window or None] * hf.num_hidden_layers
        case "Qwen2ForCausalLM" | "Qwen3ForCausalLM":
            windows = [hf.sliding_window if kind == "sliding_attention" else None for kind in hf.layer_types]
        case _:
            windows = [None] * hf.num_hidden_layers
    return tuple(windows)


def _eos_token_ids(*sources: dict[str, Any]) -> tuple[int, ...]:
    """Of all files, in order, each once: chat checkpoints often list the turn's end in only one of them."""
    found: dict[int, None] = {}
    for source in sources:
        value = source.get("eos_token_id")
        for token_id in value if isinstance(value, list) else [value]:
            if isinstance(token_id, int) and not isinstance(token_id, bool):
                found[token_id] = None
    return tuple(found)


def _dtype(raw: dict[str, Any], directory: Path) -> torch.dtype | None:
    name = raw.get("dtype", raw.get("torch_dtype"))
    if name is None:
        return None
    name = str(name).removeprefix("torch.")
    if name not in DTYPES:
        raise ConfigError(f"{directory}: dtype {name!r} is not supported; supported are {', '.join(DTYPES)}")
    return DTYPES[name]
