"""Requests that ask for more than an answer: that their prompt is kept below the device, or pinned."""

import pytest

from engine.errors import InvalidRequest, TierFull
from engine.scheduling.figures import PinFigures
from engine.scheduling.plan import TierEvents
from tests.unit.tiering_harness import TieringHarness

PROMPT = list(range(1000, 1042))
"""Ten blocks of four and two tokens more."""
OTHER = list(range(2000, 2042))


def test_a_kept_prompt_goes_to_host_and_disk_as_it_is_computed() -> None:
    harness = TieringHarness(spill_ahead_fraction=0.0, persist_ahead_fraction=0.0)
    harness.serve("kept", PROMPT, keep_prefix=True, max_tokens=9)
    assert len(harness.mirror) == 10, "the prompt's blocks, and none of the answer's"
    assert all(key in harness.mirror for key in harness.keys(PROMPT))
    assert harness.tiers.host.num_used == 10


def test_a_prompt_that_nobody_keeps_stays_on_the_device() -> None:
    harness = TieringHarness(spill_ahead_fraction=0.0, persist_ahead_fraction=0.0)
    harness.serve("plain", PROMPT)
    assert len(harness.mirror) == harness.tiers.host.num_used == 0


def test_a_kept_prompt_that_was_computed_before_goes_down_too() -> None:
    harness = TieringHarness(spill_ahead_fraction=0.0, persist_ahead_fraction=0.0)
    harness.serve("plain", PROMPT)
    harness.serve("kept", PROMPT, keep_prefix=True)
    assert harness.cached("kept")[0] == 40
    assert len(harness.mirror) == 10


def test_without_a_host_tier_there_is_nothing_to_keep() -> None:
    harness = TieringHarness(num_host_slots=0, has_disk=False)
    harness.serve("kept", PROMPT, keep_prefix=True)
    with pytest.raises(TierFull, match="there is no host tier"):
        harness.submit("pinned", PROMPT, pin_name="a")
    assert harness.scheduler.is_idle


def test_a_pin_name_gathers_the_prompts_of_its_requests() -> None:
    harness = TieringHarness(num_host_slots=64)
    harness.serve("first", PROMPT, pin_name="both")
    harness.serve("second", OTHER, pin_name="both")
    assert harness.scheduler.pins.names == ["both"]
    assert harness.scheduler.pins.figures() == [PinFigures("both", 20, 20, 20, 20)]
    assert harness.scheduler.pins.keys_by_name()["both"] == (*harness.keys(PROMPT), *harness.keys(OTHER))


def test_what_is_pinned_comes_to_the_host_even_if_it_is_on_disk() -> None:
    harness = TieringHarness(num_host_slots=64, spill_ahead_fraction=0.0, persist_ahead_fraction=0.0)
    harness.serve("plain", PROMPT)
    # As another worker would have stored them.
    harness.mirror.add(harness.keys(PROMPT))
    harness.serve("pinned", PROMPT, pin_name="a")
    assert harness.scheduler.pins.figures() == [PinFigures("a", 10, 10, 10, 10)]


def test_without_room_the_request_is_refused_and_what_was_pinned_stays() -> None:
    harness = TieringHarness(num_host_slots=30)
    harness.serve("first", PROMPT, pin_name="a")
    with pytest.raises(TierFull, match=r"takes 20 blocks, but 0 of the 15 .* Unpin one"):
        harness.submit("second", OTHER, pin_name="a")
    assert harness.scheduler.is_idle
    assert [pin.num_blocks for pin in harness.scheduler.pins.figures()] == [10]


def test_a_prompt_without_a_full_block_cannot_be_pinned() -> None:
    harness = TieringHarness()
    with pytest.raises(InvalidRequest, match="has 3 tokens, which fill no block of 4") as refused:
        harness.submit("short", PROMPT[:3], pin_name="a")
    assert refused.value.field == "pin_name"
    assert harness.scheduler.pins.names == []


def test_what_the_disk_evicts_is_counted() -> None:
    harness = TieringHarness()
    harness.serve("kept", PROMPT, keep_prefix=True)
    keys = harness.keys(PROMPT)
    harness.scheduler.apply_tier_events(TierEvents(stored=[], evicted=keys[:3], corrupt=keys[3:4]))
    assert harness.tiers.disk.num_evictions == 3
    assert harness.tiers.disk.num_used == 6


def test_what_is_asked_to_be_kept_is_being_saved_until_it_has_arrived() -> None:
    harness = TieringHarness(spill_ahead_fraction=0.0, persist_ahead_fraction=0.0)
    harness.submit("kept", PROMPT, keep_prefix=True, max_tokens=1)
    is_saving = [harness.scheduler.is_saving]
    harness.run()
    harness.take()
    is_saving.append(harness.scheduler.is_saving)
    harness.settle()
    is_saving.append(harness.scheduler.is_saving)
    assert is_saving == [False, True, False]
    assert len(harness.mirror) == 10
