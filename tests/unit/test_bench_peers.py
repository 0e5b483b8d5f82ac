"""Peers of the benchmarks: the protocol to their processes, which there are, and the figures that come of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from bench.checkpoints import Shape, checkpoint
from bench.compare import workloads_of
from bench.compare_table import as_object, rivals, standing
from bench.peer_process import PeerFailed, ProcessPeer
from bench.peers import LIBRARIES, PEERS, PeerMissing, chosen, make_peer, share_of
from bench.records import RequestRecord, Round, summarize
from bench.stack_cost import ENGINE_RUNNER
from bench.workloads import one_stream, prefill, shared_prefix, throughput

FAKE = Path(__file__).parents[1] / "fakes" / "peer_runner.py"
BYTE_WEIGHTS = ("openvino-genai int8", "llama.cpp q8_0")
TINY = Shape("tiny", "llama", 64, 2, 4, 2, 16, 128, 256, 10_000.0, 1024)


@contextmanager
def started(variant: str) -> Iterator[ProcessPeer]:
    peer = ProcessPeer("fake", Path(sys.executable), FAKE, variant, Path("model"))
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


def test_a_runner_answers_workload_after_workload() -> None:
    with started("sound") as peer:
        assert peer.settings == "1.0: sound, model"
        for workload in (throughput(256, 1, 4), one_stream(256, 2), shared_prefix(256, 3)):
            records = peer.run(workload)
            assert [record.num_tokens for record in records] == [request.max_tokens for request in workload.requests]
            assert all(record.sent_s <= record.first_s <= record.last_s for record in records)
            together = all(later.sent_s < first.last_s for first, later in pairwise(records))
            assert together == workload.at_once or len(records) == 1


def test_a_run_that_fails_is_reported_and_the_next_one_goes_on() -> None:
    with started("refuses") as peer:
        with pytest.raises(PeerFailed, match="fake: ValueError: one request at a time"):
            peer.run(throughput(256, 1, 4))
        assert peer.run(one_stream(256, 2))[0].num_tokens == 128


def test_a_process_that_dies_is_reported_with_its_last_words() -> None:
    with started("dies") as peer:
        with pytest.raises(PeerFailed, match=r"ended with exit code 3; its last lines:\n(.*\n)*out of luck"):
            peer.run(one_stream(256, 2))
        with pytest.raises(PeerFailed, match="ended"):
            peer.run(one_stream(256, 3))


def test_a_peer_that_cannot_load_says_why() -> None:
    peer = ProcessPeer("fake", Path(sys.executable), FAKE, "no-model", Path("model"))
    with pytest.raises(PeerFailed, match="fake: FileNotFoundError: model"):
        peer.start()


def test_tokens_that_are_missing_are_no_figure() -> None:
    workload = one_stream(256, 2)
    with started("forgets") as peer, pytest.raises(RuntimeError, match="asked for 128 tokens, got 127"):
        summarize(workload, peer.run(workload))


def test_the_engine_alone_serves_what_is_asked(tmp_path: Path) -> None:
    peer = ProcessPeer("engine", Path(sys.executable), ENGINE_RUNNER, "fp8", checkpoint(TINY, tmp_path))
    peer.start()
    try:
        for workload in (throughput(256, 1, 6), shared_prefix(256, 3, num_requests=3, shared_tokens=100)):
            summarize(workload, peer.run(workload))
    finally:
        peer.stop()


def test_figures_follow_from_the_records() -> None:
    workload = shared_prefix(256, 1, num_requests=3, shared_tokens=90, own_tokens=10, max_tokens=3)
    records = [RequestRecord(0, 8, 9, 3), RequestRecord(10, 11, 13, 3), RequestRecord(14, 17, 20, 3)]
    outcome = summarize(workload, records)
    assert outcome.output_tokens_per_s == pytest.approx(9 / 20)
    assert outcome.prefill_tokens_per_s == pytest.approx(100 / 3)
    assert (outcome.ttft_s, outcome.first_ttft_s, outcome.rest_ttft_s) == (3, 8, 2)
    assert outcome.tpot_s == pytest.approx(1)
    alone = summarize(prefill(256, 1, 30), [RequestRecord(1, 3, 3, 1)])
    assert (alone.tpot_s, alone.rest_ttft_s, alone.prefill_tokens_per_s) == (None, None, 15)


def test_requests_of_w4_share_their_beginning_and_nothing_else() -> None:
    requests = shared_prefix(50_000, 1).requests
    assert len(requests) == 16
    assert {len(request.prompt_ids) for request in requests} == {2112}
    assert len({request.prompt_ids[:2048] for request in requests}) == 1
    assert len({request.prompt_ids[2048:2056] for request in requests}) == 16


def test_no_prompt_of_a_run_is_the_beginning_of_another() -> None:
    """A prefix cache would find it, and its peer look faster than it is."""
    beginnings = [
        request.prompt_ids[:16]
        for number in range(3)
        for workload in workloads_of(("W1", "W2", "W3", "W4"), 50_000, 1000 * number + 7, 32)
        for request in (workload.requests[:1] if workload.name == "W4" else workload.requests)
    ]
    assert len(set(beginnings)) == len(beginnings)


def outcome_of(value: float) -> list[Round]:
    return [Round(value, value, value, value, value, value)]


def test_ratios_are_above_one_where_we_are_faster() -> None:
    results = {(name, "W1"): outcome_of(value) for name, value in (("tiercel", 90), ("a", 100), ("b", 50))}
    results |= {(name, "W2"): outcome_of(value) for name, value in (("tiercel", 2), ("a", 3), ("b", 4))}
    more = standing(results, "tiercel", ["a", "b"], "W1 output tok/s")
    less = standing(results, "tiercel", ["a", "b"], "W2 TPOT ms")
    assert more is not None
    assert less is not None
    assert (more.ratio, more.peer) == (0.9, "a")
    assert (less.ratio, less.peer) == (1.5, "a")
    assert standing(results, "tiercel", ["a"], "W4 first TTFT ms") is None
    times_as_fast = as_object(results)["times_as_fast"]
    assert isinstance(times_as_fast, dict)
    assert times_as_fast["tiercel"]["W1 output tok/s"] == {"ratio": 0.9, "peer": "a"}


def test_weights_of_a_byte_are_rivals_of_the_same_alone() -> None:
    assert rivals("tiercel", PEERS) == [name for name in LIBRARIES if name not in BYTE_WEIGHTS]
    assert rivals("tiercel int8", PEERS) == list(LIBRARIES)


def test_peers_are_chosen_by_name_or_by_library() -> None:
    assert chosen(("tiercel",)) == ["tiercel"]
    assert chosen(("vllm", "tiercel int8")) == ["tiercel int8", "vllm bf16", "vllm fp8 cache"]
    assert chosen(("openvino-genai bf16",)) == ["openvino-genai bf16"]
    with pytest.raises(KeyError):
        chosen(("sglang",))


@pytest.mark.parametrize("name", [name for name, library in LIBRARIES.items() if library.environment])
def test_a_peer_without_its_environment_is_missing_and_says_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(PeerMissing, match=rf"python -m bench\.peer_venvs {tmp_path} --only \w+"):
        make_peer(name, tmp_path / "checkpoint", tmp_path, ())


def test_slow_peers_get_the_beginning_of_the_requests_at_once() -> None:
    at_once, in_turn = throughput(256, 1), shared_prefix(256, 1)
    for name in PEERS:
        part = share_of(name, at_once)
        assert part is not None
        assert part.requests == at_once.requests[: len(part.requests)]
        assert len(part.requests) == 32 or name in LIBRARIES
        assert share_of(name, in_turn) in (None, in_turn)
