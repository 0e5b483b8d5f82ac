"""The tokenizer of a checkpoint: text to ids and back, the chat template, and what its config says of the model."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.errors import ConfigError, InvalidRequest
from engine.text.chat import Message, render_chat
from services.common.model_path import ModelPath

_LONG_TEXT_CHARS = 2048
"""Texts from here on are encoded on a thread: the loop would be held up for more than about a millisecond."""


class CheckpointTokenizer:
    """`engine.text.tokenizer.Tokenizer` over a Hugging Face tokenizer, which may be called from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # Each token is decoded, twice; the library's own layers take five times as long as the decoding below them.
        self._backend = getattr(tokenizer, "backend_tokenizer", None)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    @property
    def eos_token_id(self) -> int | None:
        return cast(int | None, self._tokenizer.eos_token_id)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        if self._backend is not None:
            return cast(str, self._backend.decode(ids, skip_special_tokens=skip_special_tokens))
        return cast(
            str,
            self._tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            ),
        )

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        conversation = [dict(message) for message in messages]
        return cast(str, self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))


@dataclass(frozen=True, slots=True)
class ModelText:
    """What text requests need to know of the model, from its config files."""

    vocab_size: int
    max_model_tokens: int
    eos_token_ids: tuple[int, ...]


def load_tokenizer(directory: Path) -> CheckpointTokenizer:
    """Raises ConfigError where the directory holds no tokenizer that can be read."""
    # Imported here: it takes a second, in which health answers already.
    from transformers import AutoTokenizer

    try:
        return CheckpointTokenizer(AutoTokenizer.from_pretrained(str(directory), local_files_only=True))
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"cannot load the tokenizer in {directory}: {reason[0] if reason else type(error).__name__}; it needs "
            "tokenizer.json and tokenizer_config.json"
        ) from error


def read_model_text(directory: Path, tokenizer_eos: int | None) -> ModelText:
    """EOS ids come from generation_config.json, else config.json, else the tokenizer. Raises ConfigError."""
    config = _read_json(directory / "config.json")
    generation_path = directory / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.is_file() else {}
    vocab_size, max_tokens = config.get("vocab_size"), config.get("max_position_embeddings")
    if not isinstance(vocab_size, int) or not isinstance(max_tokens, int):
        raise ConfigError(f"{directory / 'config.json'} needs vocab_size and max_position_embeddings as whole numbers")
    for eos in (generation.get("eos_token_id"), config.get("eos_token_id"), tokenizer_eos):
        if eos is not None:
            break
    ids = tuple(eos) if isinstance(eos, list) else (eos,) if eos is not None else ()
    if not all(isinstance(each, int) for each in ids):
        raise ConfigError(f"eos_token_id in {directory} must be a token id or a list of them, not {eos!r}")
    return ModelText(vocab_size, max_tokens, ids)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    return content


class TextModel:
    """Tokenizer and facts, with a small pool of threads so that a long text does not hold up the loop."""

    def __init__(self, name: str, tokenizer: CheckpointTokenizer, facts: ModelText, num_threads: int) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.facts = facts
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="encode")

    async def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if len(text) < _LONG_TEXT_CHARS:
            return self.tokenizer.encode(text, add_special_tokens)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self.tokenizer.encode, text, add_special_tokens
        )

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """The template writes the special tokens, so encoding adds none."""
        return await self.encode(render_chat(self.tokenizer, messages), add_special_tokens=False)

    async def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        for token_id in ids:
            if not 0 <= token_id < self.facts.vocab_size:
                raise InvalidRequest(
                    f"token id {token_id} is outside of the vocabulary 0 .. {self.facts.vocab_size - 1}",
                    field="token_ids",
                )
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self.tokenizer.decode, ids, skip_special_tokens
        )

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def load_text_model(path: ModelPath, num_threads: int) -> TextModel:
    """Blocks for seconds. Raises ConfigError for an unusable directory."""
    tokenizer = load_tokenizer(path.directory)
    return TextModel(path.name, tokenizer, read_model_text(path.directory, tokenizer.eos_token_id), num_threads)
