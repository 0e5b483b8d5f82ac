"""Wherever a block comes from, the answer is the same: over real services, with a device cache far too small."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.stack import ALWAYS_BRING, Stack, running_stack, wait_until
from tests.e2e.tier_workload import Outcome, run_chats

MODEL = ("--model", "demo", "--dtype", "fp32", "--max-model-len", "640", "--max-batched-tokens", "256")
BLOCK_BYTES = {"fp32": 81_920, "bf16": 40_960, "fp8": 21_120}
"""Of the demo model. Caches are given in blocks, so that every KV dtype is under the same pressure."""
DEVICE_BLOCKS = 51
"""Little more than one long chat."""


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp8"])
def kv_dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def expected(kv_dtype: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The answers without any lower tier, with room for everything on the device."""
    folder = tmp_path_factory.mktemp("expected")
    with running_stack(folder, *MODEL, "--kv-dtype", kv_dtype, "--host-cache", "0") as stack:
        return asyncio.run(run_chats(stack.target))


def flags(kv_dtype: str, folder: Path, *, host_blocks: int, has_disk: bool, workers: int = 1) -> list[str]:
    block = BLOCK_BYTES[kv_dtype]
    return [
        *MODEL,
        *("--config", str(ALWAYS_BRING)),
        *("--kv-dtype", kv_dtype),
        *("--device-cache", str(DEVICE_BLOCKS * block)),
        *("--host-cache", str(host_blocks * block)),
        *("--disk-cache", "256MiB" if has_disk else "0"),
        *("--cache-dir", str(folder / "kv")),
        *("--workers", str(workers)),
    ]


def test_forced_eviction_without_lower_tiers(kv_dtype: str, expected: Outcome, tmp_path: Path) -> None:
    with running_stack(tmp_path, *flags(kv_dtype, tmp_path, host_blocks=0, has_disk=False)) as stack:
        outcome = asyncio.run(run_chats(stack.target))
    assert outcome.answers == expected.answers
    assert outcome.host_tokens == outcome.disk_tokens == 0


def test_host_tier_alone(kv_dtype: str, expected: Outcome, tmp_path: Path) -> None:
    with running_stack(tmp_path, *flags(kv_dtype, tmp_path, host_blocks=800, has_disk=False)) as stack:
        outcome = asyncio.run(run_chats(stack.target))
    assert outcome.answers == expected.answers
    assert outcome.host_tokens > 0.05 * outcome.prompt_tokens
    assert outcome.disk_tokens == 0


def test_host_and_disk_then_a_restart_of_everything(kv_dtype: str, expected: Outcome, tmp_path: Path) -> None:
    """The host tier is small too, so that blocks come back from disk while the first stack still runs."""
    both = flags(kv_dtype, tmp_path, host_blocks=100, has_disk=True)
    with running_stack(tmp_path, *both) as stack:
        first = asyncio.run(run_chats(stack.target))
        again = asyncio.run(run_chats(stack.target))
    assert first.answers == again.answers == expected.answers
    assert again.disk_tokens > 0
    with running_stack(tmp_path, *both) as stack:
        # One after the other: what a request finds when it comes is not evicted while it waits for those before it.
        after = asyncio.run(run_chats(stack.target, at_once=1))
    assert after.answers == expected.answers
    # More than a stack finds that has room for everything, but has never been asked before.
    assert after.device_tokens + after.host_tokens + after.disk_tokens > expected.device_tokens
    assert after.disk_tokens > 0.05 * after.prompt_tokens


def test_after_the_worker_was_killed(kv_dtype: str, expected: Outcome, tmp_path: Path) -> None:
    with running_stack(tmp_path, *flags(kv_dtype, tmp_path, host_blocks=400, has_disk=True)) as stack:
        first = asyncio.run(run_chats(stack.target, num_chats=12))
        kill_worker(stack)
        again = asyncio.run(run_chats(stack.target))
    assert first.answers == {key: answer for key, answer in expected.answers.items() if key[0] < 12}
    assert again.answers == expected.answers
    assert again.disk_tokens > 0


def test_two_workers_share_one_disk(kv_dtype: str, expected: Outcome, tmp_path: Path) -> None:
    two = flags(kv_dtype, tmp_path, host_blocks=100, has_disk=True, workers=2)
    with running_stack(tmp_path, *two) as stack:
        first = asyncio.run(run_chats(stack.target))
        again = asyncio.run(run_chats(stack.target))
    assert first.answers == expected.answers
    assert again.answers == expected.answers
    assert again.disk_tokens > 0


def kill_worker(stack: Stack) -> None:
    """As the kernel would for lack of memory. Returns when the supervisor's new one is ready at the same address."""
    before = stack.ready()["pids"]
    os.kill(before["worker"][0], signal.SIGKILL)
    wait_until(lambda: stack.ready()["pids"]["worker"] != before["worker"], "a new worker")
