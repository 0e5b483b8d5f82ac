"""Whether a tenant can tell by the time to first token what another one has asked: `python -m bench.tenants`.

In each round one tenant asks a new prompt, and asks it again, which hits. Then another one, with a salt of its own,
asks that same prompt and one that nobody has ever asked, in an order drawn by lot. Were anything shared, the first of
these two would be as fast as the hit. The differences within the rounds go through Wilcoxon's signed-rank test
(two-sided; normal approximation, doi:10.2307/3001968): at a level of 1 %, one run in a hundred rejects by chance.
"""

import asyncio
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.tiercel_peer import TiercelPeer
from bench.workloads import FIRST_ID
from ops.demo_model.evaluate import CHECKPOINT
from tiercel.client import AsyncClient, Delta, Finished

LEVEL = 0.01
VOCAB_SIZE = 2048
LEFT, RIGHT = "red", "blue"
"""Salts of the two tenants."""


@dataclass
class Times:
    """Seconds to the first token, one entry per round."""

    first: list[float] = field(default_factory=list)
    """The first tenant's new prompt."""
    again: list[float] = field(default_factory=list)
    """The same prompt and tenant: a hit."""
    others: list[float] = field(default_factory=list)
    """The same prompt, by the second tenant."""
    never: list[float] = field(default_factory=list)
    """A prompt that nobody has asked, by the second tenant."""


async def ask(client: AsyncClient, prompt: list[int], salt: str) -> tuple[float, int]:
    """Seconds to the first token, and prompt tokens that were found in any tier."""
    sent, ttft_s = time.perf_counter(), 0.0
    options = {"temperature": 0.0, "max_tokens": 1, "ignore_eos": True}
    async for event in client.stream(prompt, cache_salt=salt, tenant=salt, **options):  # type: ignore[arg-type]
        if isinstance(event, Delta) and event.token_ids and not ttft_s:
            ttft_s = time.perf_counter() - sent
        if isinstance(event, Finished):
            return ttft_s, event.usage.cached_tokens.total
    raise RuntimeError("the answer had no end")


async def measure(target: str, rounds: int, prompt_tokens: int, seed: int) -> Times:
    """Raises RuntimeError where a hit is not one, or a prompt of another tenant is."""
    draw, times = random.Random(seed), Times()

    def new_prompt() -> list[int]:
        return [draw.randrange(FIRST_ID, VOCAB_SIZE) for _ in range(prompt_tokens)]

    async with AsyncClient(target) as client:
        for _ in range(3):
            await ask(client, new_prompt(), "warm-up")
        for _ in range(rounds):
            shared = new_prompt()
            asked = [(times.others, shared), (times.never, new_prompt())]
            draw.shuffle(asked)
            for kind, prompt, salt, is_hit in (
                (times.first, shared, LEFT, False),
                (times.again, shared, LEFT, True),
                *((kind, prompt, RIGHT, False) for kind, prompt in asked),
            ):
                ttft_s, num_cached = await ask(client, prompt, salt)
                if bool(num_cached) != is_hit:
                    raise RuntimeError(f"{num_cached} tokens were cached where {'some' if is_hit else 'none'} may be")
                kind.append(ttft_s)
    return times


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test. Zeros are left out; times have hardly a tie."""
    ordered = sorted((each for each in differences if each), key=abs)
    count = len(ordered)
    if not count:
        return 1.0
    positive = sum(rank for rank, each in enumerate(ordered, start=1) if each > 0)
    mean, deviation = count * (count + 1) / 4, math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    return 2 * statistics.NormalDist().cdf(-abs(positive - mean) / deviation)


def show(console: Console, times: Times, p_others: float, p_again: float) -> None:
    table = Table("prompt", "p10", "median", "p90", title="Time to first token, ms")
    rows = {
        f"new, {LEFT}": times.first,
        f"the same, {LEFT}: a hit": times.again,
        f"the same, {RIGHT}": times.others,
        f"never asked, {RIGHT}": times.never,
    }
    for name, samples in rows.items():
        deciles = statistics.quantiles(samples, n=10)
        table.add_row(name, *(f"{1000 * each:.2f}" for each in (deciles[0], statistics.median(samples), deciles[-1])))
    console.print(table)
    off = statistics.median(a - b for a, b in zip(times.others, times.never, strict=True))
    console.print(
        f"{RIGHT}: what {LEFT} has asked against what nobody has: median {1e3 * off:+.3f} ms, p = {p_others:.3f}"
    )
    console.print(f"{LEFT}: a hit against what nobody has asked: p = {p_again:.1e}, which the test would find")


@click.command()
@click.option("--rounds", type=click.IntRange(20), default=100, show_default=True)
@click.option("--prompt", "prompt_tokens", type=click.IntRange(64), default=512, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(rounds: int, prompt_tokens: int, seed: int, as_json: bool) -> None:
    """Exit code 1 where the two can be told apart, or a hit cannot be told from a miss."""
    with tempfile.TemporaryDirectory() as folder:
        peer = TiercelPeer(CHECKPOINT, ("--cache-dir", str(Path(folder) / "kv")))
        peer.start()
        try:
            times = asyncio.run(measure(peer.target, rounds, prompt_tokens, seed))
        finally:
            peer.stop()
    p_others = signed_rank_p([a - b for a, b in zip(times.others, times.never, strict=True)])
    p_again = signed_rank_p([a - b for a, b in zip(times.again, times.never, strict=True)])
    if as_json:
        content = {"level": LEVEL, "p_others": p_others, "p_again": p_again, "ttft_s": vars(times)}
        click.echo(json.dumps(content))
    else:
        show(Console(), times, p_others, p_again)
    if p_others < LEVEL or p_again >= LEVEL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
