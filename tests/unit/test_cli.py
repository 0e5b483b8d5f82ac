"""infer-cli against a fake front door: what it prints where, and how it ends."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.fakes.inference_service import FakeInference, fake_stack, rich_status
from tiercel.cli.main import main

INFER_CLI = Path(sys.executable).with_name("infer-cli")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def server() -> Iterator[FakeInference]:
    with fake_stack() as service:
        yield service


@pytest.fixture(autouse=True)
def _own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


# -- generate --------------------------------------------------------------------------------------


def test_json_is_one_object_with_the_promised_fields(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "hé", "--json", "--target", server.address]) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    report = content.pop("report")
    assert content == {
        "request_id": "fake-1",
        "text": "HÉ",
        "token_ids": [72, 201],
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 2,
            "cached_tokens": {"device": 2, "host": 1, "disk": 0},
        },
    }
    assert report == {
        "queue_ms": 1.0,
        "fetch_ms": 0.25,
        "load_ms": 0.5,
        "prefill_ms": 2.0,
        "decode_ms": 30.0,
        "ttft_ms": 3.5,
        "e2e_ms": 34.0,
        "tokenize_ms": 0.0,
        "lookup_ms": 0.0,
        "transit_ms": 0.0,
        "detokenize_ms": 0.0,
        "preemptions": 0,
        "prefill_chunks": 1,
        "worker": "127.0.0.1:1",
    }
    assert captured.err == ""
    assert captured.out.count("\n") == 1


def test_json_of_several_choices_with_log_probabilities(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "a", "--n", "2", "--logprobs", "1", "--json", "--target", server.address]) == 0
    content = json.loads(capsys.readouterr().out)
    row = {"token_id": 65, "logprob": -0.5, "rank": 1, "top": [{"token_id": 65, "logprob": -0.5}]}
    assert content["logprobs"] == [row]
    choice = {"text": "A", "token_ids": [65], "finish_reason": "stop", "logprobs": [row]}
    assert content["choices"] == [{"index": 0, **choice}, {"index": 1, **choice}]


def test_text_goes_to_stdout_and_nothing_else_does(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "hello", "--target", server.address]) == 0
    captured = capsys.readouterr()
    assert captured.out == "HELLO\n"
    assert captured.err == ""


def test_several_choices_as_text_do_not_run_into_one_another(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "ab", "--n", "2", "--target", server.address]) == 0
    assert capsys.readouterr().out == "[0] AB\n[1] AB\n"


def test_every_sampling_flag_reaches_the_server(server: FakeInference) -> None:
    flags = "--max-tokens 7 --temperature 0 --top-p 0.5 --top-k 4 --min-p 0.1 --seed 18446744073709551615"
    more = "--stop X --stop YY --ignore-eos --logprobs 0 --n 2"
    assert main(["generate", "a", *flags.split(), *more.split(), "--target", server.address]) == 0
    sampling = server.requests[0].sampling
    assert (sampling.max_tokens, sampling.top_k, sampling.n) == (7, 4, 2)
    assert sampling.HasField("temperature")
    assert sampling.temperature == 0
    assert sampling.top_p == 0.5
    assert sampling.min_p == pytest.approx(0.1)
    assert sampling.seed == 2**64 - 1
    assert list(sampling.stop) == ["X", "YY"]
    assert sampling.ignore_eos
    assert sampling.HasField("logprobs")


def test_flags_that_are_not_given_are_left_to_the_server(server: FakeInference) -> None:
    assert main(["generate", "a", "--target", server.address]) == 0
    assert server.requests[0].sampling.ByteSize() == 0


@pytest.mark.parametrize(
    ("typed", "sent"), [("hi\n", "hi"), ("hi\n\n", "hi\n"), ("hi\r\n", "hi"), ("one\ntwo", "one\ntwo"), (" x ", " x ")]
)
def test_standard_input_loses_one_newline_at_its_end(
    server: FakeInference, monkeypatch: pytest.MonkeyPatch, typed: str, sent: str
) -> None:
    type_in(monkeypatch, typed)
    assert main(["generate", "-", "--target", server.address]) == 0
    assert server.requests[0].text == sent


def test_prompt_ids_and_chat_are_sent_as_such(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "--prompt-ids", "104, 105", "--target", server.address]) == 0
    assert main(["generate", "--chat", "hi", "--target", server.address]) == 0
    assert capsys.readouterr().out == "HI\nHI\n"
    assert [request.WhichOneof("prompt") for request in server.requests] == ["token_ids", "chat"]
    assert server.requests[1].chat.messages[0].role == "user"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["generate"], "no prompt"),
        (["generate", ""], "empty"),
        (["generate", "a", "--prompt-ids", "1"], "leave PROMPT"),
        (["generate", "--prompt-ids", "1,x"], "'x' is not a token id"),
        (["generate", "--prompt-ids", "1,-2"], "'-2' is not a token id"),
        (["generate", "--prompt-ids", ""], "'' is not a token id"),
        (["generate", "a", "--temperature", "-1"], "at least 0"),
        (["generate", "a", "--temperature", "nan"], "at least 0"),
        (["generate", "a", "--temperature", "hot"], "'hot' is not a number"),
        (["generate", "a", "--top-p", "0"], "above 0 and at most 1"),
        (["generate", "a", "--top-p", "1.5"], "above 0 and at most 1"),
        (["generate", "a", "--min-p", "2"], "at least 0 and at most 1"),
        (["generate", "a", "--top-k", "-1"], "--top-k"),
        (["generate", "a", "--max-tokens", "0"], "--max-tokens"),
        (["generate", "a", "--n", "65"], "1<=x<=64"),
        (["generate", "a", "--logprobs", "21"], "0<=x<=20"),
        (["generate", "a", "--seed", "-1"], "--seed"),
        (["generate", "a", "--max-tokns", "3"], "--max-tokens"),
        (["genrate", "a"], "generate"),
        (["generate", "a", "--target", "localhost"], "127.0.0.1:50051"),
        (["status", "--target", "localhost:http"], "127.0.0.1:50051"),
        (["up", "--workers", "0"], "x>=1"),
        (["up", "--kv-dtype", "int3"], "'int3'"),
        (["up", "--device-cache", "lots"], "512MiB"),
        (["up", "--port", "70000"], "65535"),
        (["up", "--http-port", "8000"], "--http-port"),
        (["up", "--host-cache", "1GB"], "512MiB"),
        (["up", "--config", "/nowhere/x.toml"], "cannot read the config file"),
        (["up", "--ready-file", "/nowhere/ready.json"], "there is no folder /nowhere"),
        (["status", "--ca", "/nowhere.pem", "--target", "127.0.0.1:1"], "cannot read the certificate"),
    ],
)
def test_a_wrong_command_line_is_one_clear_line_and_exit_code_2(
    words: list[str], expected: str, capsys: Captured
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_a_refusal_by_the_server_is_its_message_and_exit_code_1(server: FakeInference, capsys: Captured) -> None:
    message = "the prompt has 99 tokens, at most 64 are allowed; shorten it"
    server.refusals.append(rich_status(grpc.StatusCode.INVALID_ARGUMENT, message, "PromptTooLong"))
    assert main(["generate", "a", "--target", server.address]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_nobody_at_the_target_is_exit_code_1(capsys: Captured) -> None:
    assert main(["generate", "a", "--target", "127.0.0.1:1"]) == 1
    captured = capsys.readouterr()
    assert "nothing answers at 127.0.0.1:1" in captured.err
    assert "Traceback" not in captured.err


def test_a_timeout_is_exit_code_1_after_what_had_come(server: FakeInference, capsys: Captured) -> None:
    server.hold_after_first_delta = True
    assert main(["generate", "abc", "--timeout", "0.5", "--target", server.address]) == 1
    captured = capsys.readouterr()
    assert captured.out == "A\n"
    assert "timeout" in captured.err


def test_another_model_than_the_one_served_is_refused(server: FakeInference, capsys: Captured) -> None:
    assert main(["generate", "a", "--model", "other", "--target", server.address]) == 1
    assert "serves shout, not other" in capsys.readouterr().err
    assert main(["generate", "a", "--model", "shout", "--target", server.address]) == 0


def test_ctrl_c_ends_with_130_and_cancels_on_the_server(server: FakeInference) -> None:
    server.hold_after_first_delta = True
    words = [str(INFER_CLI), "generate", "abc", "--target", server.address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # The first character comes while the answer is held back: text streams, also through a pipe.
        assert process.stdout.read(1) == b"A"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert b"Traceback" not in process.stderr.read()
    assert server.ended_by_client.wait(10)


def test_a_reader_that_leaves_is_no_traceback(server: FakeInference) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [str(INFER_CLI), "generate", "abc", "--target", server.address]
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == b""


# -- status, down ----------------------------------------------------------------------------------


def test_status_as_json_has_services_models_and_tiers(server: FakeInference, capsys: Captured) -> None:
    assert main(["status", "--json", "--target", server.address]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["target"] == server.address
    assert [service["role"] for service in content["services"]] == ["tokenizer", "worker"]
    assert content["services"][1]["worker"]["tiers"][0]["hit_tokens"] == 25
    assert content["models"][0]["id"] == "shout"


def test_status_for_people_shows_queue_and_cache_without_colour_codes(server: FakeInference, capsys: Captured) -> None:
    assert main(["status", "--target", server.address]) == 0
    out = capsys.readouterr().out
    for expected in ("Services", "Models", "Queue", "Cache", "shout", "lost", "25.0 %", "8.0 KiB"):
        assert expected in out
    assert "\x1b[" not in out


def test_down_with_no_stack_says_so_and_is_done(capsys: Captured) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "no stack is running\n"


def test_down_of_a_stack_that_is_not_here_fails(capsys: Captured) -> None:
    assert main(["down", "--port", "1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


# -- chat ------------------------------------------------------------------------------------------


def test_chat_from_a_pipe_takes_each_line_as_a_turn_and_keeps_the_history(
    server: FakeInference, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    type_in(monkeypatch, "hi\n\nyou\n/reset\nnew\n/system Be kind.\nkind\n/exit\nnever\n")
    assert main(["chat", "--system", "Be brief.", "--temperature", "0", "--target", server.address]) == 0
    assert capsys.readouterr().out == "HI\nYOU\nNEW\nKIND\n"
    sent = [[(m.role, m.content) for m in request.chat.messages] for request in server.requests]
    brief, hi = ("system", "Be brief."), [("user", "hi"), ("assistant", "HI")]
    assert sent == [
        [brief, ("user", "hi")],
        [brief, *hi, ("user", "you")],
        [brief, ("user", "new")],
        [("system", "Be kind."), ("user", "kind")],
    ]
    assert server.requests[0].sampling.HasField("temperature")


def test_a_chat_turn_that_fails_is_told_and_left_out_of_the_history(
    server: FakeInference, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    server.refusals.append(rich_status(grpc.StatusCode.INVALID_ARGUMENT, "too long", "PromptTooLong"))
    type_in(monkeypatch, "one\ntwo\n")
    assert main(["chat", "--target", server.address]) == 1
    captured = capsys.readouterr()
    assert captured.out == "TWO\n"
    assert captured.err == "error: too long\n"
    assert [message.content for message in server.requests[1].chat.messages] == ["two"]


def test_an_unknown_chat_command_is_named(
    server: FakeInference, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    type_in(monkeypatch, "/rest\n/help\n")
    assert main(["chat", "--target", server.address]) == 1
    captured = capsys.readouterr()
    assert "/rest is not a command" in captured.err
    assert "/reset" in captured.out
    assert server.num_calls == 0


def test_ctrl_c_at_a_terminal_stops_the_answer_and_not_the_chat(server: FakeInference) -> None:
    server.hold_after_first_delta = True
    ours, theirs = pty.openpty()
    words = [str(INFER_CLI), "chat", "--target", server.address]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        seen = b""

        def read_until(expected: bytes) -> None:
            nonlocal seen
            while expected not in seen:
                seen += os.read(ours, 4096)
            seen = seen.partition(expected)[2]

        read_until(b"> ")
        os.write(ours, b"xyz\n")
        read_until(b"X")
        process.send_signal(signal.SIGINT)
        read_until(b"stopped")
        assert server.ended_by_client.wait(10)
        read_until(b"> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=30) == 0
    os.close(ours)
    assert server.num_calls == 1
