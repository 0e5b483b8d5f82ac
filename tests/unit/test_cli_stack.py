"""What stands behind `infer-cli up`: records of stacks, logs, sizes, and children that end with their parent."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import psutil
import pytest

from tiercel.cli import launch, stack_record
from tiercel.cli.failure import CommandFailed
from tiercel.cli.log_file import LogFile
from tiercel.cli.main import main
from tiercel.cli.stack_record import ProcessId, StackRecord
from tiercel.cli.stack_spec import Role, StackSpec, plan_stack
from tiercel.cli.target import Address, recorded_stack
from tiercel.cli.up import up
from tiercel.cli.values import ByteSize, shown_bytes


@pytest.fixture(autouse=True)
def _own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def record(port: int, supervisor: ProcessId | None = None) -> StackRecord:
    me = supervisor or ProcessId.of(os.getpid())
    assert me is not None
    return StackRecord(port, f"127.0.0.1:{port}", "demo", "ready", me, "/tmp/logs")


def test_a_record_is_found_again_while_its_supervisor_lives() -> None:
    stack_record.save(record(4001))
    assert stack_record.running_stacks() == [record(4001)]


def test_a_record_of_a_dead_supervisor_is_swept_away() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        gone = ProcessId.of(process.pid)
        process.communicate(b"\n")
    stack_record.save(record(4001, gone))
    assert stack_record.running_stacks() == []
    assert list(stack_record.state_dir().glob("stack-*")) == []


def test_another_process_with_the_same_pid_is_not_taken_for_the_supervisor() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    stack_record.save(record(4001, replace(me, started_unix_s=me.started_unix_s - 100)))
    assert stack_record.running_stacks() == []


def test_a_torn_record_does_no_harm() -> None:
    stack_record.save(record(4001))
    (stack_record.state_dir() / "stack-4002.json").write_text("{")
    (stack_record.state_dir() / "stack-4003.json").write_text("[1]")
    assert [found.port for found in stack_record.running_stacks()] == [4001]


def test_removing_a_record_leaves_that_of_a_successor() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    old = record(4001, replace(me, pid=1))
    stack_record.save(record(4001))
    stack_record.remove(old)
    assert stack_record.running_stacks() == [record(4001)]


def test_the_only_running_stack_is_meant_when_none_is_named() -> None:
    assert recorded_stack(Address()) is None
    stack_record.save(record(4001))
    found = recorded_stack(Address())
    assert found is not None
    assert found.port == 4001


def test_of_several_stacks_the_one_on_the_default_port_is_meant() -> None:
    stack_record.save(record(4001))
    stack_record.save(record(4002))
    with pytest.raises(CommandFailed, match=r"127\.0\.0\.1:4001, 127\.0\.0\.1:4002"):
        recorded_stack(Address())
    stack_record.save(record(50051))
    found = recorded_stack(Address())
    assert found is not None
    assert found.port == 50051


@pytest.mark.parametrize("address", [Address(target="localhost:4002"), Address(port=4002)])
def test_a_named_stack_is_found_by_target_or_port(address: Address) -> None:
    stack_record.save(record(4001))
    stack_record.save(record(4002))
    found = recorded_stack(address)
    assert found is not None
    assert found.port == 4002


def test_a_child_ends_when_its_parent_is_killed() -> None:
    sleeper = [sys.executable, "-c", "import sys, threading; sys.stdout.write('up'); sys.stdout.flush()\n"]
    sleeper[-1] += "threading.Event().wait()"
    parent_code = (
        "import os, subprocess, sys, threading\n"
        f"c = [sys.executable, '-I', '-S', {launch.__file__!r}, '9', str(os.getpid()), *{sleeper!r}]\n"
        "p = subprocess.Popen(c, start_new_session=True, stdout=subprocess.PIPE)\n"
        "p.stdout.read(2); print(p.pid, flush=True); threading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
        gone, _ = psutil.wait_procs([child], timeout=10)
        assert gone == [child] or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_whose_parent_is_already_gone_does_not_start() -> None:
    words = [sys.executable, "-I", "-S", launch.__file__, str(int(signal.SIGKILL)), "1", "/bin/true"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is gone" in done.stderr


def test_the_last_lines_of_a_log_are_those_of_the_present_run_and_readable(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "worker-0.log")
    log.path.write_text("of an earlier run\n")
    os.close(log.open_for_child())
    entry = {"time": "t", "level": "error", "service": "worker", "logger": "l", "message": "no room", "needed": 7}
    trace = {**entry, "message": "broken", "exception": "Traceback\nValueError: x"}
    with log.path.open("a") as file:
        file.write(json.dumps(entry) + "\n" + json.dumps(trace) + "\nplain words\n")
    assert log.last_lines(2) == ["ValueError: x", "plain words"]
    assert log.last_lines(9)[0] == "error: no room  needed=7"
    assert "of an earlier run" not in log.last_lines(9)


def test_a_log_that_grew_large_is_cut_while_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiercel.cli.log_file.MAX_BYTES", 100)
    log = LogFile(tmp_path / "worker-0.log")
    descriptor = log.open_for_child()
    os.write(descriptor, b"x" * 101 + b"\n")
    log.trim()
    os.write(descriptor, b"after\n")
    os.close(descriptor)
    assert log.path.read_bytes() == b"after\n"
    assert (tmp_path / "worker-0.log.1").stat().st_size == 102
    assert log.last_lines(3) == ["after"]


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("0", 0), ("4096", 4096), ("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("2tib", 2 << 40)]
)
def test_sizes_are_bytes_or_binary_units(text: str, num_bytes: int) -> None:
    assert ByteSize().convert(text, None, None) == num_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1MB", "1e9", "nan", "12 34"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        ByteSize().convert(text, None, None)


def test_bytes_are_shown_for_people() -> None:
    assert [shown_bytes(n) for n in (0, 1023, 1536, 200 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 MiB",
        "5.0 TiB",
    ]


def test_a_spec_survives_the_way_through_flags() -> None:
    spec = StackSpec(
        model="demo",
        served_model_name="name",
        num_workers=2,
        num_tokenizers=3,
        host="0.0.0.0",
        port=0,
        dtype="bf16",
        weights="int8",
        kv_dtype="auto",
        device="cpu",
        block_size_tokens=32,
        device_cache_bytes=1 << 20,
        host_cache_bytes=2 << 20,
        disk_cache_bytes=4 << 20,
        cache_dir=Path("/kv"),
        max_batched_tokens=256,
        max_seqs=8,
        max_model_len=512,
        config=Path("/c.toml"),
        ready_file=Path("/r.json"),
        log_dir=Path("/logs"),
        otlp="http://collector:4317",
        is_private=True,
    )
    assert None not in [getattr(spec, name) for name in spec.__dataclass_fields__], "a new field needs a value here"
    given = up.make_context("up", spec.flags()).params
    assert given.pop("detach") is False
    assert given.pop("progress_fd") is None
    assert StackSpec(**given) == spec


def test_flags_win_over_the_config_file_and_it_over_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "stack.toml"
    config.write_text(
        '[tokenizer]\nport = 4444\nmodel = "x"\n[worker]\nmodel = "x"\n[scheduler]\ndrain_timeout_s = 3\n'
    )
    plan = plan_stack(StackSpec(config=config))
    assert plan.port == 4444
    assert plan.drain_limit_s(Role.SCHEDULER) < plan.drain_limit_s(Role.WORKER)
    assert "--model" not in plan.worker_command(0)
    assert "--max-seqs" not in plan.worker_command(0)
    plan = plan_stack(StackSpec(config=config, port=5555, model="y", max_seqs=4))
    assert plan.port == 5555
    assert plan.worker_command(0)[-4:] == ["--max-seqs", "4", "--config", str(config)]
    assert "y" in plan.tokenizer_command(5555, "127.0.0.1:1")
    assert plan_stack(StackSpec()).port == 50051


def test_internal_services_listen_on_this_machine_alone() -> None:
    plan = plan_stack(StackSpec(host="0.0.0.0"))
    assert "0.0.0.0" in plan.tokenizer_command(1, "a:1")
    assert "0.0.0.0" not in plan.worker_command(0) + plan.scheduler_command(0, ["a:1"])


def test_every_service_is_told_of_the_collector() -> None:
    plan = plan_stack(StackSpec(otlp="http://c:4317"))
    for command in (plan.worker_command(0), plan.scheduler_command(0, ["a:1"]), plan.tokenizer_command(0, "a:1")):
        assert command[command.index("--otlp") + 1] == "http://c:4317"


def test_a_collector_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--otlp", "ftp://c"]) == 2
    assert "--otlp" in capsys.readouterr().err


def test_several_workers_share_the_cores() -> None:
    assert "--threads" not in plan_stack(StackSpec()).worker_command(0)
    assert "--threads" in plan_stack(StackSpec(num_workers=2)).worker_command(0)


def test_services_of_one_role_do_not_fight_over_a_port_for_metrics(tmp_path: Path) -> None:
    config = tmp_path / "tiercel.toml"
    config.write_text("[worker]\nmetrics_port = 9600\n[tokenizer]\nmetrics_port = 0\n")
    plan = plan_stack(StackSpec(num_workers=2, config=config))
    assert plan.metrics_flags(Role.WORKER, 0) == []
    assert plan.metrics_flags(Role.WORKER, 1) == ["--metrics-port", "9601"]
    # Switched off is switched off for all, and the default finds a free one by itself.
    assert plan.metrics_flags(Role.TOKENIZER, 1) == plan.metrics_flags(Role.SCHEDULER, 1) == []


def test_a_taken_port_is_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["up", "--port", str(port)]) == 2
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err
        stack_record.save(record(port))
        assert main(["up", "--port", str(port)]) == 2
        assert f"infer-cli down --port {port}" in capsys.readouterr().err
