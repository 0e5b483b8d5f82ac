"""Which key is in which tier: the one place that knows all three.

Lookups are pure: they pin nothing, and what they say holds for the moment only.
"""

import enum
from collections.abc import Container, Sequence
from dataclasses import dataclass

from engine.blocks.disk import DiskMirror
from engine.blocks.host import HostPool
from engine.blocks.pool import BlockPool
from engine.ids import BlockId, BlockKey, HostSlot


class Tier(enum.StrEnum):
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks of one chain in one tier: `[start, start + count)`."""

    tier: Tier
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count


class Residency:
    """Owns the device pool and the host slots of one worker session. The disk's mirror outlives it."""

    def __init__(
        self,
        num_blocks: int,
        num_host_slots: int = 0,
        disk: DiskMirror | None = None,
        max_slots_per_tenant: int = 0,
        kept: Container[BlockKey] = (),
    ) -> None:
        """`num_host_slots` 0: there is nothing below the device. `disk` None: nothing below the host."""
        self.host: HostPool | None = None
        self.disk: DiskMirror | None = None
        if not num_host_slots:
            self.pool = BlockPool(num_blocks)
            return
        self.disk = disk
        is_on_disk = None if disk is None else disk.__contains__
        self.host = HostPool(num_host_slots, is_on_disk, max_slots_per_tenant, kept)
        self.pool = BlockPool(num_blocks, self.is_saved, self.host.touch)

    def is_saved(self, key: BlockKey) -> bool:
        """Whether a tier below the device has the key, or is about to."""
        return (self.host is not None and self.host.holds(key)) or self.is_on_disk(key)

    def is_on_disk(self, key: BlockKey) -> bool:
        return self.disk is not None and key in self.disk

    def tier_of(self, key: BlockKey) -> Tier | None:
        """The nearest tier with the key."""
        if self.pool.lookup(key) is not None:
            return Tier.DEVICE
        if self.host is not None and self.host.lookup(key) is not None:
            return Tier.HOST
        return Tier.DISK if self.is_on_disk(key) else None

    def longest_prefix(self, keys: Sequence[BlockKey], max_blocks: int) -> list[Run]:
        """Where the first keys are, each in its nearest tier, up to the first that is nowhere."""
        runs: list[Run] = []
        tier: Tier | None = None
        start = i = 0
        for i in range(min(max_blocks, len(keys))):
            found = self.tier_of(keys[i])
            if found is not tier:
                if tier is not None:
                    runs.append(Run(tier, start, i - start))
                tier, start = found, i
            if found is None:
                return runs
        if tier is not None:
            runs.append(Run(tier, start, i + 1 - start))
        return runs

    def locate(self, keys: Sequence[BlockKey], max_blocks: int) -> list[tuple[BlockId | None, HostSlot | None]]:
        """The block of each of the first keys, or else its host slot, up to the first that is in neither."""
        found: list[tuple[BlockId | None, HostSlot | None]] = []
        for i in range(min(max_blocks, len(keys))):
            block = self.pool.lookup(keys[i])
            slot = self.host.lookup(keys[i]) if block is None and self.host is not None else None
            if block is None and slot is None:
                break
            found.append((block, slot))
        return found
