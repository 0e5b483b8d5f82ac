"""Facts about named people: how they are stated, asked for, answered, and written as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random
from zlib import crc32

from ops.demo_model import words

KINDS: tuple[str, ...] = ("code", "city", "colour", "pet", "age", "drink")
KIND_WEIGHTS: tuple[int, ...] = (10, 4, 2, 2, 2, 2)

# The first form of each kind is also the form of the answer.
STATED: dict[str, tuple[str, ...]] = {
    "code": ("The code for {n} is {v}.", "The code of {n} is {v}.", "{n}'s code is {v}.", "{n} has the code {v}."),
    "city": ("The city of {n} is {v}.", "{n} lives in {v}.", "{n}'s city is {v}."),
    "colour": (
        "The favourite colour of {n} is {v}.",
        "{n}'s favourite colour is {v}.",
        "{n} likes the colour {v}.",
    ),
    "pet": ("The pet of {n} is a {v}.", "{n} has a {v}.", "{n}'s pet is a {v}."),
    "age": ("The age of {n} is {v}.", "{n} is {v} years old.", "{n}'s age is {v}."),
    "drink": ("The favourite drink of {n} is {v}.", "{n} drinks {v}.", "{n}'s favourite drink is {v}."),
}

ASKED: dict[str, tuple[str, ...]] = {
    "code": (
        "What is {n}'s code?",
        "What is the code for {n}?",
        "What is the code of {n}?",
        "Tell me {n}'s code.",
        "Which code does {n} have?",
        "Do you remember {n}'s code?",
    ),
    "city": ("Where does {n} live?", "What is {n}'s city?", "Which city does {n} live in?"),
    "colour": ("What is {n}'s favourite colour?", "Which colour does {n} like?"),
    "pet": ("What pet does {n} have?", "What is {n}'s pet?"),
    "age": ("How old is {n}?", "What is {n}'s age?"),
    "drink": ("What does {n} drink?", "What is {n}'s favourite drink?"),
}

MINE_STATED: dict[str, str] = {
    "name": "My name is {v}.",
    "code": "My code is {v}.",
    "city": "I live in {v}.",
    "colour": "My favourite colour is {v}.",
    "pet": "I have a {v}.",
    "age": "I am {v} years old.",
    "drink": "I drink {v}.",
}
MINE_ASKED: dict[str, tuple[str, ...]] = {
    "name": ("What is my name?", "Do you remember my name?", "Who am I?"),
    "code": ("What is my code?", "Tell me my code.", "Do you remember my code?"),
    "city": ("Where do I live?", "What is my city?"),
    "colour": ("What is my favourite colour?", "Which colour do I like?"),
    "pet": ("What pet do I have?", "What is my pet?"),
    "age": ("How old am I?", "What is my age?"),
    "drink": ("What do I drink?", "What is my favourite drink?"),
}
MINE_ANSWERED: dict[str, str] = {
    "name": "Your name is {v}.",
    "code": "Your code is {v}.",
    "city": "You live in {v}.",
    "colour": "Your favourite colour is {v}.",
    "pet": "You have a {v}.",
    "age": "You are {v} years old.",
    "drink": "You drink {v}.",
}


def held_out(*parts: object) -> bool:
    """True for the tenth of all combinations that training never sees, by a hash that never changes."""
    return crc32("/".join(map(str, parts)).encode()) % 10 == 0


@dataclass(frozen=True)
class Fact:
    """One value of one kind for one person. ``owner`` is a name."""

    owner: str
    kind: str
    value: str

    def stated(self, rng: Random) -> str:
        forms = STATED[self.kind]
        form = forms[0] if rng.random() < 0.3 else rng.choice(forms)
        return form.format(n=self.owner, v=self.value)

    def asked(self, rng: Random) -> str:
        forms = ASKED[self.kind]
        form = forms[0] if rng.random() < 0.4 else rng.choice(forms)
        return form.format(n=self.owner)

    def answered(self) -> str:
        return STATED[self.kind][0].format(n=self.owner, v=self.value)


def draw_name(rng: Random) -> str:
    return rng.choice(words.NAMES)


def draw_value(rng: Random, owner: str, kind: str, test: bool) -> str:
    """A value for (owner, kind). Codes of the test split are exactly those that training leaves out."""
    if kind == "code":
        while True:
            code = rng.randrange(1000, 10000)
            if held_out(owner, code) == test:
                return str(code)
    if kind == "city":
        return rng.choice(words.CITIES)
    if kind == "colour":
        return rng.choice(words.COLOURS)
    if kind == "pet":
        return rng.choice(words.PETS)
    if kind == "age":
        return str(rng.randrange(10, 100))
    if kind == "drink":
        return rng.choice(words.DRINKS)
    return draw_name(rng)


def as_json(name: str, values: dict[str, str]) -> str:
    """The record as one line of JSON; codes and ages are numbers."""
    record: dict[str, str | int] = {"name": name}
    for kind, value in values.items():
        record[kind] = int(value) if kind in ("code", "age") else value
    return json.dumps(record)


def given_record(rng: Random, name: str, values: dict[str, str]) -> str:
    """A question that carries the values itself and asks for JSON."""
    listed = ", ".join(f"{kind} {value}" for kind, value in values.items())
    return rng.choice(
        (
            f"Write JSON for {name}, {listed}.",
            f"Give me JSON: name {name}, {listed}.",
            f"Make a JSON object with name {name}, {listed}.",
        )
    )


def asked_record(rng: Random, name: str, kinds: tuple[str, ...]) -> str:
    """A question for the JSON record of someone whose facts were stated before."""
    if kinds == ("code", "city"):
        forms = [
            f"Give me {name}'s record as JSON.",
            f"Give me {name}'s record as JSON.",
            f"Write {name}'s record as JSON.",
            f"Show the record of {name} as JSON.",
        ]
    else:
        forms = []
    listed = ", ".join(("name", *kinds[:-1])) + " and " + kinds[-1]
    forms += [f"Give me {name}'s record as JSON with {listed}.", f"Write JSON for {name} with {listed}."]
    return rng.choice(forms)
