"""Held-out questions with one right answer, and whether greedy decoding gives it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.corpus import NOTED_REPLY, READ_REPLY, Chat, Message, arithmetic
from ops.demo_model.facts import as_json, asked_record, draw_name
from ops.demo_model.talk import filler, small_talk
from ops.demo_model.tokenizer import encode_chat


@dataclass(frozen=True)
class Probe:
    """A chat whose last message is the expected answer. ``distance`` is in tokens, fact to answer."""

    messages: tuple[Message, ...]
    distance: int


def recall_case(tokenizer: PreTrainedTokenizerFast, seed: int | str, distance: int, density: float = 0.5) -> Probe:
    """A code stated about ``distance`` tokens before it is asked for, among other people's facts and filler."""
    rng = Random(f"probe/{seed}/{distance}")
    chat = Chat(rng, test=True)
    fact = chat.new_fact(kind="code")
    question = fact.asked(rng)
    before = " ".join(filler(rng) for _ in range(rng.randrange(3)))
    # The other sentences fill what the question and the turn marks leave.
    room = distance - len(tokenizer.encode(question)) - 18
    between: list[str] = []
    size = 0
    while True:
        sentence = chat.new_fact().stated(rng) if rng.random() < density and len(chat.book) < 300 else filler(rng)
        size += len(tokenizer.encode(" " + sentence))
        if size > room:
            break
        between.append(sentence)
    notes = " ".join(part for part in (before, fact.stated(rng), *between) if part)
    if rng.random() < 0.5:
        messages: tuple[Message, ...] = (("user", f"{notes} {question}"), ("assistant", fact.answered()))
    else:
        messages = (
            ("user", notes),
            ("assistant", READ_REPLY),
            ("user", question),
            ("assistant", fact.answered()),
        )
    return Probe(messages, distance)


def earlier_turn_case(seed: int) -> tuple[Message, ...]:
    """A code told in the first turn, small talk in the second, the question in the third."""
    rng = Random(f"turns/{seed}")
    chat = Chat(rng, test=True)
    fact = chat.new_fact(kind="code")
    talk, reply = small_talk(rng)
    return (
        ("user", f"Remember: {fact.stated(rng)} {chat.new_fact().stated(rng)}"),
        ("assistant", NOTED_REPLY),
        ("user", talk),
        ("assistant", reply),
        ("user", fact.asked(rng)),
        ("assistant", fact.answered()),
    )


def arithmetic_case(seed: int, sign: str) -> tuple[Message, ...]:
    """A sum or difference that training leaves out."""
    rng = Random(f"sums/{seed}")
    while True:
        question, reply = arithmetic(rng, test=True)
        if f" {sign} " in reply:
            return ("user", question), ("assistant", reply)


def json_case(seed: int) -> tuple[Message, ...]:
    """A record spread over notes of about 200 tokens, asked for as JSON."""
    rng = Random(f"json/{seed}")
    chat = Chat(rng, test=True)
    owner = draw_name(rng)
    values = {kind: chat.new_fact(owner, kind) for kind in ("code", "city")}
    sentences = [fact.stated(rng) for fact in values.values()]
    sentences += [chat.new_fact().stated(rng) if rng.random() < 0.5 else filler(rng) for _ in range(16)]
    rng.shuffle(sentences)
    return (
        ("user", " ".join(sentences)),
        ("assistant", READ_REPLY),
        ("user", asked_record(rng, owner, ("code", "city"))),
        ("assistant", as_json(owner, {kind: fact.value for kind, fact in values.items()})),
    )


def inline_json_case(seed: int) -> tuple[Message, ...]:
    """JSON of values that the question itself carries."""
    question, reply = Chat(Random(f"inline/{seed}"), test=True).inline_record()
    return ("user", question), ("assistant", reply)


def talk_cases(rng: Random, count: int) -> list[tuple[Message, ...]]:
    """Small talk as the first turn of a chat. Its few questions are not held out."""
    pairs = [small_talk(rng) for _ in range(count)]
    return [(("user", question), ("assistant", reply)) for question, reply in pairs]


@torch.no_grad()
def greedy_is_right(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, messages: tuple[Message, ...]) -> bool:
    """Whether greedy decoding says exactly the last message and ends its turn.

    One forward pass decides it: greedy decoding gives the reference exactly when every reference token is the argmax
    after the ones before it.
    """
    prompt, _ = encode_chat(tokenizer, messages[:-1], 1 << 20)
    ids, _ = encode_chat(tokenizer, messages, 1 << 20)
    start = len(prompt) + 1
    logits = model(torch.tensor([ids[:-1]]), logits_to_keep=len(ids) - start).logits[0]
    return bool((logits.argmax(-1) == torch.tensor(ids[start:])).all())


def recall_probe(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, length: int) -> dict[int, float]:
    """Recall accuracy by distance, from a few cases each, for the training log."""
    model.train(False)
    distances = [d for d in (64, 128, 256, 512, 1024, 1900) if d <= 2 * length]
    result = {}
    for distance in distances:
        count = 16 if distance <= 512 else 6
        cases = [recall_case(tokenizer, seed, distance) for seed in range(count)]
        result[distance] = round(sum(greedy_is_right(model, tokenizer, c.messages) for c in cases) / count, 2)
    model.train()
    return result
