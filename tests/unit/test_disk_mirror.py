"""What the scheduler knows of a disk, and how it forgets what is gone."""

from engine.blocks.disk import DiskMirror
from engine.ids import BlockKey


def keys(*numbers: int) -> list[BlockKey]:
    return [BlockKey(bytes([number]) * 32) for number in numbers]


def test_a_listing_takes_out_what_it_lacks() -> None:
    mirror = DiskMirror(keys(1, 2, 3))
    mirror.begin_listing()
    mirror.add(keys(2))
    assert set(mirror) == set(keys(1, 2, 3)), "nothing is missed before the listing has ended"
    mirror.add(keys(4))
    mirror.end_listing()
    assert set(mirror) == set(keys(2, 4))


def test_what_is_stored_or_evicted_meanwhile_counts() -> None:
    mirror = DiskMirror(keys(1, 2))
    mirror.begin_listing()
    mirror.add(keys(1, 2, 3))
    mirror.discard(keys(2))
    mirror.end_listing()
    assert set(mirror) == set(keys(1, 3))
    mirror.end_listing()
    assert set(mirror) == set(keys(1, 3)), "an end without a beginning takes out nothing"


def test_a_second_listing_starts_anew() -> None:
    mirror = DiskMirror(keys(1, 2))
    mirror.begin_listing()
    mirror.add(keys(1))
    mirror.begin_listing()
    mirror.add(keys(2))
    mirror.end_listing()
    assert set(mirror) == set(keys(2))
