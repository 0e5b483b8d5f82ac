"""`infer-cli status --watch`: the arithmetic, then the command in a pipe and at a terminal."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.inference_service import FakeInference, fake_stack
from tiercel.cli.main import main
from tiercel.cli.watch import workers_now
from tiercel.client import ServiceStatus, StackStatus, TierStatus, WorkerStatus

INFER_CLI = Path(sys.executable).with_name("infer-cli")

TIER = TierStatus(
    tier="device",
    capacity_blocks=100,
    in_use_blocks=5,
    cached_blocks=15,
    lookup_tokens=1000,
    hit_tokens=200,
    pinned_blocks=0,
    evicted_blocks=0,
    note="",
)
WORKER = WorkerStatus(
    model="m",
    device="cpu",
    dtype="bf16",
    kv_dtype="fp8",
    attention_backend="torch",
    weights="bf16",
    weight_bytes=1000,
    block_size_tokens=16,
    block_bytes=1024,
    max_model_tokens=64,
    max_batched_tokens=64,
    max_seqs=4,
    running=3,
    waiting=2,
    steps=100,
    prompt_tokens=1000,
    completion_tokens=300,
    preemptions=0,
    tiers=(TIER,),
    step_gap_p50_ns=0,
    step_gap_p99_ns=0,
    back_to_back_steps=0,
    moves=(),
)


def stack_of(worker: WorkerStatus | None) -> StackStatus:
    service = ServiceStatus("worker", "127.0.0.1:1", 7, "ready" if worker else "lost", 1, "", worker, "")
    return StackStatus((service,), ())


@pytest.fixture
def server() -> Iterator[FakeInference]:
    with fake_stack() as running:
        yield running


def test_rates_are_what_happened_between_two_looks() -> None:
    later = replace(
        WORKER,
        steps=150,
        prompt_tokens=2000,
        completion_tokens=500,
        tiers=(replace(TIER, lookup_tokens=1400, hit_tokens=300, cached_blocks=25),),
    )
    (now,) = workers_now(stack_of(WORKER), stack_of(later), 2.0)
    assert (now.prompt_tokens_per_s, now.output_tokens_per_s, now.steps_per_s) == (500.0, 100.0, 25.0)
    assert now.mean_batch == 4.0
    assert now.lookup_tokens == 400
    assert (now.tiers[0].used_blocks, now.tiers[0].hit_tokens) == (30, 100)


def test_a_first_look_and_a_worker_that_was_restarted_have_no_rates_yet() -> None:
    restarted = replace(WORKER, steps=1, completion_tokens=2)
    for before in (None, stack_of(WORKER)):
        (now,) = workers_now(before, stack_of(restarted), 1.0)
        assert now.output_tokens_per_s is now.steps_per_s is now.mean_batch is None
        assert now.running == 3


def test_a_lost_worker_is_shown_without_figures() -> None:
    (now,) = workers_now(stack_of(WORKER), stack_of(None), 1.0)
    assert (now.state, now.tiers) == ("lost", ())


def test_in_a_pipe_every_look_is_a_plain_line_per_worker(server: FakeInference) -> None:
    words = [str(INFER_CLI), "status", "--watch", "--interval", "0.1", "--count", "3", "--target", server.address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "\x1b" not in line
        fields = dict(pair.split("=") for pair in line.split() if "=" in pair)
        assert fields["running"] == "1"
        assert {"waiting", "output_tok/s", "batch", "device", "device_hit", "disk"} <= fields.keys()
    assert "output_tok/s=-" in lines[0]
    assert "output_tok/s=0.0" in lines[1]


def test_ctrl_c_leaves_a_pipe_cleanly(server: FakeInference) -> None:
    words = [str(INFER_CLI), "status", "--watch", "--interval", "60", "--target", server.address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"running=1" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == b""


def test_at_a_terminal_it_is_redrawn_and_ctrl_c_gives_the_terminal_back(server: FakeInference) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    words = [str(INFER_CLI), "status", "--watch", "--interval", "0.1", "--target", server.address]
    process = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    try:
        # A second drawing moves the cursor up over the first.
        while seen.count(b"Ctrl-C leaves") < 3:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        while True:
            try:
                seen += os.read(ours, 65536)
            except OSError:
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    for word in (b"running", b"output tok/s", b"hit rate", b"device"):
        assert word in seen
    assert b"\x1b[1A" in seen
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l"), "the cursor is hidden still"
    assert b"Traceback" not in seen


def test_a_stack_that_does_not_answer_is_said_and_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--watch", "--interval", "0.1", "--count", "2", "--target", "127.0.0.1:1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all("no answer" in line for line in lines)


@pytest.mark.parametrize("arguments", [["--watch", "--json"], ["--count", "2"], ["--watch", "--interval", "0"]])
def test_flags_that_do_not_go_together_are_usage_errors(
    arguments: list[str], server: FakeInference, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *arguments, "--target", server.address]) == 2
    assert capsys.readouterr().err.startswith("error:")
