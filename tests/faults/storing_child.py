"""A process that stores without end, for tests that kill it: `python -m tests.faults.storing_child DIR SEED CAP_ROWS`.

After each group it says in one line what it stored and what it evicted.
"""

import os
import random
import sys
from pathlib import Path

from tests.disk_rows import open_disk, store_row

NUM_KEYS = 1200
ROWS = 8
BLOCK_BYTES = 32 * 4096
"""Large, so that much of a group's time goes into writing payloads: there a kill hurts most."""


def main() -> None:
    disk = open_disk(Path(sys.argv[1]), cap_rows=int(sys.argv[3]), block_bytes=BLOCK_BYTES)
    numbers = random.Random(int(sys.argv[2]))
    os.write(1, b"ready\n")
    while True:
        rows = [store_row(number, block_bytes=BLOCK_BYTES) for number in numbers.sample(range(NUM_KEYS), ROWS)]
        result = disk.store(rows)
        assert result.failures == [None] * ROWS, result
        events = disk.take_events()
        line = " ".join([key.hex() for key in events.stored] + ["-" + key.hex() for key in events.evicted])
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main()
