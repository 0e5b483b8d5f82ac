"""`kill -9` of processes that store. More loops: `python -m tests.faults.kill_loops --loops 200`."""

from pathlib import Path

from tests.faults.kill_loops import run_loops


def test_a_killed_writer_leaves_no_bad_record_and_loses_at_most_its_last_group(tmp_path: Path) -> None:
    tally = run_loops(tmp_path, num_loops=20, seed=20)
    assert tally.loops == 20
    assert tally.groups > 100
