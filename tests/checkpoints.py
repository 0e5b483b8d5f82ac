"""Random-weight checkpoints in Hugging Face's layout, for any test that needs a real model in small.

Weights are drawn wider than a trained model's (standard deviation 0.3 by default): with the usual 0.02 a small random
model repeats one token for ever, which would hide most mistakes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

FAMILIES: dict[str, type[PretrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}

EOS_TOKEN = "<|end|>"
BOS_TOKEN = "<|begin|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_checkpoint(
    directory: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    std: float = 0.3,
    tokenizer: bool = False,
    max_shard_size: str = "5GB",
    eos_token_id: int | list[int] | None = None,
    **config: Any,
) -> Path:
    """Write config.json, generation_config.json and safetensors into `directory`, and return it.

    `config` overrides the small defaults and takes any field of the family's transformers class. With `tokenizer`
    a byte-level BPE tokenizer with a chat template comes along, its vocabulary that of the model, and the model's
    EOS is the tokenizer's unless `eos_token_id` is given.
    """
    fields: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "pad_token_id": None,
        "eos_token_id": eos_token_id,
    }
    if family == "qwen3":
        fields["head_dim"] = 16
    fields.update(config)
    directory.mkdir(parents=True, exist_ok=True)
    if tokenizer:
        trained = make_tokenizer(directory, fields["vocab_size"])
        fields["bos_token_id"] = trained.bos_token_id
        if eos_token_id is None:
            fields["eos_token_id"] = trained.eos_token_id
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**fields), dtype=dtype)
    _randomise(model, std, seed)
    model.generation_config = GenerationConfig(
        bos_token_id=fields["bos_token_id"], eos_token_id=fields["eos_token_id"], pad_token_id=fields["pad_token_id"]
    )
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return directory


def make_tokenizer(directory: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of exactly `vocab_size` ids on a few fixed sentences and save it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    size = tokenizer.get_vocab_size()
    if size > vocab_size:
        raise ValueError(f"a byte-level vocabulary has at least {size} ids; vocab_size is {vocab_size}")
    # Ids that the corpus was too small to fill, so that whatever the model samples has a text.
    tokenizer.add_tokens([f"<unused{index}>" for index in range(vocab_size - size)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS_TOKEN, eos_token=EOS_TOKEN)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
    return fast


def edit_config(directory: Path, **changes: Any) -> None:
    """Overwrite fields of `config.json`; None removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        if value is None:
            config.pop(name, None)
        else:
            config[name] = value
    path.write_text(json.dumps(config), encoding="utf-8")


def _randomise(model: PreTrainedModel, std: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.1 * drawn)
            else:
                parameter.copy_(std * drawn)


def _sentences() -> Iterator[str]:
    subjects = ("The river", "A small engine", "Her older brother", "The museum's cat", "Every second train")
    verbs = ("carries", "forgets", "repairs", "follows", "measures", "paints")
    objects = ("the northern harbour", "a broken clock", "seven green bottles", "the quiet street", "an old map")
    for subject in subjects:
        for verb in verbs:
            for thing in objects:
                yield f"{subject} {verb} {thing}, and nobody asked why. Où est le café? 你好 🙂\n"
