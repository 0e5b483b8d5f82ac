"""`kill -9` of whole workers under traffic. More loops: `python -m tests.faults.worker_kills --loops 200`."""

import asyncio
from pathlib import Path

from tests.faults.worker_kills import run_loops


def test_a_killed_worker_leaves_no_bad_record_and_the_next_one_answers_as_if_nothing_had_been(tmp_path: Path) -> None:
    tally = asyncio.run(run_loops(tmp_path, num_loops=4, num_prompts=24, seed=233))
    assert tally.loops == 4
    assert tally.confirmed > 0
    assert tally.disk_tokens > 0
    assert tally.broken > 0
