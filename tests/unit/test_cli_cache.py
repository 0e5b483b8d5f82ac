"""infer-cli cache against a fake front door: what it asks, what it prints where, and how it ends."""

import asyncio
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
from tiercel import AsyncClient, Client, TierFull
from tiercel.cli.main import main
from tiercel.v1 import common_pb2

INFER_CLI = Path(sys.executable).with_name("infer-cli")
Captured = pytest.CaptureFixture[str]

SERVED, OTHER = b"\xaa" * 32, b"\xbb" * 32
WORKER = "127.0.0.1:1"


def event(**content: object) -> common_pb2.ManageCacheEvent:
    return common_pb2.ManageCacheEvent(worker=WORKER, **content)  # type: ignore[arg-type]


DISK = event(
    disk=common_pb2.DiskDescription(
        disk_id=b"\x01" * 16,
        directory="/var/[bold]cache",
        capacity_bytes=8 << 30,
        index_bytes=1 << 20,
        served_namespace=SERVED,
        corrupt_records=3,
        namespaces=[
            common_pb2.DiskNamespace(
                namespace=SERVED,
                block_bytes=1024,
                records=200,
                payload_bytes=200 << 10,
                file_bytes=300 << 10,
                hits=70,
                hit_records=50,
                youngest_ns=0,
                median_age_ns=90 * 10**9,
                oldest_ns=3 * 86_400 * 10**9,
            ),
            common_pb2.DiskNamespace(namespace=OTHER, block_bytes=2048),
        ],
    )
)
PINNED = event(pinned=common_pb2.PinnedPrefix(name="cook", blocks=9, device_blocks=1, host_blocks=7, disk_blocks=8))
NO_DISK = event(no_disk=common_pb2.NoDisk(reason="it is a file"))
FAILURE = event(failure=common_pb2.CareFailure(message="the index is gone"))


@pytest.fixture
def server() -> Iterator[FakeInference]:
    with fake_stack() as service:
        yield service


