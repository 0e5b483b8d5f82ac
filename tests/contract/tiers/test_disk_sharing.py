"""Several processes on one directory: one's records serve the others, also while slots are reused under their eyes."""

import random
from pathlib import Path

from kvstore.transfer import Failure
from tests.disk_rows import key_of, open_disk, payload_of, store_row
from tests.faults.kill_loops import TIGHT_ROWS, Storing
from tests.faults.storing_child import BLOCK_BYTES, NUM_KEYS, ROWS


def test_what_another_process_stores_is_there_at_once(tmp_path: Path) -> None:
    disk = open_disk(tmp_path, cap_rows=1000, block_bytes=BLOCK_BYTES)
    child = Storing(tmp_path, seed=1, cap_rows=1000)
    child.wait_for_groups(5)
    child.kill()
    stored = {bytes.fromhex(word) for line in child.lines for word in line.decode().split()}
    assert len(stored) >= 5 * ROWS
    into = memoryview(bytearray(BLOCK_BYTES))
    for key in stored:
        assert disk.fetch(key, into) is None
        assert into == payload_of(key, BLOCK_BYTES)
    disk.close()


def test_readers_of_a_directory_that_others_churn_see_right_bytes_or_nothing(tmp_path: Path) -> None:
    """The cap is tight, so that nearly every group reuses slots that a reader may have looked up just before."""
    disk = open_disk(tmp_path, cap_rows=TIGHT_ROWS, block_bytes=BLOCK_BYTES)
    children = [Storing(tmp_path, seed, TIGHT_ROWS) for seed in (1, 2)]
    numbers, into = random.Random(3), memoryview(bytearray(BLOCK_BYTES))
    outcomes = {None: 0, Failure.MISSING: 0}
    for round_number in range(60):
        for child in children:
            child.wait_for_groups(1)
        for number in numbers.sample(range(NUM_KEYS), 100):
            failure = disk.fetch(key_of(number), into)
            outcomes[failure] += 1  # CORRUPT is not among them
            assert failure or into == payload_of(key_of(number), BLOCK_BYTES)
        assert disk.store([store_row(NUM_KEYS + round_number, block_bytes=BLOCK_BYTES)]).failures == [None]
    for child in children:
        child.kill()
    assert min(outcomes.values()) > 100, outcomes
    assert disk.num_corrupt == 0
    assert disk.care.verify().is_sound
    disk.close()
