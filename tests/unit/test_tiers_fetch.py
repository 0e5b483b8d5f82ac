"""From disk to host: fetches that start at submit, and how long a request waits for them."""

from typing import Any

import pytest

from engine.scheduling.plan import TransferFailure
from tests.unit.scheduling_harness import expected, make_request, rows
from tests.unit.tiering_harness import FETCH, LOAD, MS, PERSIST, SPILL, TieringHarness

PROMPT = list(range(100, 141))
"""Ten blocks of four, and one token. Computing a token is assumed to take half a millisecond."""
PATIENCE_NS = int(0.1 * 41 * 0.5 * MS)


def with_prompt_on_disk(**limits: Any) -> TieringHarness:
    harness = TieringHarness(**limits)
    harness.to_disk(PROMPT)
    return harness


def test_a_fetch_starts_at_submit_and_the_load_with_its_first_chunk() -> None:
    harness = with_prompt_on_disk()
    request = harness.submit("a", PROMPT)
    fetches = harness.take()
    assert {transfer.kind for transfer in fetches} == {FETCH}
    assert [key for transfer in fetches for key in transfer.keys] == harness.keys(PROMPT)
    assert harness.plan() is None
    for transfer in fetches:
        harness.finish(transfer)
        assert [load.keys for load in harness.take()] == [transfer.keys]
    assert harness.plan() is None
    assert not harness.started("a"), "nothing has been planned for it"
    for transfer in harness.in_flight(LOAD):
        harness.finish(transfer)
    plan = harness.step()
    assert rows(plan) == [(plan.work.slots[0], 40, 1, True)]
    assert harness.cached("a") == (0, 0, 40)
    harness.run()
    harness.assert_as_undisturbed(request)


def test_other_requests_do_not_wait_for_it() -> None:
    harness = with_prompt_on_disk(max_skips=0)
    harness.submit("slow", PROMPT)
    request = harness.submit("other", 9)
    harness.take()
    plan = harness.step()
    assert [new.request_id for new in plan.new_sequences] == ["other"]
    while not harness.finished("other"):
        harness.step()
    harness.assert_as_undisturbed(request)
    harness.run()
    assert harness.finished("slow")


def test_requests_for_one_prompt_share_one_fetch_and_one_load() -> None:
    harness = with_prompt_on_disk()
    requests = [harness.submit(name, PROMPT) for name in "abc"]
    harness.run()
    harness.assert_as_undisturbed(*requests)
    for kind in (FETCH, LOAD):
        keys = [key for transfer in harness.sent if transfer.kind is kind for key in transfer.keys]
        assert sorted(keys) == sorted(harness.keys(PROMPT))


@pytest.mark.parametrize("failure", TransferFailure)
def test_a_failed_fetch_is_a_miss_from_the_failed_block_on(failure: TransferFailure) -> None:
    harness = with_prompt_on_disk()
    request = harness.submit("a", PROMPT)
    first, second, third = harness.take()
    harness.finish(second, 1, failure)
    harness.finish(first)
    assert second.keys[1] not in harness.mirror
    harness.plan()
    for transfer in harness.in_flight(LOAD):
        harness.finish(transfer)
    plan = harness.step()
    assert rows(plan)[0][1:3] == (5 * 4, 41 - 5 * 4)
    assert harness.cached("a") == (0, 0, 20)
    harness.finish(third)
    harness.run()
    harness.assert_as_undisturbed(request)
    assert sum(second.keys[1] in transfer.keys for transfer in harness.sent if transfer.kind is FETCH) == 1


def test_waiting_ends_when_computing_has_become_cheaper() -> None:
    harness = with_prompt_on_disk()
    request = harness.submit("a", PROMPT)
    harness.now_ns += 5 * MS
    assert harness.plan() is None
    assert harness.scheduler.next_deadline_ns() == harness.now_ns + PATIENCE_NS, (
        "it counts while nothing else is waited for"
    )
    harness.now_ns += PATIENCE_NS
    plan = harness.step()
    assert rows(plan)[0][1:3] == (0, 41)
    assert harness.cached("a") == (0, 0, 0)
    assert harness.tiers.num_abandoned_fetches == 1
    num_used = harness.tiers.host.num_used
    harness.run()
    harness.assert_as_undisturbed(request)
    harness.settle()
    assert harness.tiers.host.num_used == num_used + 10, "what comes later is kept"
    times = harness.finished("a")[0].times
    assert times is not None
    assert times.fetch_ns == 5 * MS + PATIENCE_NS
    assert times.fetch_ns <= times.queue_ns


