"""Which keys the disk of a host holds, as far as the scheduler knows."""

from collections.abc import Iterable, Iterator

from engine.ids import BlockKey


class DiskMirror:
    """The keys of one namespace on one disk. Shared by the schedulers of all workers that share the disk.

    The disk itself decides what it drops, so this may be out of date: a wrong yes costs a fetch that fails, a wrong no
    a block that is computed again. Every operation may be repeated.
    """

    def __init__(self, keys: Iterable[BlockKey] = ()) -> None:
        self._keys = set(keys)
        # While the disk lists what it holds: what has not been told again.
        self._unheard: set[BlockKey] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._keys)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._keys

    def add(self, keys: Iterable[BlockKey]) -> None:
        """They are on the disk now."""
        keys = list(keys)
        self._keys.update(keys)
        if self._unheard:
            self._unheard.difference_update(keys)

    def discard(self, keys: Iterable[BlockKey]) -> None:
        """They are not on the disk, or not in a state to be read."""
        self._keys.difference_update(keys)

    def begin_listing(self) -> None:
        """Until `end_listing`, all that the disk holds is added, whether it is known or not."""
        self._unheard = set(self._keys)

    def end_listing(self) -> None:
        """What was not added since the listing began is gone: another process has evicted it."""
        self._keys -= self._unheard
        self._unheard.clear()

    def clear(self) -> None:
        self._keys.clear()
