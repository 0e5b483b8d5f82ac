"""Random-weight checkpoints of the standard shapes, in Hugging Face format, made once and kept.

Weights are normal with a standard deviation of 0.02, or the shape's own, from a fixed seed, in bf16. The tokenizer is a
word per id: prompts are sent as ids, it is there because a server needs one.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

SEED = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """What `config.json` needs beside the defaults of the family."""

    name: str
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float
    max_position_embeddings: int
    init_std: float = 0.02


SHAPES = {
    "135m": Shape("135m", "llama", 576, 30, 9, 3, 64, 1536, 49152, 100_000.0, 8192),
    "0.6b": Shape("0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 151936, 1_000_000.0, 40960),
}


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tiercel" / "bench"


def checkpoint(shape: Shape, folder: Path | None = None) -> Path:
    """The checkpoint's directory; made now if it is not there. A broken-off attempt leaves nothing behind."""
    path = (folder or cache_folder()) / shape.name
    if not (path / "config.json").exists():
        draft = path.with_name(path.name + ".draft")
        draft.mkdir(parents=True, exist_ok=True)
        _write_weights(shape, draft)
        _write_tokenizer(shape, draft)
        draft.rename(path)
    return path


def _write_weights(shape: Shape, path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(SEED)
    config = AutoConfig.for_model(
        shape.model_type,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        initializer_range=shape.init_std,
        bos_token_id=1,
        eos_token_id=2,
        dtype="bfloat16",
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(path)


def _write_tokenizer(shape: Shape, path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"t{i}": i for i in range(shape.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "t1", "eos_token": "t2", "unk_token": "t0"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
