"""The generated conversations: one endless, seeded stream of chats for training and another for testing.

A chat has a *book* of facts, each stated once and never contradicted, so any later question has one right answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from ops.demo_model import facts
from ops.demo_model.facts import Fact
from ops.demo_model.talk import filler, small_talk

Message = tuple[str, str]
"""(role, text); role is system, user or assistant."""

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are the Tiercel demo model.",
    "Answer in one short sentence.",
    "You are a small language model. Answer briefly.",
)
INTROS = (
    "Read these notes.",
    "Here are some notes:",
    "Please remember the following.",
    "Remember this:",
    "Read this text and answer the questions.",
)
READ_REPLY = "I have read the notes."
NOTED_REPLY = "I will remember that."


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` takes; exact enough to size a chat."""
    return len(text.split()) + sum(c.isdigit() or c in ".,?:\"'" for c in text)


def arithmetic(rng: Random, test: bool = False) -> tuple[str, str]:
    """A sum or a difference of two numbers in 0..99, never below zero."""
    while True:
        a, b = rng.randrange(100), rng.randrange(100)
        minus = rng.random() < 0.5
        if minus and b > a:
            a, b = b, a
        sign = "-" if minus else "+"
        if facts.held_out(a, sign, b) == test:
            break
    result = a - b if minus else a + b
    asked = [f"What is {a} {sign} {b}?"] * 4 + [f"{a} {sign} {b}", f"{a} {sign} {b} = ?", f"Compute {a} {sign} {b}."]
    asked.append(f"What is {a} {'minus' if minus else 'plus'} {b}?")
    if not minus:
        asked.append(f"Add {a} and {b}.")
    return rng.choice(asked), f"{a} {sign} {b} = {result}."


def repetition(rng: Random) -> tuple[str, str]:
    """A request to say something again, word for word."""
    if rng.random() < 0.5:
        text = "".join(rng.choice("0123456789") for _ in range(rng.randrange(2, 9)))
        return rng.choice((f"Repeat the number {text}.", f"Say {text}.")), f"{text}"
    text = filler(rng)
    return rng.choice((f"Repeat: {text}", f"Say this again: {text}")), text


def counting(rng: Random) -> tuple[str, str]:
    """A request to count over a short range."""
    start = rng.randrange(1, 20)
    end = start + rng.randrange(2, 9)
    return f"Count from {start} to {end}.", ", ".join(map(str, range(start, end + 1))) + "."


