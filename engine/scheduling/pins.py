"""Prefixes that are kept by name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import TierFull
from engine.ids import BlockKey


@dataclass(frozen=True, slots=True)
class PinChange:
    """What a name pins now, for whoever keeps it longer than the scheduler lives. No keys: nothing any more."""

    name: str
    keys: tuple[BlockKey, ...]


class Pins:
    """Which keys are pinned under which names. Names and keys only: they outlive a worker session."""

    def __init__(self, max_blocks: int, tier: str = "host") -> None:
        """`tier` is the one whose size allows no more than `max_blocks`."""
        self._max_blocks = max_blocks
        self._tier = tier
        self._changed: dict[str, None] = {}
        self._keys_by_name: dict[str, tuple[BlockKey, ...]] = {}
        self.num_names: Counter[BlockKey] = Counter()
        """How many names pin a key. A key that is not in here is not pinned."""

    @property
    def names(self) -> list[str]:
        return list(self._keys_by_name)

    def keys_of(self, name: str) -> tuple[BlockKey, ...]:
        """Nothing for a name that is not there."""
        return self._keys_by_name.get(name, ())

    def pin(self, name: str, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """Returns the keys that this has changed. A name that is there already gets the new keys instead.

        Raises TierFull when there is no room; then nothing changes.
        """
        wanted = dict.fromkeys(keys)
        others = Counter(self.num_names)
        others.subtract(self._keys_by_name.get(name, ()))
        num_others = sum(1 for key, count in others.items() if count > 0 and key not in wanted)
        if num_others + len(wanted) > self._max_blocks:
            raise TierFull(
                f"Pinning {name!r} takes {len(wanted)} blocks, but {num_others} of the {self._max_blocks} that may be "
                f"pinned are taken by other names. Unpin one, pin a shorter prefix, or enlarge the {self._tier} tier"
            )
        changed = self._drop(name)
        self._changed[name] = None
        self._keys_by_name[name] = tuple(wanted)
        self.num_names.update(list(wanted))
        return [*dict.fromkeys([*changed, *wanted])]

    def unpin(self, name: str) -> list[BlockKey]:
        """Returns the keys that this has changed. A name that is not there pins nothing here."""
        self._changed[name] = None
        return self._drop(name)

    def take_changes(self) -> list[PinChange]:
        """What each name that was pinned or unpinned since the last call pins now."""
        changes = [PinChange(name, self.keys_of(name)) for name in self._changed]
        self._changed.clear()
        return changes

    def _drop(self, name: str) -> list[BlockKey]:
        keys = self._keys_by_name.pop(name, ())
        for key in keys:
            self.num_names[key] -= 1
            if not self.num_names[key]:
                del self.num_names[key]
        return list(keys)
