"""300 streams at once through real sockets, disturbed in every way a client can, on the bundled model."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.stack import temporary_stack
from tiercel.client import AsyncClient, Delta, Finished, StackStatus
from tiercel.errors import TiercelError

NUM_STREAMS = 300
CONTEXT_WORDS = ("The code for Mira is 4821.", "The code for Jonas is 1375.", "The sky is blue.", "Lena lives in Rome.")


@dataclass(frozen=True)
class Case:
    """One stream: what it asks, and how it is disturbed."""

    prompt: str
    disturbance: str  # none, slow, cancel, deadline
    cancel_after: int
    sampling: dict[str, Any] = field(hash=False)


def cases() -> list[Case]:
    draw = random.Random(11)
    made = []
    for number in range(NUM_STREAMS):
        # A third of the prompts begin alike, so that cached blocks are shared, freed and evicted under load.
        shared = " ".join(CONTEXT_WORDS * 6) if number % 3 == 0 else ""
        own = " ".join(draw.choices(CONTEXT_WORDS, k=draw.randint(1, 24)))
        sampling: dict[str, Any] = {"max_tokens": draw.randint(4, 24), "ignore_eos": True}
        if number % 2:
            sampling |= {"temperature": 0.8, "top_p": 0.95, "seed": number}
        else:
            sampling |= {"temperature": 0.0}
        disturbance = draw.choices(("none", "slow", "cancel", "deadline"), weights=(5, 2, 3, 2))[0]
        made.append(Case(f"{shared} {own} {number}?", disturbance, draw.randint(0, 3), sampling))
    return made


async def undisturbed(client: AsyncClient, case: Case) -> list[int]:
    return (await client.generate(case.prompt, **case.sampling)).token_ids


async def disturbed(client: AsyncClient, case: Case, others_done: asyncio.Event) -> list[int] | None:
    """The ids of a stream that ran to its end; None where it was cut short on purpose."""
    deadline: dict[str, Any] = {"timeout": 0.5} if case.disturbance == "deadline" else {}
    ids: list[int] = []
    try:
        stream = client.stream(case.prompt, **deadline, **case.sampling)
        async for event in stream:
            if case.disturbance == "slow":
                # The slowest reader there is: it reads on only when all the others have finished.
                await others_done.wait()
            if isinstance(event, Delta):
                ids += event.token_ids
            if case.disturbance == "cancel" and len(ids) >= case.cancel_after:
                await stream.aclose()
                return None
            if isinstance(event, Finished):
                return ids
    except TiercelError as error:
        if case.disturbance != "deadline" or error.code != "DEADLINE_EXCEEDED":
            raise
        return None
    raise AssertionError("the stream ended without Finished")


async def settled(client: AsyncClient) -> StackStatus:
    """The status once nothing runs or waits; fails after a minute."""
    async with asyncio.timeout(60):
        while True:
            status = await client.status()
            workers = [service.worker for service in status.services if service.worker is not None]
            if all(worker.running == worker.waiting == 0 for worker in workers):
                return status
            await asyncio.sleep(0.05)


async def soak(target: str) -> None:
    all_cases = cases()
    async with AsyncClient(target) as client:
        others_done = asyncio.Event()
        tasks = {c: asyncio.create_task(disturbed(client, c, others_done)) for c in all_cases}
        await asyncio.gather(*(task for c, task in tasks.items() if c.disturbance != "slow"))
        others_done.set()
        outcomes = {c: await task for c, task in tasks.items()}

        status = await settled(client)
        for service in status.services:
            if service.worker is not None:
                (device,) = (tier for tier in service.worker.tiers if tier.tier == "device")
                assert device.in_use_blocks == 0

        ended = Counter(case.disturbance for case, ids in outcomes.items() if ids is not None)
        assert ended["none"] + ended["slow"] > NUM_STREAMS // 3
        assert "cancel" not in ended
        for case, ids in outcomes.items():
            if ids is not None:
                assert ids == await undisturbed(client, case), case


@pytest.mark.timeout(600)
def test_300_disturbed_streams_leave_nothing_behind_and_change_no_answer() -> None:
    # fp32, so that an answer does not hang on the rounding of a batch; a cache small enough to evict and preempt.
    with temporary_stack(
        "--model", "demo", "--dtype", "fp32", "--kv-dtype", "fp32", "--device-cache", "24MiB", "--max-seqs", "48"
    ) as stack:
        asyncio.run(soak(stack.target))
