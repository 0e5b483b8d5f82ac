"""The asyncio client: many answers at once, one of them cancelled half-way.

python examples/async_many.py [HOST:PORT]
"""

import asyncio
import sys

from tiercel import AsyncClient, Delta, TiercelError

TARGET = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
PROMPTS = ["The river", "A small engine", "Every second train", "Her older brother"]


async def impatient(client: AsyncClient) -> str:
    """Reads eight tokens of a long answer and leaves; the server stops computing it."""
    text, num_tokens = "", 0
    async with client.stream("A very long story:", max_tokens=400, ignore_eos=True) as stream:
        async for event in stream:
            if isinstance(event, Delta):
                text += event.text
                num_tokens += len(event.token_ids)
                if num_tokens >= 8:
                    break
    return text


async def main() -> int:
    async with AsyncClient(TARGET) as client:
        try:
            leaving = asyncio.create_task(impatient(client))
            answers = await asyncio.gather(*(client.generate(p, max_tokens=24, seed=1) for p in PROMPTS))
            cut_short = await leaving
        except TiercelError as error:
            print(f"{error.code}: {error.message}", file=sys.stderr)
            return 1
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        print(f"{prompt!r} -> {answer.text!r}")
    print(f"cut short: {cut_short!r}")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
