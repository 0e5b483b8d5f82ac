"""What must hold of every request's timeline once it is over."""

from engine.scheduling.request import RequestTimes


def assert_accounted_for(times: RequestTimes) -> None:
    """Until the first token the stretches follow one another without a gap; nothing begins before or ends after."""
    submitted_ns = times.end_ns - times.queue_ns - times.prefill_ns - times.decode_ns
    first_ns = times.end_ns if times.first_token_ns is None else times.first_token_ns
    at_ns = submitted_ns
    for stretch in times.timeline.stretches:
        assert submitted_ns <= stretch.start_ns <= stretch.end_ns <= times.end_ns, stretch
        if stretch.start_ns < first_ns:
            assert stretch.start_ns == at_ns, f"a gap before {stretch}"
            at_ns = stretch.end_ns
    assert at_ns == first_ns
    numbers = [stretch.number for stretch in times.timeline.stretches]
    assert numbers == sorted(set(numbers))
    assert len(times.timeline.preemptions) == times.preemptions
