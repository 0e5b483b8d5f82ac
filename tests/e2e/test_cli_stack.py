"""A whole stack as a user runs it: `infer-cli up`, a crash, a restart, `infer-cli down`, and nothing left behind."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.checkpoints import make_checkpoint
from tests.e2e.stack import INFER_CLI, LIMIT_S, Stack, running_stack, wait_until
from tiercel import ChatMessage, Client, Delta, TiercelError, Unavailable


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", tokenizer=True)


@pytest.fixture(scope="module", autouse=True)
def _own_state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def stack(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack"), "--model", str(checkpoint), "--max-seqs", "8") as running:
        yield running


def cli(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INFER_CLI, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False, **options)


def answer(target: str, prompt: str = "The river", max_tokens: int = 12) -> list[int]:
    words = ("--max-tokens", str(max_tokens), "--temperature", "0", "--ignore-eos", "--json", "--target", target)
    done = cli("generate", prompt, *words)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["token_ids"])


def services_of(supervisor_pid: int) -> list[psutil.Process]:
    return psutil.Process(supervisor_pid).children(recursive=True)


def processes_that_mention(word: str, except_for: set[int]) -> list[int]:
    found = psutil.process_iter(["pid", "cmdline"])
    return [p.info["pid"] for p in found if p.info["pid"] not in except_for and word in (p.info["cmdline"] or [])]


def test_the_ready_file_names_addresses_and_processes(stack: Stack) -> None:
    ready = stack.ready()
    assert ready["target"] == ready["addresses"]["tokenizer"][0]
    assert ready["supervisor_pid"] == stack.process.pid
    named = {pid for pids in ready["pids"].values() for pid in pids}
    assert named == {process.pid for process in services_of(stack.process.pid)}
    assert [len(ready["pids"][role]) for role in ("tokenizer", "scheduler", "worker")] == [1, 1, 1]


def test_generate_finds_the_running_stack_and_its_answer_is_repeatable(stack: Stack) -> None:
    ids = answer(stack.target)
    assert len(ids) == 12
    done = cli("generate", "The river", "--max-tokens", "12", "--temperature", "0", "--ignore-eos", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["token_ids"] == ids


def test_text_streamed_and_text_at_once_are_the_same(stack: Stack) -> None:
    with Client(stack.target) as client:
        options: dict[str, Any] = {"max_tokens": 24, "temperature": 0.7, "seed": 3, "ignore_eos": True}
        prompt = [ChatMessage("user", "Why?")]
        with client.stream(prompt, **options) as stream:
            streamed = "".join(event.text for event in stream if isinstance(event, Delta))
        assert streamed == client.generate(prompt, **options).text


def test_status_shows_every_service_ready(stack: Stack) -> None:
    done = cli("status", "--json")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert {service["role"]: service["state"] for service in content["services"]} == {
        "tokenizer": "ready",
        "scheduler": "ready",
        "worker": "ready",
    }
    pids = {service["role"]: [service["pid"]] for service in content["services"]}
    assert pids == stack.ready()["pids"]


def test_a_bad_request_is_refused_and_the_next_one_answered(stack: Stack) -> None:
    done = cli("generate", "--prompt-ids", "1000000", "--target", stack.target)
    assert done.returncode == 1
    assert "1000000" in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(answer(stack.target)) == 12


@pytest.mark.parametrize("role", ["worker", "scheduler", "tokenizer"])
def test_a_killed_service_is_told_of_restarted_and_answers_the_same(stack: Stack, role: str) -> None:
    expected = answer(stack.target)
    before = stack.ready()
    (pid,) = before["pids"][role]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: stack.ready()["pids"][role] != [pid], f"the ready file names the new {role}")
    after = stack.ready()
    assert after["addresses"] == before["addresses"]
    assert after["target"] == stack.target
    assert answer(stack.target) == expected
    log = stack.log.read_text()
    name = role if role == "scheduler" else f"{role}-0"
    assert f"{name}: died: killed by SIGKILL; starts again in" in log


def test_draining_finishes_a_running_answer_and_leaves_no_process(checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "stack.toml"
    # A busy machine may take longer over the answer than the thirty seconds that a service gives it otherwise.
    config.write_text("[tokenizer]\ndrain_timeout_s = 80\n")
    with running_stack(tmp_path, "--model", str(checkpoint), "--config", str(config)) as stack:
        services = services_of(stack.process.pid)
        assert len(services) == 3
        with Client(stack.target, retry=None) as client:
            stream = client.stream("The river", max_tokens=600, temperature=0, ignore_eos=True)
            next(stream)
            down = subprocess.Popen([INFER_CLI, "down", "--target", stack.target], stdout=subprocess.PIPE, text=True)
            wait_until(lambda: "draining" in stack.log.read_text(), "the stack drains")
            num_tokens = sum(len(event.token_ids) for event in stream if isinstance(event, Delta))
            assert num_tokens == 600
        out, _ = down.communicate(timeout=LIMIT_S)
        assert down.returncode == 0
        assert out.splitlines()[-1] == "stopped"
        assert stack.process.wait(timeout=LIMIT_S) == 0
        assert not any(process.is_running() for process in services)
        assert not stack.ready_file.exists()
        with Client(stack.target, retry=None) as client, pytest.raises(Unavailable):
            client.generate("gone")


def test_down_now_does_not_wait_for_running_answers(tmp_path: Path) -> None:
    # Its answer takes longer than the command.
    checkpoint = make_checkpoint(tmp_path / "long", tokenizer=True, max_position_embeddings=65536)
    ready_file = tmp_path / "ready.json"
    done = cli("up", "--detach", "--model", checkpoint, "--port", "0", "--ready-file", ready_file)
    assert done.returncode == 0, done.stderr
    ready = json.loads(ready_file.read_text())
    services = services_of(ready["supervisor_pid"])
    with Client(ready["target"], retry=None) as client:
        stream = client.stream("The river", max_tokens=60_000, temperature=0, ignore_eos=True)
        next(stream)
        assert cli("down", "--now", "--target", ready["target"]).returncode == 0
        with pytest.raises(TiercelError):
            list(stream)
    assert not any(process.is_running() for process in services)
    assert not ready_file.exists()


def test_a_killed_supervisor_takes_its_services_with_it(checkpoint: Path, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    done = cli("up", "--detach", "--model", checkpoint, "--port", "0", "--ready-file", ready_file)
    assert done.returncode == 0, done.stderr
    ready = json.loads(ready_file.read_text())
    services = services_of(ready["supervisor_pid"])
    assert len(services) == 3
    os.kill(ready["supervisor_pid"], signal.SIGKILL)
    gone, alive = psutil.wait_procs(services, timeout=20)
    assert alive == []
    assert len(gone) == 3
    done = cli("down", "--target", ready["target"])
    assert done.returncode == 1
    assert "at " + ready["target"] in done.stderr


def test_generate_starts_a_stack_for_itself_and_leaves_nothing_behind(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = {process.pid for process in psutil.process_iter()}
    done = cli("generate", "The river", "--max-tokens", "3", "--ignore-eos", "--json", "--model", checkpoint)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["token_ids"]) == 3
    assert done.stderr == ""
    assert processes_that_mention(str(checkpoint), except_for=before) == []
    assert not list((tmp_path / "state").rglob("stack-*"))


def test_ctrl_c_while_the_own_stack_starts_ends_with_130_and_stops_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = [str(INFER_CLI), "generate", "x", "--model", str(checkpoint), "--max-tokens", "3"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        me = psutil.Process(process.pid)
        wait_until(lambda: len(me.children(recursive=True)) >= 2, "a service of the own stack starts")
        started = me.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT_S) == 130
        assert not any(child.is_running() for child in started)


def test_a_second_front_door_takes_the_next_address_and_gives_the_same_answer(checkpoint: Path, tmp_path: Path) -> None:
    with running_stack(tmp_path, "--model", str(checkpoint), "--tokenizers", "2", "--workers", "2") as stack:
        ready = stack.ready()
        first, second = ready["addresses"]["tokenizer"]
        assert first != second
        assert len(set(ready["addresses"]["worker"])) == 2
        assert answer(first) == answer(second)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--model", "/nowhere/model"), "/nowhere/model"),
        (("--device-cache", "1KiB"), "device"),
    ],
)
def test_a_setting_that_cannot_work_is_one_message_and_exit_code_2(
    checkpoint: Path, flags: tuple[str, ...], expected: str
) -> None:
    model = () if "--model" in flags else ("--model", str(checkpoint))
    done = cli("up", "--port", "0", *model, *flags)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_detached_start_that_fails_says_why_and_leaves_nothing(checkpoint: Path) -> None:
    before = {process.pid for process in psutil.process_iter()}
    done = cli("up", "--detach", "--port", "0", "--model", checkpoint, "--device-cache", "1KiB")
    assert done.returncode == 2
    assert "device" in done.stderr.splitlines()[-1]
    assert processes_that_mention(str(checkpoint), except_for=before) == []


def test_a_wrong_key_in_the_config_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    config = tmp_path / "stack.toml"
    config.write_text("[worker]\nmax_sequences = 4\n")
    done = cli("up", "--port", "0", "--model", checkpoint, "--config", config)
    assert done.returncode == 2
    assert "'max_sequences'" in done.stderr.splitlines()[-1]
