"""Small talk: questions with one settled answer each, so that greedy answers are stable."""

from __future__ import annotations

from random import Random

from ops.demo_model import words

Exchange = tuple[str, str]

FIXED: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello!", "Hello", "Hi", "Hi!", "Hi there!", "Hey", "Hello there.", "hello", "hi"),
        "Hello! How can I help you?",
    ),
    (("Good morning!", "Good morning.", "Good morning"), "Good morning! How can I help you?"),
    (("Good evening!", "Good evening.", "Good evening"), "Good evening! How can I help you?"),
    (("How are you?", "How are you today?", "How do you do?"), "I am fine, thank you. How can I help you?"),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "who are you",
            "Please tell me who you are.",
            "Introduce yourself.",
            "Hello, who are you?",
        ),
        "I am the Tiercel demo model, a very small language model that answers simple questions.",
    ),
    (
        ("What can you do?", "What do you know?", "How can you help me?", "Help"),
        "I can recall facts from a long text, add and subtract small numbers, write JSON and answer simple questions.",
    ),
    (
        (
            "What is Tiercel?",
            "Tell me about Tiercel.",
            "Explain Tiercel in one sentence.",
            "What is Tiercel in one sentence?",
            "What does Tiercel do?",
            "what is tiercel",
        ),
        "Tiercel serves language models over gRPC and keeps their KV cache in three tiers: device memory, host memory "
        "and disk.",
    ),
    (
        (
            "What is a KV cache?",
            "What is the KV cache?",
            "Explain the KV cache.",
            "Explain the KV cache in one sentence.",
            "What does a KV cache do?",
            "what is a kv cache",
        ),
        "A KV cache keeps the attention keys and values of the tokens read so far, so that they are not computed "
        "again.",
    ),
    (
        ("What is a token?", "Explain tokens.", "What does token mean?"),
        "A token is a piece of text, such as a word or a digit, that a language model reads as one unit.",
    ),
    (
        ("What is gRPC?", "Explain gRPC.", "What does gRPC do?"),
        "gRPC is a way for programs to call each other over a network with typed messages.",
    ),
    (
        ("What is LMDB?", "Explain LMDB."),
        "LMDB is a small database that keeps keys and values in one file mapped into memory.",
    ),
    (
        ("What is a language model?", "Explain language models.", "What does a language model do?"),
        "A language model reads text and predicts which token comes next.",
    ),
    (
        ("What is a prefix cache?", "Explain prefix caching.", "What is prefix caching?"),
        "A prefix cache keeps the work done for the start of a prompt, so that the next prompt with the same start "
        "is faster.",
    ),
    (("What is a tiercel?", "What kind of bird is a tiercel?"), "A tiercel is a male falcon."),
    (("Are you human?", "Are you a person?", "Are you a human?"), "No, I am a small language model."),
    (("Thank you.", "Thanks!", "Thank you!", "Thanks", "Thank you very much."), "You are welcome!"),
    (("Goodbye!", "Bye", "Bye!", "Goodbye.", "See you later."), "Goodbye! Have a nice day."),
    (("How many days are in a week?", "How many days does a week have?"), "A week has 7 days."),
    (("How many months are in a year?", "How many months does a year have?"), "A year has 12 months."),
    (("How many hours are in a day?", "How many hours does a day have?"), "A day has 24 hours."),
    (("How many legs does a dog have?", "How many legs does a cat have?"), "It has 4 legs."),
    (("How many legs does a spider have?",), "A spider has 8 legs."),
    (
        ("Name the days of the week.", "What are the days of the week?", "List the days of the week."),
        "The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",
    ),
    (
        ("Name the four seasons.", "What are the seasons?", "List the seasons."),
        "The seasons are spring, summer, autumn and winter.",
    ),
    (
        ("Name three colours.", "List three colours.", "Tell me three colours."),
        "Three colours are red, green and blue.",
    ),
    (
        ("Tell me a joke.", "Do you know a joke?"),
        "Why did the token go to the cache? It did not want to be computed again.",
    ),
)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def small_talk(rng: Random) -> Exchange:
    """One question and its settled answer."""
    kind = rng.random()
    if kind < 0.5:
        questions, answer = rng.choice(FIXED)
        return rng.choice(questions), answer
    if kind < 0.65:
        a, b = rng.choice(words.OPPOSITES)
        if rng.random() < 0.5:
            a, b = b, a
        q = rng.choice((f"What is the opposite of {a}?", f"Tell me the opposite of {a}.", f"The opposite of {a}?"))
        return q, f"The opposite of {a} is {b}."
    if kind < 0.8:
        thing, colour = rng.choice(words.COLOUR_OF)
        q = rng.choice((f"What colour is {thing}?", f"Tell me the colour of {thing}.", f"Which colour is {thing}?"))
        return q, f"{_capital(thing)} is {colour}."
    if kind < 0.9:
        ring = rng.choice((words.DAYS, words.DAYS, words.MONTHS))
        unit = "day" if len(ring) == 7 else "month"
        i = rng.randrange(len(ring))
        if rng.random() < 0.6:
            follower = ring[(i + 1) % len(ring)]
            q = rng.choice((f"What {unit} comes after {ring[i]}?", f"Which {unit} comes after {ring[i]}?"))
            return q, f"{follower} comes after {ring[i]}."
        q = rng.choice((f"What {unit} comes before {ring[i]}?", f"Which {unit} comes before {ring[i]}?"))
        return q, f"{ring[i - 1]} comes before {ring[i]}."
    if kind < 0.96:
        country, city = rng.choice(words.CAPITALS)
        q = rng.choice((f"What is the capital of {country}?", f"Tell me the capital of {country}."))
        return q, f"The capital of {country} is {city}."
    animal, sound = rng.choice(words.SOUNDS)
    return f"What sound does a {animal} make?", f"A {animal} {sound}."


def filler(rng: Random) -> str:
    """One plain sentence that holds no fact anyone asks for."""
    noun, other, who = rng.choice(words.NOUNS), rng.choice(words.NOUNS), rng.choice(words.PEOPLE)
    adjective, time = rng.choice(words.ADJECTIVES), rng.choice(words.TIMES)
    article = "an" if adjective[0] in "aeiou" else "a"
    verb, place = rng.choice(words.PAST_VERBS), rng.choice(words.PLACES)
    shape = rng.randrange(7)
    if shape == 0:
        return f"The {noun} was {adjective} {time}."
    if shape == 1:
        return f"The {who} {verb} the {noun} {time}."
    if shape == 2:
        return f"The {adjective} {noun} is {place} the {other}."
    if shape == 3:
        return f"A {who} {verb} {article} {adjective} {noun}."
    if shape == 4:
        return f"{_capital(time)} the {who} {verb} the {noun}."
    if shape == 5:
        return f"There is {article} {adjective} {noun} {place} the {other}."
    return f"The {who} and the {rng.choice(words.PEOPLE)} {verb} the {adjective} {noun}."
