"""The device block pool: who holds which block, and which key names its content. Ids only, no bytes.

    state     refs  pins  key      may be handed out
    free       0     0    none     yes, first
    cached     0     0    a key    yes, when no free one is left, in the order of `engine.blocks.order`
    in use    > 0    any  either   no
    draining   0    > 0   either   no: something in flight may still touch it

A key is published after the step that filled the block, so a block that a key names is always full and correct.
Called from the scheduler's thread alone. Every operation is O(1) per block.
"""

from collections.abc import Callable, Iterable, Sequence

from engine.blocks.order import EvictionOrder
from engine.ids import BlockId, BlockKey


class BlockPool:
    """Owns the states of `num_blocks` blocks. Holders keep references, tickets keep pins.

    `is_saved` says whether a tier below holds a key; without it there is no such tier, and cached blocks go in the
    order of their last use. `on_evict` hears of keys that leave the device.
    """

    def __init__(
        self,
        num_blocks: int,
        is_saved: Callable[[BlockKey], bool] | None = None,
        on_evict: Callable[[BlockKey], None] | None = None,
    ) -> None:
        assert num_blocks > 0
        self.num_blocks = num_blocks
        self.num_draining = 0
        """Blocks without a holder that wait for a ticket to close."""
        self.num_openings = 0
        """Counts each block that became allocatable or got a key. While it stands still, no demand for blocks that
        could not be met can be met; to bring it nearer by n blocks, it has to rise by n."""
        self.num_evictions = 0
        self.num_lost = 0
        """Evictions of blocks that could have been saved below, and were not yet."""
        self._is_saved = is_saved
        self._on_evict = on_evict
        self._refs = [0] * num_blocks
        self._pins = [0] * num_blocks
        self._keys: list[BlockKey | None] = [None] * num_blocks
        self._by_key: dict[BlockKey, BlockId] = {}
        self._free: list[BlockId] = [BlockId(i) for i in reversed(range(num_blocks))]
        self._depths = [0] * num_blocks
        self._tenants = [""] * num_blocks
        self._cached: EvictionOrder[BlockId] = EvictionOrder()
        # Cached blocks that a ticket took out of the order, with their place in it.
        self._stamps: dict[BlockId, int] = {}
        # Blocks that could not be saved since they were used last.
        self._given_up: set[BlockId] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_allocatable(self) -> int:
        return len(self._free) + len(self._cached)

    @property
    def num_clean(self) -> int:
        """Blocks that can be handed out without a loss."""
        return len(self._free) + self._cached.num_settled

    @property
    def num_unsaved(self) -> int:
        """Cached blocks whose content is nowhere else."""
        return self._cached.num_unsaved

    @property
    def num_named(self) -> int:
        """Blocks with a key, held or not."""
        return len(self._by_key)

    @property
    def num_in_use(self) -> int:
        return self.num_blocks - self.num_allocatable - self.num_draining

    def lookup(self, key: BlockKey) -> BlockId | None:
        """The block that holds this content. Changes nothing, and promises nothing beyond this moment."""
        return self._by_key.get(key)

    def longest_prefix(self, keys: Sequence[BlockKey], max_blocks: int) -> list[BlockId]:
        """The blocks of the first keys, up to the first that is not here. Changes nothing."""
        blocks: list[BlockId] = []
        by_key = self._by_key
        for i in range(min(max_blocks, len(keys))):
            block = by_key.get(keys[i])
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_allocatable_among(self, blocks: Iterable[BlockId]) -> int:
        """How many of these would stop being allocatable if they were acquired."""
        refs, pins = self._refs, self._pins
        return sum(1 for block in blocks if not refs[block] and not pins[block])

    def allocate(self, num_blocks: int) -> list[BlockId]:
        """Blocks for the caller to fill, one reference each. Evicts cached ones when the free ones run out.

        The caller has checked `num_allocatable`.
        """
        assert 0 <= num_blocks <= self.num_allocatable, f"{num_blocks} of {self.num_allocatable} blocks asked for"
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(num_blocks)]
        for block in blocks:
            self._refs[block] = 1
        return blocks

    def acquire(self, blocks: Iterable[BlockId]) -> None:
        """One more reference to blocks that hold content: prefix hits, and blocks that have a holder."""
        for block in blocks:
            if not self._refs[block]:
                assert self._keys[block] is not None, f"block {block} holds nothing that can be shared"
                if self._pins[block]:
                    self.num_draining -= 1
                    self._stamps.pop(block, None)
                else:
                    self._cached.remove(block)
                self._given_up.discard(block)
            self._refs[block] += 1

    def release(self, blocks: Sequence[BlockId]) -> None:
        """Give up one reference to each block of a table, given in order. The tail is evicted before the head."""
        for block in reversed(blocks):
            assert self._refs[block] > 0, f"block {block} is released once too often"
            self._refs[block] -= 1
            if not self._refs[block]:
                if self._pins[block]:
                    self.num_draining += 1
                else:
                    self._retire(block)

    def publish(self, block: BlockId, key: BlockKey, depth: int = 0, tenant: str = "") -> bool:
        """Let `key` name this full block. Where another block has the key already, that one keeps it.

        `depth` is the block's position in its chain, `tenant` whose it is.
        """
        assert self._refs[block] or self._pins[block], f"block {block} is published without a holder"
        assert self._keys[block] is None or self._keys[block] == key, f"block {block} has another key"
        if key in self._by_key:
            return self._by_key[key] == block
        self._by_key[key] = block
        self._keys[block] = key
        self._depths[block] = depth
        self._tenants[block] = tenant
        self.num_openings += 1
        return True

    def name_of(self, block: BlockId) -> tuple[BlockKey, int, str]:
        """(key, depth, tenant) of a block that has a key."""
        key = self._keys[block]
        assert key is not None
        return key, self._depths[block], self._tenants[block]

    def is_held(self, block: BlockId) -> bool:
        """Whether somebody refers to the block."""
        return self._refs[block] > 0

    def first_unsaved(self, count: int) -> list[BlockId]:
        """Cached blocks that are nowhere else, those that would be evicted first at the front."""
        return self._cached.first_unsaved(count)

    def last_unsaved(self, count: int) -> list[BlockId]:
        """Cached blocks that are nowhere else, those that were used last at the front."""
        return self._cached.last_unsaved(count)

    def give_up(self, block: BlockId) -> None:
        """No copy of this block could be made: it counts as clean until it is used again."""
        self._given_up.add(block)
        self.settle(block)

    def settle(self, block: BlockId) -> None:
        """A copy of this block has turned up below."""
        self._cached.settle(block)

    def drop_cached(self) -> int:
        """Forget the content of all blocks that nobody holds and nothing in flight touches; returns how many."""
        num_dropped = len(self._cached)
        while len(self._cached):
            block, _ = self._cached.pop()
            key = self._keys[block]
            assert key is not None
            del self._by_key[key]
            self._keys[block] = None
            self._given_up.discard(block)
            self._free.append(block)
        return num_dropped

    def announce(self) -> None:
        """What could not be met may be met now, for a reason that the pool does not know of."""
        self.num_openings += 1

    def pin(self, blocks: Iterable[BlockId]) -> None:
        """For `engine.blocks.tickets` only. The blocks have holders, or content that is to be read."""
        for block in blocks:
            if not self._refs[block] and not self._pins[block]:
                assert self._keys[block] is not None, f"block {block} is pinned without a holder"
                self._stamps[block] = self._cached.remove(block)
                self.num_draining += 1
            self._pins[block] += 1

    def unpin(self, blocks: Sequence[BlockId]) -> None:
        """For `engine.blocks.tickets` only. Tails come before heads in the order of eviction, as with `release`."""
        for block in reversed(blocks):
            assert self._pins[block] > 0, f"block {block} is unpinned once too often"
            self._pins[block] -= 1
            if not self._pins[block] and not self._refs[block]:
                self.num_draining -= 1
                self._retire(block)

    def reference_counts(self) -> list[int]:
        """References to each block, by id. For tests."""
        return list(self._refs)

    def pin_counts(self) -> list[int]:
        """Open tickets on each block, by id. For tests."""
        return list(self._pins)

    def check_integrity(self) -> None:
        """Assert that every block is in exactly one state and that keys and blocks agree. For tests; O(blocks)."""
        free, cached = set(self._free), set(self._cached.records())
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & cached, "a block is both free and cached"
        num_draining = 0
        for i in range(self.num_blocks):
            block = BlockId(i)
            refs, pins, key = self._refs[block], self._pins[block], self._keys[block]
            assert refs >= 0, f"block {block} has negative references"
            assert pins >= 0, f"block {block} has negative pins"
            assert (block in free) == (not refs and not pins and key is None), f"block {block} and the free list"
            assert (block in cached) == (not refs and not pins and key is not None), f"block {block} and the cache"
            assert block not in self._stamps or (not refs and pins), f"block {block} has a place in the order"
            assert key is None or self._by_key.get(key) == block, f"the key of block {block} names another"
            num_draining += not refs and pins > 0
        assert num_draining == self.num_draining
        assert len(self._by_key) == sum(key is not None for key in self._keys)

    def _retire(self, block: BlockId) -> None:
        self.num_openings += 1
        key = self._keys[block]
        if key is None:
            self._free.append(block)
            return
        is_settled = self._is_saved is None or block in self._given_up or self._is_saved(key)
        stamp = self._stamps.pop(block, None)
        if stamp is None:
            self._cached.add(block, is_settled)
        else:
            self._cached.restore(block, stamp, is_settled)

    def _evict(self) -> BlockId:
        block, is_settled = self._cached.pop()
        key = self._keys[block]
        assert key is not None
        del self._by_key[key]
        self._keys[block] = None
        self._given_up.discard(block)
        self.num_evictions += 1
        self.num_lost += not is_settled
        if self._on_evict is not None:
            self._on_evict(key)
        return block
