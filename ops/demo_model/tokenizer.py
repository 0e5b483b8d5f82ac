"""The tokenizer: byte-level BPE in which each digit is one token, with a chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ops.demo_model import words
from ops.demo_model.corpus import Message, conversation

PAD, BOS, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (PAD, BOS, SYSTEM, USER, ASSISTANT, END)
VOCABULARY = 2048
CONTEXT = 4096

CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def training_text(chats: int) -> Iterator[str]:
    # The first word of a line has no space before it and is another token; names must be whole there too.
    for _ in range(60):
        yield from words.NAMES
        yield from words.CITIES
    for seed in range(chats):
        for _, text in conversation(f"tokenizer-{seed}", 400):
            yield text


def train_tokenizer(chats: int = 3000) -> PreTrainedTokenizerFast:
    """Train on ``chats`` generated conversations. All 256 bytes are in the alphabet, so any UTF-8 text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A digit takes the space before it along, as words do: a value then comes straight after its name or "is".
            pre_tokenizers.Split(Regex(" ?[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(chats), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def encode_chat(
    tokenizer: PreTrainedTokenizerFast, messages: Iterable[Message], limit: int
) -> tuple[list[int], list[bool]]:
    """The ids of a chat as the template renders it, and which of them the assistant says.

    Stops after ``limit`` ids. The end-of-turn id of an assistant message counts as said by the assistant.
    """
    backend = tokenizer.backend_tokenizer
    marks = {mark: cast(int, tokenizer.convert_tokens_to_ids(mark)) for mark in SPECIAL_TOKENS}
    ids = [marks[BOS]]
    said = [False]
    for role, text in messages:
        body = backend.encode(text, add_special_tokens=False).ids
        ids += [marks[f"<|{role}|>"], *body, marks[END]]
        said += [False, *([role == "assistant"] * (len(body) + 1))]
        if len(ids) >= limit:
            break
    return ids[:limit], said[:limit]


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
