"""`infer-cli cache` over a real stack with small tiers: what it says, and what it does to the answers after it."""

import fcntl
import json
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.e2e.stack import ALWAYS_BRING, INFER_CLI, Stack, running_stack, wait_until

PROMPT = "The library keeps a list of all the books that were ever lent to a sailor. " * 8
"""Some hundred and twenty tokens of the bundled model, so several blocks."""
OTHER = "A lighthouse needs oil, a wick and someone who stays awake. " * 8


def flags(cache_dir: Path, *, host: str = "8MiB", disk: str = "64MiB") -> list[str]:
    return [
        *("--config", str(ALWAYS_BRING), "--model", "demo", "--max-model-len", "640", "--max-batched-tokens", "256"),
        *("--device-cache", "8MiB", "--host-cache", host, "--disk-cache", disk, "--cache-dir", str(cache_dir)),
    ]


def cli(stack: Stack, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [INFER_CLI, *words, "--target", stack.target], capture_output=True, text=True, input=stdin, timeout=120
    )


def told(stack: Stack, *words: str, code: int = 0) -> dict[str, Any]:
    """What a command says as JSON."""
    done = cli(stack, *words, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def cached(stack: Stack, prompt: str) -> dict[str, int]:
    answer = told(stack, "generate", prompt, "--max-tokens", "1", "--temperature", "0")
    return dict(answer["usage"]["cached_tokens"])


def records(stack: Stack) -> int:
    """On disk, of the served namespace."""
    (disk,) = told(stack, "cache", "stats")["disks"]
    return sum(namespace["records"] for namespace in disk["namespaces"] if namespace["is_served"])


def disk_note(stack: Stack) -> str:
    (worker,) = told(stack, "cache", "stats")["workers"]
    return next(str(tier["note"]) for tier in worker["tiers"] if tier["tier"] == "disk")


def test_warm_restart_hit_verify_clear(tmp_path: Path) -> None:
    """The story of a directory, from empty to empty."""
    directory, prefixes = tmp_path / "kv", tmp_path / "prefixes.txt"
    prefixes.write_text(f"{PROMPT}\n\n{OTHER}\n")
    with running_stack(tmp_path, *flags(directory)) as stack:
        assert records(stack) == 0
        warmed = told(stack, "cache", "warm", str(prefixes))
        assert (warmed["prefixes"], warmed["refused"]) == (2, [])
        assert warmed["computed_tokens"] == warmed["prompt_tokens"] > 100
        assert warmed["is_settled"]
        assert records(stack) >= warmed["prompt_tokens"] // 16 - 1
        again = told(stack, "cache", "warm", str(prefixes))
        assert again["computed_tokens"] <= 2 * 16 + 2
    with running_stack(tmp_path, *flags(directory)) as stack:
        hit = cached(stack, PROMPT)
        assert hit["disk"] > 0
        assert hit["device"] == 0
        worker = told(stack, "cache", "stats")["workers"][0]
        disk = next(tier for tier in worker["tiers"] if tier["tier"] == "disk")
        fetch = next(move for move in worker["moves"] if move["move"] == "fetch")
        assert disk["hit_tokens"] == hit["disk"]
        assert fetch["bytes"] >= hit["disk"] // 16 * worker["block_bytes"]
        assert fetch["bytes_per_s"] > 0
        sound = told(stack, "cache", "verify")
        assert sound["is_sound"]
        assert sound["disks"][0]["records"] == records(stack)
        text = cli(stack, "cache", "stats").stdout
        for word in ("Cache", "Moves", "Disks", "Namespaces", "served", str(directory), "fetch"):
            assert word in text
        assert cli(stack, "cache", "clear", stdin="").returncode == 2
        num_records = records(stack)
        assert told(stack, "cache", "clear", "--yes")["disks"][0]["records"] == num_records > 0
        assert records(stack) == 0
        # Not asked for since the restart, so it was on disk and nowhere else.
        assert cached(stack, OTHER)["disk"] == 0
        assert told(stack, "cache", "verify")["is_sound"]


def test_verify_names_a_record_that_rotted_and_it_is_never_served(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    with running_stack(tmp_path, *flags(directory)) as stack:
        expected = told(stack, "generate", PROMPT, "--max-tokens", "8", "--temperature", "0")
    (slab,) = directory.glob("*.slab")
    content = bytearray(slab.read_bytes())
    content[len(content) // 2] ^= 0xFF
    slab.write_bytes(content)
    with running_stack(tmp_path, *flags(directory)) as stack:
        found = told(stack, "cache", "verify", code=1)
        assert not found["is_sound"]
        (bad,) = found["bad_records"]
        done = cli(stack, "cache", "verify")
        assert done.returncode == 1
        assert bad["key"] in done.stdout
        assert bad["fault"] in done.stdout
        answer = told(stack, "generate", PROMPT, "--max-tokens", "8", "--temperature", "0")
        assert answer["token_ids"] == expected["token_ids"]


def test_pin_until_there_is_no_room_and_give_up(tmp_path: Path) -> None:
    """Half of a host tier of this size holds one of the prompts, not both."""
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text(PROMPT)
    second.write_text("\n".join(f"{number} {OTHER}" for number in range(8)))
    with running_stack(tmp_path, *flags(tmp_path / "kv", host="512KiB")) as stack:
        told(stack, "cache", "pin", "books", str(first))
        (pinned,) = told(stack, "cache", "ls")["pinned"]
        assert pinned["name"] == "books"
        assert pinned["blocks"] > 0

        def is_down() -> bool:
            (pin,) = told(stack, "cache", "ls")["pinned"]
            return bool(pin["host_blocks"] == pin["disk_blocks"] == pin["blocks"])

        wait_until(is_down, "the pinned prefix is in host memory and on disk")
        again = cli(stack, "cache", "pin", "books", str(first))
        assert again.returncode == 1
        assert "'books' is pinned already" in again.stderr
        full = cli(stack, "cache", "pin", "lights", str(second))
        assert full.returncode == 1
        assert "that may be pinned" in full.stderr
        assert "nothing was pinned" in full.stderr
        assert [pin["name"] for pin in told(stack, "cache", "ls")["pinned"]] == ["books"]
        assert "books" in cli(stack, "cache", "ls").stdout
        told(stack, "cache", "pin", "books", "--remove")
        gone = cli(stack, "cache", "pin", "books", "--remove")
        assert gone.returncode == 1
        assert "nothing is pinned" in gone.stderr


def test_a_pin_outlives_the_stack_and_its_records_outlive_pressure(tmp_path: Path) -> None:
    first, others = tmp_path / "first.txt", tmp_path / "others.txt"
    first.write_text(PROMPT)
    others.write_text("\n".join(f"{number} {OTHER}" for number in range(30)))
    # Some 80 records, of which the pinned prefix takes a tenth; the others would fill it three times over.
    small = flags(tmp_path / "kv", host="1MiB", disk="2MiB")
    with running_stack(tmp_path, *small) as stack:
        assert told(stack, "cache", "pin", "books", str(first))["is_settled"]
    with running_stack(tmp_path, *small) as stack:
        (pinned,) = told(stack, "cache", "ls")["pinned"]
        assert pinned["name"] == "books"
        assert pinned["disk_blocks"] == pinned["blocks"] > 0
        told(stack, "cache", "warm", str(others))
        (pinned,) = told(stack, "cache", "ls")["pinned"]
        assert pinned["disk_blocks"] == pinned["blocks"]
        worker = told(stack, "cache", "stats")["workers"][0]
        assert next(tier for tier in worker["tiers"] if tier["tier"] == "disk")["evicted_blocks"] > 0
    with running_stack(tmp_path, *small) as stack:
        assert cached(stack, PROMPT)["disk"] > 0
        cleared = told(stack, "cache", "clear", "--yes")
        assert cleared["unpinned"] == ["books"]
        assert cleared["memory"][0]["device_blocks"] > 0
        assert sum(cached(stack, PROMPT).values()) == 0
    with running_stack(tmp_path, *small) as stack:
        assert told(stack, "cache", "ls")["pinned"] == []


def _file_in_its_place(directory: Path) -> None:
    directory.write_text("mine")


def _foreign_index(directory: Path) -> None:
    directory.mkdir()
    (directory / "index.mdb").write_bytes(b"something else\n" * 4096)


def _other_schema(directory: Path) -> None:
    directory.mkdir()
    with lmdb.open(str(directory / "index.mdb"), subdir=False, max_dbs=8) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"schema", (99).to_bytes(8, "little"), db=meta)


@pytest.mark.parametrize(
    ("spoil", "note"),
    [
        (_file_in_its_place, "cannot be written"),
        (_foreign_index, "is not an index of this program, or is damaged"),
        (_other_schema, "was written with schema version 99"),
    ],
)
def test_a_directory_that_cannot_be_used_is_said_and_done_without(
    tmp_path: Path, spoil: Callable[[Path], None], note: str
) -> None:
    directory = tmp_path / "kv"
    spoil(directory)
    with running_stack(tmp_path, *flags(directory)) as stack:
        check_goes_on_without_disk(stack, note)


def test_a_read_only_directory_is_said_and_done_without(tmp_path: Path) -> None:
    """One that nobody may write to, not even root, who runs the tests in some places."""
    with running_stack(tmp_path, *flags(Path("/sys/tiercel"))) as stack:
        check_goes_on_without_disk(stack, "The cache directory /sys/tiercel cannot be written")


def test_a_locked_directory_is_said_and_done_without(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    directory.mkdir()
    with locked(directory), running_stack(tmp_path, *flags(directory)) as stack:
        check_goes_on_without_disk(stack, "is held by another process for itself alone")


def test_a_tier_that_is_switched_off_is_said_and_done_without(tmp_path: Path) -> None:
    with running_stack(tmp_path, *flags(tmp_path / "kv", disk="0")) as stack:
        cached(stack, PROMPT)
        failed = cli(stack, "cache", "verify")
        assert failed.returncode == 1
        assert "the disk tier is switched off" in failed.stderr


def test_a_full_disk_is_said_and_the_stack_goes_on(tmp_path: Path) -> None:
    """No file may grow beyond a limit: to the tier that is a file system without room."""
    prefixes = tmp_path / "prefixes.txt"
    prefixes.write_text("\n".join(f"{number} {PROMPT}" for number in range(24)))
    with file_size_limit(1 << 20), running_stack(tmp_path, *flags(tmp_path / "kv")) as stack:
        told(stack, "cache", "warm", str(prefixes))
        wait_until(lambda: "is full" in disk_note(stack), "the full disk is said")
        assert "is full" in cli(stack, "status").stdout
        assert cached(stack, f"0 {PROMPT}")["device"] > 0
        assert told(stack, "cache", "verify")["is_sound"]


def check_goes_on_without_disk(stack: Stack, note: str) -> None:
    cached(stack, PROMPT)
    assert cached(stack, PROMPT)["device"] > 0
    assert note in disk_note(stack)
    for command in (["status"], ["cache", "stats"], ["cache", "ls"]):
        assert note in cli(stack, *command).stdout
    failed = cli(stack, "cache", "verify")
    assert failed.returncode == 1
    assert note in failed.stderr
    assert note in cli(stack, "cache", "clear", "--yes").stdout


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """For processes that are started within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
