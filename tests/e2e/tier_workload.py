"""Multi-turn chats over a few shared beginnings: traffic that a prefix cache is for, the same each time."""

import asyncio
import random
from dataclasses import dataclass, field

from tiercel.client import AsyncClient

NUM_CHATS = 42
NUM_TURNS = 5
"""210 requests."""

_FACTS = (
    "The code for Mira is 4821.",
    "Jonas lives in Oslo.",
    "The pet of Lena is a parrot.",
    "The river was quiet in the evening.",
    "A farmer painted an old bridge.",
    "The favourite colour of Tom is green.",
    "Paul's code is 9034.",
)


@dataclass
class Outcome:
    """What came of a run: every answer by (chat, turn), and where its prompts' tokens were found."""

    answers: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    prompt_tokens: int = 0
    device_tokens: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0


async def run_chats(target: str, *, num_chats: int = NUM_CHATS, at_once: int = 8, salt: str = "") -> Outcome:
    """Every chat, `at_once` of them side by side, each turn after the one before. Greedy, of fixed length."""
    outcome = Outcome()
    gate = asyncio.Semaphore(at_once)

    async def chat(number: int) -> None:
        draw = random.Random(number)
        # Six beginnings, of 6 to 16 sentences.
        text = " ".join(random.Random(f"start-{number % 6}").choices(_FACTS, k=6 + 2 * (number % 6)))
        async with gate:
            for turn in range(NUM_TURNS):
                text += " " + " ".join(draw.choices(_FACTS, k=draw.randint(1, 3)))
                answer = await client.generate(
                    text, temperature=0, max_tokens=draw.randint(4, 12), ignore_eos=True, cache_salt=salt
                )
                outcome.answers[number, turn] = answer.token_ids
                cached = answer.usage.cached_tokens
                outcome.prompt_tokens += answer.usage.prompt_tokens
                outcome.device_tokens += cached.device
                outcome.host_tokens += cached.host
                outcome.disk_tokens += cached.disk
                text += answer.text

    async with AsyncClient(target) as client:
        await asyncio.gather(*(chat(number) for number in range(num_chats)))
    return outcome