def test_what_has_arrived_prolongs_the_wait() -> None:
    harness = with_prompt_on_disk()
    harness.submit("a", PROMPT)
    harness.plan()
    first = harness.in_flight(FETCH)[0]
    deadline_ns = harness.scheduler.next_deadline_ns()
    assert deadline_ns is not None
    harness.now_ns += 1 * MS
    harness.finish(first)
    prolonged_ns = harness.scheduler.next_deadline_ns()
    assert prolonged_ns is not None
    assert deadline_ns < prolonged_ns <= deadline_ns + int(len(first.keys) * 4 * 0.5 * MS)
    harness.now_ns = prolonged_ns
    harness.plan()
    for transfer in harness.in_flight(LOAD):
        harness.finish(transfer)
    assert rows(harness.step())[0][1] == len(first.keys) * 4, "it is used"


def test_the_wait_does_not_begin_while_there_is_no_slot() -> None:
    harness = with_prompt_on_disk(max_seqs=1)
    harness.submit("running", 5, max_tokens=20)
    harness.step()
    harness.submit("a", PROMPT)
    harness.step()
    assert harness.scheduler.next_deadline_ns() is None
    harness.run()
    assert harness.cached("a") == (0, 0, 40)


@pytest.mark.parametrize("block_ms", [0.01, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 50.0])
@pytest.mark.parametrize("is_known", [False, True])
def test_whatever_the_disk_does_the_first_token_is_hardly_later_than_without_it(
    block_ms: float, is_known: bool
) -> None:
    """Steps take half a millisecond per token, as is assumed; fetches are carried out one block after the other."""
    harness = TieringHarness(num_blocks=256, max_model_tokens=600, max_batched_tokens=600, num_host_slots=300)
    prompts = [list(range(base, base + 401)) for base in (1000, 5000)]
    harness.to_disk(*prompts)
    for number, prompt in enumerate(prompts[0 if is_known else 1 :]):
        harness.submit(f"r{number}", prompt, max_tokens=1)
        started_ns = harness.now_ns
        disk_ns = harness.now_ns
        while not harness.finished(f"r{number}"):
            while harness.plan() is not None:
                pass
            for transfer in [*harness.in_flight(LOAD), *harness.in_flight(SPILL), *harness.in_flight(PERSIST)]:
                harness.finish(transfer)
            fetches = harness.in_flight(FETCH)
            if harness.results:
                harness.now_ns += int(sum(harness.plans[-1].work.num_tokens) * 0.5 * MS)
                harness.apply()
                continue
            deadline_ns = harness.scheduler.next_deadline_ns()
            if not fetches:
                continue
            copy_ns = int(len(fetches[0].keys) * block_ms * MS)
            done_ns = max(disk_ns, started_ns) + copy_ns
            if deadline_ns is not None and deadline_ns < done_ns:
                harness.now_ns = deadline_ns
            else:
                harness.now_ns = disk_ns = done_ns
                harness.finish(fetches[0], copy_ns=copy_ns)
        ttft_ns = harness.now_ns - started_ns
        assert ttft_ns <= 1.1 * 401 * 0.5 * MS
        if block_ms <= 0.1:
            assert ttft_ns <= 0.1 * 401 * 0.5 * MS, "a fast disk is used"


def test_a_disk_that_proved_slow_is_left_alone_for_a_while() -> None:
    harness = TieringHarness()
    other = list(range(300, 341))
    harness.to_disk(PROMPT, other)
    harness.submit("a", PROMPT)
    for transfer in harness.take():
        harness.finish(transfer, copy_ns=1_000 * MS)
    harness.run()
    harness.sent.clear()
    harness.submit("b", other)
    harness.run()
    assert not any(transfer.kind is FETCH for transfer in harness.sent)
    harness.lose_worker()
    harness.now_ns += 2 * harness.config.measurement_lifetime_ns
    harness.submit("c", other)
    assert any(transfer.kind is FETCH for transfer in harness.take())