@pytest.fixture(autouse=True)
def _own_state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_stats_shows_tiers_moves_disks_namespaces_and_notes(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [DISK]
    assert main(["cache", "stats", "--target", server.address]) == 0
    out = capsys.readouterr().out
    assert "! 127.0.0.1:1 disk: the directory is on the moon" in out
    for expected in ("Cache", "Moves", "3.00 GB/s", "1 corrupt", "Disks", "/var/[bold]cache", "8.0 GiB", "Namespaces"):
        assert expected in out
    (row,) = [line.split() for line in out.splitlines() if "aaaaaaaaaaaa" in line]
    assert " ".join(row[2:]) == "served 200 1.0 KiB 200 KiB 300 KiB 70 25.0 % 0 s 90 s 3.0 d"
    assert "\x1b[" not in out
    assert server.cache_requests[0].WhichOneof("action") == "describe"


def test_stats_as_json_has_bandwidths_and_everything_else(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [DISK, PINNED]
    assert main(["cache", "stats", "--json", "--target", server.address]) == 0
    content = json.loads(capsys.readouterr().out)
    (worker,) = content["workers"]
    assert [tier["tier"] for tier in worker["tiers"]] == ["device", "disk"]
    assert worker["moves"][0]["bytes_per_s"] == pytest.approx(3e9)
    assert worker["moves"][0]["failures"] == {"corrupt": 1}
    (disk,) = content["disks"]
    assert disk["corrupt_records"] == 3
    assert [namespace["is_served"] for namespace in disk["namespaces"]] == [True, False]
    assert disk["namespaces"][1]["oldest_ns"] is None


def test_a_worker_without_a_disk_is_told_once(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [event(no_disk=common_pb2.NoDisk(reason=server.tier_note))]
    assert main(["cache", "stats", "--target", server.address]) == 0
    assert capsys.readouterr().out.count(server.tier_note) == 1


def test_a_disk_that_could_not_be_asked_is_said_and_fails_the_command(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [DISK, FAILURE]
    for command in ("stats", "ls"):
        assert main(["cache", command, "--target", server.address]) == 1
        assert "! 127.0.0.1:1 disk: the index is gone" in capsys.readouterr().out


def test_ls_shows_namespaces_and_pins(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [PINNED, DISK]
    assert main(["cache", "ls", "--target", server.address]) == 0
    out = capsys.readouterr().out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("cook")]
    assert row == ["cook", WORKER, "9", "1", "7", "8"]
    assert "bbbbbbbbbbbb" in out
    server.cache_events = [DISK]
    assert main(["cache", "ls", "--target", server.address]) == 0
    assert "nothing is pinned" in capsys.readouterr().out


VERIFIED = event(verification=common_pb2.DiskVerification(records=5, bytes=5 << 20))


def test_verify_of_a_sound_disk_is_done(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [event(progress=common_pb2.CacheProgress(done_records=2, total_records=5)), VERIFIED]
    assert main(["cache", "verify", "--target", server.address]) == 0
    captured = capsys.readouterr()
    assert captured.out == "127.0.0.1:1: 5 records, 5.0 MiB read, all sound\n"
    assert captured.err == ""


def test_verify_names_what_is_wrong_with_which_and_fails(server: FakeInference, capsys: Captured) -> None:
    bad = common_pb2.BadRecord(namespace=SERVED, key=b"\x0c" * 32, fault="it ends early")
    server.cache_events = [
        event(bad_records=common_pb2.BadRecords(records=[bad])),
        event(verification=common_pb2.DiskVerification(records=5, bad_records=1, index_faults=["a slot twice"])),
    ]
    assert main(["cache", "verify", "--target", server.address]) == 1
    out = capsys.readouterr().out
    assert f"bad record {'0c' * 32} of namespace aaaaaaaaaaaa: it ends early" in out
    assert "the index contradicts itself: a slot twice" in out
    assert "2 faults" in out
    assert main(["cache", "verify", "--json", "--target", server.address]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["is_sound"] is False
    assert content["bad_records"][0]["fault"] == "it ends early"


@pytest.mark.parametrize(("events", "code"), [([NO_DISK], 1), ([FAILURE], 1), ([VERIFIED, NO_DISK], 0)])
def test_verify_needs_a_disk_that_answers(
    server: FakeInference, events: list[common_pb2.ManageCacheEvent], code: int
) -> None:
    server.cache_events = events
    assert main(["cache", "verify", "--target", server.address]) == code


def test_clear_does_not_delete_unasked(
    server: FakeInference, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"y\n")))
    assert main(["cache", "clear", "--target", server.address]) == 2
    assert "--yes" in capsys.readouterr().err
    assert server.cache_requests == []


@pytest.mark.parametrize("flags", [[], ["--all"]])
def test_clear_says_what_it_deleted(server: FakeInference, capsys: Captured, flags: list[str]) -> None:
    clearing = event(clearing=common_pb2.DiskClearing(records=12))
    server.cache_events = [event(unpinned=common_pb2.Unpinned(name="cook")), clearing]
    assert main(["cache", "clear", "--yes", *flags, "--target", server.address]) == 0
    assert capsys.readouterr().out == "127.0.0.1:1: 12 records deleted from disk\npinned no longer: cook\n"
    (request,) = server.cache_requests
    assert request.clear.all_namespaces == bool(flags)


def write(folder: Path, *lines: str) -> str:
    (folder / "prefixes").write_text("\n".join(lines))
    return str(folder / "prefixes")


def test_warm_asks_for_one_token_of_each_and_sums_up(server: FakeInference, capsys: Captured, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "abcdef", "cache_salt": "s"}', '{"token_ids": [104, 105, 106, 107]}')
    assert main(["cache", "warm", file, "--json", "--target", server.address]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "target": server.address,
        "prefixes": 2,
        "prompt_tokens": 10,
        "cached_tokens": {"device": 4, "host": 2, "disk": 0},
        "computed_tokens": 4,
        "is_settled": True,
        "refused": [],
    }
    assert "has no host tier" in captured.err
    assert "the directory is on the moon" in captured.err
    requests = sorted(server.requests, key=lambda request: request.cache_salt)
    assert [request.cache_salt for request in requests] == ["", "s"]
    for request in requests:
        assert request.keep_prefix
        assert request.pin_name == ""
        assert request.sampling.max_tokens == 1
    assert main(["cache", "warm", file, "--target", server.address]) == 0
    assert capsys.readouterr().out == (
        "2 prefixes, 10 tokens: 6 were cached (4 on the device, 2 in host memory, 0 on disk), 4 computed\n"
    )


def test_a_bad_line_keeps_everything_from_being_sent(server: FakeInference, capsys: Captured, tmp_path: Path) -> None:
    file = write(tmp_path, '{"text": "good"}', "bad")
    assert main(["cache", "warm", file, "--target", server.address]) == 2
    assert "line 2: " in capsys.readouterr().err
    assert server.requests == []


def test_a_refused_prefix_is_named_by_line_and_the_others_go_on(
    server: FakeInference, capsys: Captured, tmp_path: Path
) -> None:
    server.refusals.append(rich_status(grpc.StatusCode.INVALID_ARGUMENT, "too long", "PromptTooLong"))
    file = write(tmp_path, "", "one", "two", "three")
    assert main(["cache", "warm", file, "--json", "--target", server.address]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["prefixes"] == 2
    (refused,) = content["refused"]
    assert refused["line"] in (2, 3, 4)
    assert refused["message"] == "too long"


def test_pin_sends_the_name_with_every_prefix(server: FakeInference, tmp_path: Path) -> None:
    assert main(["cache", "pin", "cook", write(tmp_path, "one", "two"), "--target", server.address]) == 0
    assert [(request.text, request.pin_name) for request in server.requests] == [("one", "cook"), ("two", "cook")]


def test_pin_without_room_pins_nothing(server: FakeInference, capsys: Captured, tmp_path: Path) -> None:
    server.refusals.append(rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "Unpin one", "TierFull"))
    assert main(["cache", "pin", "cook", write(tmp_path, "", "one"), "--target", server.address]) == 1
    assert "line 2: Unpin one; nothing was pinned" in capsys.readouterr().err
    assert server.cache_requests[-1].unpin.name == "cook"


def test_what_is_still_on_its_way_down_is_said(server: FakeInference, capsys: Captured, tmp_path: Path) -> None:
    server.cache_events = [event(settling=common_pb2.CacheSettling(is_settled=each)) for each in (True, False, True)]
    assert main(["cache", "warm", write(tmp_path, "one"), "--target", server.address]) == 0
    assert server.cache_requests[-1].settle.timeout_ns == 30 * 10**9
    assert "warning: some of it is still on its way" in capsys.readouterr().err


def test_a_name_is_pinned_once(server: FakeInference, capsys: Captured, tmp_path: Path) -> None:
    server.cache_events = [PINNED]
    assert main(["cache", "pin", "cook", write(tmp_path, "one"), "--target", server.address]) == 1
    assert "'cook' is pinned already" in capsys.readouterr().err
    assert server.requests == []


def test_pin_remove(server: FakeInference, capsys: Captured) -> None:
    server.cache_events = [PINNED, event(unpinned=common_pb2.Unpinned(name="cook"))]
    assert main(["cache", "pin", "cook", "--remove", "--target", server.address]) == 0
    assert capsys.readouterr().out == "cook is pinned no longer\n"
    server.cache_events = [PINNED]
    assert main(["cache", "pin", "cok", "--remove", "--target", server.address]) == 1
    assert "'cok' is not pinned; pinned are: cook" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["pin", "cook"], ["pin", "cook", "file", "--remove"], ["warm"], ["wram", "x"]])
def test_a_wrong_command_line_is_exit_code_2(server: FakeInference, words: list[str]) -> None:
    assert main(["cache", *words, "--target", server.address]) == 2


def test_no_room_to_pin_is_an_error_of_its_own_and_not_tried_again(server: FakeInference) -> None:
    server.refusals.append(rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "Unpin one", "TierFull"))
    with Client(server.address) as client, pytest.raises(TierFull, match="Unpin one"):
        client.generate("a", pin_name="cook")
    assert server.num_calls == 1


async def ask_for_all(server: FakeInference) -> None:
    seen: list[tuple[str, int, int]] = []
    async with AsyncClient(server.address) as client:
        report = await client.cache()
        assert (report.disks[0].directory, report.pinned[0].name) == ("/var/[bold]cache", "cook")
        server.cache_events = [event(progress=common_pb2.CacheProgress(done_records=2, total_records=5)), VERIFIED]
        assert (await client.verify_cache(lambda *each: seen.append(each))).is_sound
        assert seen == [(WORKER, 2, 5)]
        assert (await client.clear_cache(all_namespaces=True)).disks == ()
        assert not await client.unpin("cook")
    assert [request.WhichOneof("action") for request in server.cache_requests] == [
        "describe",
        "verify",
        "clear",
        "unpin",
    ]


def test_the_asyncio_client_asks_the_same(server: FakeInference) -> None:
    server.cache_events = [DISK, PINNED]
    asyncio.run(ask_for_all(server))


class Terminal:
    """A command at a terminal: what it shows, and what is typed there."""

    def __init__(self, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [INFER_CLI, "cache", *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = b""

    def read_until(self, expected: bytes) -> None:
        while expected not in self.seen:
            self.seen += os.read(self._ours, 4096)

    def read_all(self) -> bytes:
        """To the end of the process."""
        while True:
            try:
                self.seen += os.read(self._ours, 4096)
            except OSError:  # EIO: nobody has the other side any more
                return self.seen

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def end(self) -> int:
        try:
            return self.process.wait(timeout=30)
        finally:
            os.close(self._ours)


@pytest.mark.parametrize(("typed", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_at_a_terminal_clear_says_what_would_go_and_asks(server: FakeInference, typed: bytes, code: int) -> None:
    server.cache_events = [DISK, PINNED]
    terminal = Terminal("clear", "--target", server.address)
    terminal.read_until(b"Delete 200 records (200 KiB) in /var/[bold]cache, all blocks in memory and 1 pins?")
    assert [request.WhichOneof("action") for request in server.cache_requests] == ["describe"]
    terminal.type(typed)
    assert (b"nothing was deleted" in terminal.read_all()) == bool(code)
    assert terminal.end() == code
    assert (server.cache_requests[-1].WhichOneof("action") == "clear") == (not code)


def test_at_a_terminal_verify_shows_how_far_it_is(server: FakeInference) -> None:
    server.cache_events = [event(progress=common_pb2.CacheProgress(done_records=2, total_records=5)), VERIFIED]
    terminal = Terminal("verify", "--target", server.address)
    terminal.read_until(b"verifying the disk of 127.0.0.1:1")
    terminal.read_until(b"2/5")
    assert b"all sound" in terminal.read_all()
    assert terminal.end() == 0


def test_ctrl_c_ends_warming_and_cancels_on_the_server(server: FakeInference, tmp_path: Path) -> None:
    server.hold_after_first_delta = True
    terminal = Terminal("warm", write(tmp_path, "one", "two"), "--target", server.address)
    terminal.read_until(b"0/2")
    assert server.first_delta_sent.wait(30)
    terminal.process.send_signal(signal.SIGINT)
    assert b"Traceback" not in terminal.read_all()
    assert terminal.end() == 130
    assert server.ended_by_client.wait(10)
