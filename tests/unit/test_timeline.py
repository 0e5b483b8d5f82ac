"""What the scheduler writes down of a request's time."""

from engine.scheduling.request import RequestTimes
from engine.scheduling.timeline import Phase, Timeline
from tests.unit.scheduling_harness import Harness
from tests.unit.tiering_harness import FETCH, MS, TieringHarness


def times_of(harness: Harness, request_id: str) -> RequestTimes:
    times = harness.finished(request_id)[-1].times
    assert times is not None
    return times


def phases(times: RequestTimes) -> list[tuple[Phase, int, int]]:
    return [(each.phase, each.start_ns, each.end_ns) for each in times.timeline.stretches]


def test_a_prompt_in_chunks_is_a_stretch_per_chunk_and_decoding_is_none() -> None:
    harness = Harness(max_batched_tokens=8)
    harness.now_ns = 10
    harness.submit("a", 20, max_tokens=3)
    for now_ns in (15, 20, 30, 40, 50):
        harness.now_ns = now_ns
        harness.plan()
        harness.now_ns += 2
        harness.apply()
    times = times_of(harness, "a")
    queue, *chunks = times.timeline.stretches
    assert (queue.phase, queue.start_ns, queue.end_ns, queue.num_ahead) == (Phase.QUEUE, 10, 15, 0)
    assert [(each.start_ns, each.end_ns) for each in chunks] == [(15, 17), (17, 22), (22, 32)]
    assert [(each.first_token, each.num_tokens) for each in chunks] == [(0, 8), (8, 8), (16, 4)]
    assert (times.first_token_ns, times.end_ns, times.num_tokens) == (32, 52, 3)


def test_a_preempted_choice_waits_and_computes_again_within_its_decoding() -> None:
    harness = Harness(num_blocks=6, max_model_tokens=24, headroom_blocks_per_sequence=0, prefix_cache=False)
    harness.submit("first", 9, max_tokens=12)
    harness.submit("second", 9, max_tokens=12)
    harness.run()
    times = times_of(harness, "second")
    assert times.preemptions == 1
    (preemption,) = times.timeline.preemptions
    assert times.first_token_ns is not None
    assert preemption.at_ns > times.first_token_ns
    assert preemption.num_computed >= 9
    within = [each for each in times.timeline.stretches if each.start_ns > times.first_token_ns]
    assert [each.phase for each in within] == [Phase.QUEUE, Phase.PREFILL]
    assert within[1].num_tokens == preemption.num_computed + 1


def test_a_refused_request_tells_where_it_was() -> None:
    harness = Harness(max_seqs=1)
    harness.submit("runs", 4, max_tokens=20)
    harness.step()
    harness.submit("waits", 4, deadline_ns=harness.now_ns + 100)
    harness.now_ns += 150
    harness.plan()
    (refused,) = harness.refused("waits")
    assert phases(refused.times) == [(Phase.QUEUE, 0, 150)]
    assert refused.times.timeline.stretches[0].num_ahead == 0


def test_a_cancelled_request_gives_its_times_to_who_cancels() -> None:
    harness = Harness()
    harness.submit("a", 4)
    harness.now_ns = 7
    times = harness.scheduler.cancel("a", harness.now_ns)
    assert times is not None
    assert phases(times) == [(Phase.QUEUE, 0, 7)]
    assert harness.scheduler.cancel("a", harness.now_ns) is None


def test_a_fetch_and_a_load_say_what_they_brought() -> None:
    harness = TieringHarness(plans_in_flight=1, always_bring=True)
    request = harness.submit("seed", 33)
    harness.run()
    harness.scheduler.write_through(harness.scheduler.block_keys(request))
    harness.settle()
    harness.lose_worker()
    harness.events.clear()
    harness.submit("seed", 33)
    (fetch, *_) = [each for each in harness.take() if each.kind is FETCH]
    assert fetch.stretch == 2
    harness.now_ns += 3 * MS
    for transfer in harness.in_flight(FETCH):
        harness.finish(transfer, copy_ns=1 * MS)
    harness.run()
    times = times_of(harness, "seed")
    by_phase = {each.phase: each for each in times.timeline.stretches}
    fetched, loaded = by_phase[Phase.FETCH], by_phase[Phase.LOAD]
    assert (fetched.num_blocks, fetched.num_wanted_blocks) == (8, 8)
    assert fetched.end_ns - fetched.start_ns >= 3 * MS
    assert fetched.copy_ns >= 1 * MS
    assert (loaded.num_blocks, loaded.num_wanted_blocks) == (8, 8)
    assert not fetched.is_abandoned
    assert by_phase[Phase.PREFILL].first_token == 32


def test_a_very_long_story_is_told_with_longer_stretches() -> None:
    timeline = Timeline()
    for at in range(0, 4000, 2):
        timeline.end(timeline.begin(Phase.PREFILL, 0, at), at + 2)
    assert len(timeline.stretches) == 256
    assert timeline.stretches[-1].end_ns == 4000