def test_short_runs_are_computed() -> None:
    harness = TieringHarness(min_fetch_blocks=3)
    harness.to_disk(PROMPT[:9])
    harness.submit("a", PROMPT)
    assert not harness.take()
    harness.run()
    assert harness.cached("a") == (0, 0, 0)


def test_short_runs_are_brought_where_everything_is() -> None:
    harness = TieringHarness(min_fetch_blocks=3, always_bring=True)
    harness.to_disk(PROMPT[:9])
    harness.submit("a", PROMPT)
    harness.run()
    assert harness.cached("a") == (0, 0, 8)


def test_a_wrong_mirror_costs_one_failed_fetch() -> None:
    harness = with_prompt_on_disk()
    for key in harness.keys(PROMPT)[3:]:
        harness.evict_from_disk(key, is_told=False)
    request = harness.submit("a", PROMPT)
    harness.run()
    assert harness.cached("a") == (0, 0, 12)
    harness.assert_as_undisturbed(request)


def test_what_the_worker_says_of_its_disk_is_believed() -> None:
    harness = with_prompt_on_disk()
    keys = harness.keys(PROMPT)
    harness.evict_from_disk(keys[4])
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).disk == 16
    harness.tell_stored(keys)
    harness.tell_stored(keys)
    assert harness.scheduler.prefix_hits(make_request("x", PROMPT)).disk == 40


def test_a_cancelled_request_leaves_no_wait_and_no_unsent_fetch() -> None:
    harness = with_prompt_on_disk(fetch_budget_bytes=1)
    harness.submit("a", PROMPT)
    harness.plan()
    assert len(harness.in_flight(FETCH)) == 1
    harness.cancel("a")
    assert harness.scheduler.next_deadline_ns() is None
    harness.settle()
    assert sum(transfer.kind is FETCH for transfer in harness.sent) == 1
    harness.assert_empty()


def test_a_budget_limits_what_is_in_flight() -> None:
    harness = with_prompt_on_disk(fetch_budget_bytes=3 << 16, num_host_slots=30)
    request = harness.submit("a", PROMPT)
    for _ in range(4):
        harness.take()
        assert sum(len(transfer.keys) for transfer in harness.in_flight(FETCH)) <= 3
        harness.finish(harness.in_flight(FETCH)[0])
    harness.run()
    assert harness.cached("a") == (0, 0, 40)
    harness.assert_as_undisturbed(request)


def test_a_lost_session_voids_fetches_and_starts_them_anew() -> None:
    harness = with_prompt_on_disk()
    request = harness.submit("a", PROMPT)
    harness.plan()
    harness.lose_worker()
    assert {transfer.kind for transfer in harness.take()} == {FETCH}
    harness.run()
    assert harness.cached("a") == (0, 0, 40)
    harness.assert_as_undisturbed(request)


def test_two_workers_share_what_one_of_them_stored() -> None:
    one = TieringHarness()
    other = TieringHarness(disk=one.disk, mirror=one.mirror)
    one.serve("a", PROMPT)
    one.scheduler.write_through(one.keys(PROMPT))
    one.settle()
    request = other.submit("a", PROMPT)
    other.run()
    assert other.cached("a") == (0, 0, 40)
    assert other.tokens("a") == expected(request, other.config.max_model_tokens)


def test_tenants_with_salts_share_nothing() -> None:
    harness = with_prompt_on_disk()
    harness.to_disk(PROMPT, cache_salt="one")
    for salt in ("one", "two"):
        harness.submit(salt, PROMPT, cache_salt=salt)
        harness.run()
    assert harness.cached("one") == (0, 0, 40)
    assert harness.cached("two") == (0, 0, 0)


def test_a_prompt_that_is_to_be_scored_is_computed() -> None:
    harness = with_prompt_on_disk()
    harness.submit("a", PROMPT, prompt_logprobs=0)
    assert not harness.take()
    harness.run()
    assert harness.cached("a") == (0, 0, 0)