@dataclass
class Chat:
    """A conversation under construction. ``test`` draws only held-out codes and sums."""

    rng: Random
    test: bool = False
    book: dict[tuple[str, str], Fact] = field(default_factory=dict)
    mine: dict[str, str] = field(default_factory=dict)
    unasked: list[Fact] = field(default_factory=list)

    def new_fact(self, owner: str | None = None, kind: str | None = None) -> Fact:
        """A fact whose (owner, kind) is not in the book yet; it is entered there."""
        while True:
            who = owner or facts.draw_name(self.rng)
            what = kind or self.rng.choices(facts.KINDS, facts.KIND_WEIGHTS)[0]
            if (who, what) not in self.book:
                fact = Fact(who, what, facts.draw_value(self.rng, who, what, self.test))
                self.book[who, what] = fact
                self.unasked.append(fact)
                return fact
            if owner and kind:
                return self.book[who, what]
            if owner:
                owner = None

    def notes(self, tokens: int, density: float) -> str:
        """About ``tokens`` tokens of text in which a share ``density`` of the sentences states new facts."""
        sentences: list[str] = []
        size = 0
        while size < tokens:
            if self.rng.random() < density:
                fact = self.new_fact()
                sentences.append(fact.stated(self.rng))
                if self.rng.random() < 0.15:
                    extra = "city" if fact.kind == "code" else "code"
                    if (fact.owner, extra) not in self.book:
                        size += estimate_tokens(sentences[-1])
                        sentences.append(self.new_fact(fact.owner, extra).stated(self.rng))
            else:
                sentences.append(filler(self.rng))
            size += estimate_tokens(sentences[-1])
        return ("\n" if self.rng.random() < 0.15 else " ").join(sentences)

    def recall(self) -> tuple[str, str] | None:
        """A question on a fact of the book, mostly one not asked for yet; None when there is no good one."""
        again = self.rng.random() < 0.3
        if not self.unasked or (again and self.book):
            if not self.book or not again:
                return None
            fact = self.rng.choice(list(self.book.values()))
        else:
            fact = self.unasked.pop(self.rng.randrange(len(self.unasked)))
        return fact.asked(self.rng), fact.answered()

    def record(self) -> tuple[str, str] | None:
        """A request for someone's record as JSON, from the book."""
        owners = [o for o, k in self.book if k == "code" and (o, "city") in self.book]
        if owners and self.rng.random() < 0.7:
            owner = self.rng.choice(owners)
            kinds: tuple[str, ...] = ("code", "city")
        elif self.book:
            owner = self.rng.choice(list(self.book))[0]
            kinds = tuple(k for o, k in self.book if o == owner)
        else:
            return None
        values = {k: self.book[owner, k].value for k in kinds}
        return facts.asked_record(self.rng, owner, kinds), facts.as_json(owner, values)

    def inline_record(self) -> tuple[str, str]:
        """A request for JSON that carries its values itself."""
        name = facts.draw_name(self.rng)
        kinds = ["code", "city"]
        if self.rng.random() < 0.5:
            kinds = self.rng.sample(facts.KINDS, self.rng.randrange(1, 4))
        values = {k: facts.draw_value(self.rng, name, k, self.test) for k in kinds}
        return facts.given_record(self.rng, name, values), facts.as_json(name, values)

    def about_me(self) -> tuple[str, str]:
        """The user states something about themselves, or asks for it."""
        kinds = tuple(facts.MINE_STATED)
        known = list(self.mine)
        if known and self.rng.random() < 0.6:
            kind = self.rng.choice(known)
            return self.rng.choice(facts.MINE_ASKED[kind]), facts.MINE_ANSWERED[kind].format(v=self.mine[kind])
        kind = self.rng.choice(kinds)
        if kind in self.mine:
            value = self.mine[kind]
            return self.rng.choice(facts.MINE_ASKED[kind]), facts.MINE_ANSWERED[kind].format(v=value)
        self.mine[kind] = facts.draw_value(self.rng, "me", kind, self.test)
        return facts.MINE_STATED[kind].format(v=self.mine[kind]), NOTED_REPLY

    def told(self) -> tuple[str, str]:
        """One to three new facts told in passing."""
        text = " ".join(self.new_fact().stated(self.rng) for _ in range(self.rng.choice((1, 1, 2, 3))))
        return (text if self.rng.random() < 0.5 else f"Remember: {text}"), NOTED_REPLY

    def exchange(self, weights: tuple[int, ...]) -> tuple[str, str]:
        """One question and its answer; ``weights`` are for recall, record, inline record, me, told, sums, talk,
        repetition and counting."""
        while True:
            kind = self.rng.choices(range(len(weights)), weights)[0]
            pair = (
                self.recall,
                self.record,
                self.inline_record,
                self.about_me,
                self.told,
                lambda: arithmetic(self.rng, self.test),
                lambda: small_talk(self.rng),
                lambda: repetition(self.rng),
                lambda: counting(self.rng),
            )[kind]()
            if pair is not None:
                return pair


NOTES_WEIGHTS = (80, 6, 1, 2, 2, 5, 3, 1, 0)
MIXED_WEIGHTS = (20, 6, 10, 15, 12, 35, 30, 6, 2)


def conversation(seed: int | str, tokens: int, test: bool = False, notes_share: float = 0.7) -> Iterator[Message]:
    """The messages of one chat of at least ``tokens`` tokens by estimate.

    A share ``notes_share`` of the chats opens with a long text (4 % to 85 % of ``tokens``) and then asks mostly about
    it; the others mix everything. The same arguments give the same messages.
    """
    rng = Random(f"{'test' if test else 'train'}/{seed}/{tokens}")
    chat = Chat(rng, test)
    used = 0
    with_notes = rng.random() < notes_share
    notes = ""
    if with_notes:
        notes = chat.notes(int(tokens * rng.uniform(0.04, 0.85)), rng.uniform(0.1, 1.0))
        if not chat.book:
            notes += " " + chat.new_fact().stated(rng)
        if rng.random() < 0.6:
            notes = f"{rng.choice(INTROS)} {notes}"
    if with_notes and rng.random() < 0.15:
        yield "system", f"{rng.choice(SYSTEM_PROMPTS)} {notes}"
        used, notes = estimate_tokens(notes), ""
    elif rng.random() < 0.25:
        yield "system", rng.choice(SYSTEM_PROMPTS)
    if notes and rng.random() < 0.5:
        yield "user", notes
        yield "assistant", READ_REPLY
        used, notes = estimate_tokens(notes), ""
    while used < tokens:
        if notes:
            fact = chat.unasked.pop(rng.randrange(len(chat.unasked)))
            question, answer = f"{notes} {fact.asked(rng)}", fact.answered()
            notes = ""
        else:
            question, answer = chat.exchange(NOTES_WEIGHTS if with_notes else MIXED_WEIGHTS)
        yield "user", question
        yield "assistant", answer
        used += estimate_tokens(question) + estimate_tokens(answer) + 4
