"""The bundled demo model: its text, its tokenizer, and that it recalls facts from near and from far."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.corpus import arithmetic, conversation
from ops.demo_model.drills import DRILLS
from ops.demo_model.evaluate import CHECKPOINT, answer, load
from ops.demo_model.facts import held_out
from ops.demo_model.probes import arithmetic_case, greedy_is_right, inline_json_case, recall_case
from ops.demo_model.tokenizer import encode_chat

Loaded = tuple[LlamaForCausalLM, PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load(CHECKPOINT, torch.float32)


def test_same_seed_gives_same_chat() -> None:
    assert list(conversation(7, 300)) == list(conversation(7, 300))
    assert list(conversation(7, 300)) != list(conversation(8, 300))
    assert list(conversation(7, 300)) != list(conversation(7, 300, test=True))


@pytest.mark.parametrize("name", list(DRILLS))
def test_drills_are_reproducible_and_fill_a_row(loaded: Loaded, name: str) -> None:
    first, again, other = (list(DRILLS[name](Random(seed), 512)) for seed in (3, 3, 4))
    assert first == again != other
    assert 300 < len(encode_chat(loaded[1], first, 10_000)[0]) < 800


def test_drills_hold_out_the_test_codes() -> None:
    for seed in range(50):
        for pair in next(iter(DRILLS["pairs"](Random(seed), 128)))[1].split(". "):
            owner, code = pair.rstrip(".").split()
            assert not held_out(owner, int(code))


def test_splits_share_no_sum() -> None:
    rng = Random(1)
    for test in (False, True):
        for _ in range(200):
            a, sign, b = arithmetic(rng, test)[1].split(" = ")[0].split()
            assert held_out(int(a), sign, int(b)) == test


def test_each_digit_is_one_token(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer.encode("48213 and 79."))
    space = "\u0120"
    assert pieces[:5] == list("48213")
    # A digit takes the space before it along.
    assert pieces[-3:] == [f"{space}7", "9", "."]


@pytest.mark.parametrize(
    "text", ["plain words", "naïve café", "数字 42 и слова", "🦅 tiercel\n\ttabs", " two  spaces "]
)
def test_tokenizer_round_trip(loaded: Loaded, text: str) -> None:
    tokenizer = loaded[1]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_chat_template_matches_training(loaded: Loaded) -> None:
    tokenizer = loaded[1]
    messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Bye")]
    chat = [{"role": role, "content": text} for role, text in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|><|user|>Bye<|end|><|assistant|>"
    )
    ids, _ = encode_chat(tokenizer, messages, 1000)
    assert tokenizer.encode(text, add_special_tokens=False)[:-1] == ids


def test_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(CHECKPOINT).iterdir()) < 20_000_000


@pytest.mark.parametrize("distance", [128, 1900])
def test_recall(loaded: Loaded, distance: int) -> None:
    model, tokenizer = loaded
    cases = [recall_case(tokenizer, f"unit-{seed}", distance) for seed in range(6)]
    assert sum(greedy_is_right(model, tokenizer, case.messages) for case in cases) >= 5


@pytest.mark.parametrize("sign", ["+", "-"])
def test_arithmetic(loaded: Loaded, sign: str) -> None:
    model, tokenizer = loaded
    assert sum(greedy_is_right(model, tokenizer, arithmetic_case(1000 + seed, sign)) for seed in range(12)) >= 11


def test_json_of_what_the_question_says(loaded: Loaded) -> None:
    model, tokenizer = loaded
    assert sum(greedy_is_right(model, tokenizer, inline_json_case(1000 + seed)) for seed in range(12)) >= 11


def test_greedy_decoding_ends_its_turn(loaded: Loaded) -> None:
    model, tokenizer = loaded
    said = answer(model, tokenizer, [("user", "Hello!")], 40)
    assert said == "Hello! How can I help you?"
