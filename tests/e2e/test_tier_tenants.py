"""Tenants share nothing under different salts, in no tier, and take room from nobody but themselves."""

import random
from pathlib import Path

from tests.e2e.stack import running_stack
from tiercel import Client
from tiercel.client import Completion, WorkerStatus

MODEL = ("--model", "demo", "--kv-dtype", "bf16", "--max-model-len", "640")
BLOCK_BYTES = 40_960
BLOCK_TOKENS = 16


def flags(folder: Path, *, device_blocks: int, host_blocks: int, disk: str, scheduler: str = "") -> list[str]:
    config = folder / "tiercel.toml"
    config.write_text(f"[scheduler]\nalways_bring = true\n{scheduler}\n")
    return [
        *MODEL,
        *("--config", str(config), "--cache-dir", str(folder / "kv"), "--disk-cache", disk),
        *("--device-cache", str(device_blocks * BLOCK_BYTES)),
        *("--host-cache", str(host_blocks * BLOCK_BYTES)),
    ]


def prompt(seed: int, num_blocks: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(300, 2000) for _ in range(num_blocks * BLOCK_TOKENS + 3)]


def ask(client: Client, token_ids: list[int], **options: str) -> Completion:
    return client.generate(token_ids, temperature=0, max_tokens=4, ignore_eos=True, **options)  # type: ignore[arg-type]


def total_cached(answer: Completion) -> int:
    cached = answer.usage.cached_tokens
    return cached.device + cached.host + cached.disk


def test_equal_prompts_under_other_salts_share_nothing(tmp_path: Path) -> None:
    shared = prompt(1, 20)
    stack_flags = flags(tmp_path, device_blocks=400, host_blocks=400, disk="64MiB")
    with running_stack(tmp_path, *stack_flags) as stack, Client(stack.target) as client:
        first = ask(client, shared, cache_salt="red")
        assert total_cached(first) == 0
        assert total_cached(ask(client, shared, cache_salt="red")) == 20 * BLOCK_TOKENS
        for others in ({"cache_salt": "blue"}, {}, {"cache_salt": "red ", "tenant": "red"}):
            answer = ask(client, shared, **others)
            assert total_cached(answer) == 0, others
            assert answer.token_ids == first.token_ids
    # The same on disk, with nothing left in memory.
    with running_stack(tmp_path, *stack_flags) as stack, Client(stack.target) as client:
        assert total_cached(ask(client, shared, cache_salt="green")) == 0
        again = ask(client, shared, cache_salt="red")
        assert again.usage.cached_tokens.disk == 20 * BLOCK_TOKENS
        assert again.token_ids == first.token_ids


def worker_of(client: Client) -> WorkerStatus:
    (worker,) = [service.worker for service in client.status().services if service.worker is not None]
    return worker


def test_what_another_tenant_asked_costs_what_a_new_prompt_costs(tmp_path: Path) -> None:
    """The causes of time, which are exact: tokens computed, looked up and hit, and blocks moved. The times themselves
    are for `python -m bench.tenants`."""
    stack_flags = flags(tmp_path, device_blocks=400, host_blocks=400, disk="64MiB")
    with running_stack(tmp_path, *stack_flags) as stack, Client(stack.target) as client:

        def cost_of(token_ids: list[int], salt: str) -> tuple[int, ...]:
            before = worker_of(client)
            ask(client, token_ids, cache_salt=salt, tenant=salt)
            after = worker_of(client)
            hits = [tier.hit_tokens for tier in after.tiers], [tier.hit_tokens for tier in before.tiers]
            brought = [
                sum(move.blocks for move in status.moves if move.move in ("fetch", "load"))
                for status in (after, before)
            ]
            return (
                after.prompt_tokens - before.prompt_tokens,
                after.tiers[0].lookup_tokens - before.tiers[0].lookup_tokens,
                sum(hits[0]) - sum(hits[1]),
                brought[0] - brought[1],
            )

        shared, never = prompt(1, 20), prompt(2, 20)
        cold = cost_of(shared, "red")
        hit = cost_of(shared, "red")
        assert hit[0] < cold[0] / 10
        assert hit[2] == 20 * BLOCK_TOKENS
        assert cost_of(shared, "blue") == cost_of(never, "blue") == cold
        assert cold[0] >= len(shared)
        assert cold[2:] == (0, 0)


def test_a_tenant_over_its_cap_evicts_only_its_own(tmp_path: Path) -> None:
    cap = f"tenant_host_cache = {40 * BLOCK_BYTES}"
    with (
        running_stack(tmp_path, *flags(tmp_path, device_blocks=50, host_blocks=100, disk="0", scheduler=cap)) as stack,
        Client(stack.target) as client,
    ):
        modest = prompt(1, 20)
        # Asked for twice, its blocks are brought down at once.
        for _ in range(2):
            ask(client, modest, tenant="modest")
        for seed in range(2, 12):
            ask(client, prompt(seed, 20), tenant="greedy")
        # Long gone from the device, but not from host memory, which the other tenant could have filled twice over.
        assert ask(client, modest, tenant="modest").usage.cached_tokens.host == 20 * BLOCK_TOKENS
        # What the other tenant asked first made room for what it asked later.
        assert total_cached(ask(client, prompt(2, 20), tenant="greedy")) == 0
