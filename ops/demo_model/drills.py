"""Dense exercises for training: many answers to a row, so that the circuits of recall and of sums form early.

A look-up by name forms within two million tokens when names stand directly before their values and are asked for again
and again (``pairs``); from there it carries over to sentences (``retelling``). Trained on chats alone, with few
questions to a row, it had not formed after ten million.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from ops.demo_model import facts
from ops.demo_model.corpus import Chat, Message, arithmetic, estimate_tokens

AGAIN = ("Tell me all that again.", "Repeat the facts in any order.", "What did you read?")


def pairs(rng: Random, tokens: int) -> Iterator[Message]:
    """Names, each with its code, and the same again in random order, with repetitions.

    Drawn with replacement: otherwise "one that has not been said yet" is a hint, and the model learns that instead.
    """
    chat = Chat(rng)
    book = [chat.new_fact(kind="code") for _ in range(max(2, tokens // 13))]
    yield "user", " ".join(f"{fact.owner} {fact.value}." for fact in book)
    yield "assistant", " ".join(f"{fact.owner} {fact.value}." for fact in rng.choices(book, k=len(book)))


def retelling(rng: Random, tokens: int) -> Iterator[Message]:
    """Notes of facts of all kinds with some filler between, then a long answer that states them over and over."""
    chat = Chat(rng)
    share, density = rng.uniform(0.2, 0.7), rng.uniform(0.3, 1.0)
    plain = rng.random() < 0.3
    yield "user", f"{chat.notes(int(tokens * share), density)} {rng.choice(AGAIN)}"
    book = list(chat.book.values()) or [chat.new_fact()]
    said: list[str] = []
    left = int(tokens * (1 - share))
    while left > 0:
        fact = rng.choice(book)
        if plain or rng.random() < 0.6:
            said.append(fact.answered())
        elif rng.random() < 0.5:
            said.append(fact.stated(rng))
        else:
            kinds = [kind for owner, kind in chat.book if owner == fact.owner]
            said.append(facts.as_json(fact.owner, {k: chat.book[fact.owner, k].value for k in kinds}))
        left -= estimate_tokens(said[-1])
    yield "assistant", " ".join(said)


def questions(rng: Random, tokens: int) -> Iterator[Message]:
    """Notes, then short questions on them, turn by turn; the same may be asked twice."""
    chat = Chat(rng)
    share = rng.uniform(0.2, 0.7)
    notes = chat.notes(int(tokens * share), rng.uniform(0.2, 1.0))
    book = list(chat.book.values()) or [chat.new_fact()]
    left = int(tokens * (1 - share))
    while left > 0:
        fact = rng.choice(book)
        question = f"{notes} {fact.asked(rng)}".strip()
        notes = ""
        yield "user", question
        yield "assistant", fact.answered()
        left -= 24


def sums(rng: Random, tokens: int) -> Iterator[Message]:
    """Lists of small sums, each written again with its result."""
    left = tokens
    while left > 0:
        results = [arithmetic(rng)[1] for _ in range(rng.randrange(2, 9))]
        asked = [result.split(" = ")[0] for result in results]
        yield "user", f"Compute {', '.join(asked[:-1])} and {asked[-1]}."
        yield "assistant", " ".join(results)
        left -= 16 * len(results)


Drill = Callable[[Random, int], Iterator[Message]]

DRILLS: dict[str, Drill] = {"pairs": pairs, "retelling": retelling, "questions": questions, "sums": sums}
