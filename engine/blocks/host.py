"""The host tier's slots: which of them holds which block. Ids only, no bytes.

    state      pins  key      found by lookup   may be handed out
    free        0    none     -                 yes, first
    filling    > 0   a key    no                no: a spill or a fetch writes it
    ready       0    a key    yes               yes, in the order of `engine.blocks.order`, unless the key is kept
    in motion  > 0   a key    yes               no: a load or a persist reads it
    dropped    > 0   none     -                 no: free when the last ticket closes

A slot is settled when its key is on disk too, or can never get there. The slab belongs to one worker session and is
forgotten with it.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence

from engine.blocks.order import EvictionOrder
from engine.ids import BlockKey, HostSlot


class HostPool:
    """Owns the states of `num_slots` slots. Called from the scheduler's thread alone; every operation is O(1) per slot.

    `is_on_disk` None: there is no disk. A tenant with a name holds at most `max_slots_per_tenant` slots (0: no such
    cap) and makes room among its own. Keys in `kept` are not evicted.
    """

    def __init__(
        self,
        num_slots: int,
        is_on_disk: Callable[[BlockKey], bool] | None = None,
        max_slots_per_tenant: int = 0,
        kept: Container[BlockKey] = (),
    ) -> None:
        self.num_slots = num_slots
        self.num_evictions = 0
        self.num_lost = 0
        """Evictions of keys that were not on disk though there is one."""
        self._is_on_disk = is_on_disk
        self._max_slots_per_tenant = max_slots_per_tenant
        self._kept = kept
        self._keys: list[BlockKey | None] = [None] * num_slots
        self._pins = [0] * num_slots
        self._depths = [0] * num_slots
        self._tenants = [""] * num_slots
        self._ready: dict[BlockKey, HostSlot] = {}
        self._filling: dict[BlockKey, HostSlot] = {}
        self._free = [HostSlot(i) for i in reversed(range(num_slots))]
        self._order: EvictionOrder[HostSlot] = EvictionOrder()
        # The same slots by tenant, where there is a cap.
        self._own_orders: dict[str, EvictionOrder[HostSlot]] = {}
        self._num_by_tenant: Counter[str] = Counter()
        self._given_up: set[HostSlot] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_ready(self) -> int:
        """Slots with content that can be read."""
        return len(self._ready)

    @property
    def num_clean(self) -> int:
        """Slots that can be handed out without a loss."""
        return len(self._free) + self._order.num_settled

    @property
    def num_unsaved(self) -> int:
        """Idle slots whose key is not on disk."""
        return self._order.num_unsaved

    @property
    def num_allocatable(self) -> int:
        return len(self._free) + len(self._order)

    def lookup(self, key: BlockKey) -> HostSlot | None:
        """The slot with this content. Changes nothing, and promises nothing beyond this moment."""
        return self._ready.get(key)

    def holds(self, key: BlockKey) -> bool:
        """Whether a slot has this content, or is being filled with it."""
        return key in self._ready or key in self._filling

    def name_of(self, slot: HostSlot) -> tuple[BlockKey, int, str]:
        """(key, depth, tenant) of a slot that has a key."""
        key = self._keys[slot]
        assert key is not None
        return key, self._depths[slot], self._tenants[slot]

    def reserve(self, key: BlockKey, depth: int, tenant: str, may_lose: bool) -> HostSlot | None:
        """A slot to be filled with this key; the caller opens a ticket on it at once.

        `depth` is the block's position in its chain. None: there is no room now, for this tenant or at all; with
        `may_lose` a key that is not on disk makes room too.
        """
        assert not self.holds(key)
        is_capped = bool(tenant) and self._max_slots_per_tenant > 0
        if is_capped and self._num_by_tenant[tenant] >= self._max_slots_per_tenant:
            own = self._own_orders.get(tenant)
            if own is None or not self._may_pop(own, may_lose):
                return None
            self._evict(own)
        elif not self._free:
            if not self._may_pop(self._order, may_lose):
                return None
            self._evict(self._order)
        slot = self._free.pop()
        self._keys[slot] = key
        self._depths[slot] = depth
        self._tenants[slot] = tenant
        self._num_by_tenant[tenant] += 1
        self._filling[key] = slot
        return slot

    def fill(self, slot: HostSlot) -> None:
        """The content has arrived. The ticket is still open."""
        key = self._keys[slot]
        assert key is not None
        assert self._pins[slot], f"slot {slot} is filled without a ticket"
        del self._filling[key]
        self._ready[key] = slot

    def drop(self, key: BlockKey) -> None:
        """This content is not to be used any more. A slot that a ticket names is free when the ticket closes."""
        slot = self._ready.pop(key, None)
        if slot is None:
            return
        self._keys[slot] = None
        if not self._pins[slot]:
            if slot in self._order:
                self._leave_order(slot)
            self._free_slot(slot)

    def touch(self, key: BlockKey) -> None:
        """The copy here has become the nearest one: used just now."""
        slot = self._ready.get(key)
        if slot is not None and slot in self._order:
            self._leave_order(slot)
            self._given_up.discard(slot)
            self._enter_order(slot, key)

    def settle(self, slot: HostSlot) -> None:
        """The content has turned up on disk."""
        self._order.settle(slot)
        if self._max_slots_per_tenant:
            own = self._own_orders.get(self._tenants[slot])
            if own is not None:
                own.settle(slot)

    def give_up(self, slot: HostSlot) -> None:
        """No copy on disk could be made: the slot counts as clean until it is used again."""
        self._given_up.add(slot)
        self.settle(slot)

    def reconsider(self, keys: Iterable[BlockKey]) -> None:
        """Whether these are kept has changed."""
        for key in keys:
            slot = self._ready.get(key)
            if slot is None or self._pins[slot]:
                continue
            if slot in self._order:
                self._leave_order(slot)
            if key not in self._kept:
                self._enter_order(slot, key)

    def drop_idle(self) -> int:
        """Forget the content of all slots that no ticket names and whose key is not kept; returns how many."""
        slots = self._order.records()
        for slot in slots:
            key = self._keys[slot]
            assert key is not None
            self.drop(key)
        return len(slots)

    def first_unsaved(self, count: int) -> list[HostSlot]:
        """Idle slots that are not on disk, those that would be evicted first at the front."""
        return self._order.first_unsaved(count)

    def last_unsaved(self, count: int) -> list[HostSlot]:
        """Idle slots that are not on disk, those that were used last at the front."""
        return self._order.last_unsaved(count)

    def num_of_tenant(self, tenant: str) -> int:
        return self._num_by_tenant[tenant]

    def pin(self, slots: Iterable[HostSlot]) -> None:
        """For `engine.blocks.tickets` only."""
        for slot in slots:
            assert self._keys[slot] is not None, f"slot {slot} is pinned with nothing in it"
            if not self._pins[slot] and slot in self._order:
                self._leave_order(slot)
            self._given_up.discard(slot)
            self._pins[slot] += 1

    def unpin(self, slots: Sequence[HostSlot]) -> None:
        """For `engine.blocks.tickets` only. Given in order of depth: the tail is evicted before the head."""
        for slot in reversed(slots):
            assert self._pins[slot] > 0, f"slot {slot} is unpinned once too often"
            self._pins[slot] -= 1
            if self._pins[slot]:
                continue
            key = self._keys[slot]
            if key is None:
                self._free_slot(slot)
            elif key in self._filling:
                del self._filling[key]
                self._free_slot(slot)
            elif key not in self._kept:
                self._enter_order(slot, key)

    def pin_counts(self) -> list[int]:
        """Open tickets on each slot, by id. For tests."""
        return list(self._pins)

    def check_integrity(self) -> None:
        """Assert that every slot is in exactly one state. For tests; O(slots)."""
        free, idle = set(self._free), set(self._order.records())
        assert len(free) == len(self._free), "a slot is free twice"
        num_by_tenant: Counter[str] = Counter()
        for i in range(self.num_slots):
            slot = HostSlot(i)
            key, pins = self._keys[slot], self._pins[slot]
            assert pins >= 0, f"slot {slot} has negative pins"
            assert (slot in free) == (not pins and key is None), f"slot {slot} and the free list"
            is_ready = key is not None and self._ready.get(key) == slot
            is_filling = key is not None and self._filling.get(key) == slot
            assert (key is not None) == (is_ready or is_filling), f"slot {slot} has a key that does not lead to it"
            assert not (is_ready and is_filling), f"slot {slot} is both ready and filling"
            assert not is_filling or pins, f"slot {slot} is filling without a ticket"
            is_idle = is_ready and not pins and key is not None and key not in self._kept
            assert (slot in idle) == is_idle, f"slot {slot} and the eviction order"
            if slot not in free:
                num_by_tenant[self._tenants[slot]] += 1
        assert num_by_tenant == +self._num_by_tenant
        if self._max_slots_per_tenant:
            owned = [slot for order in self._own_orders.values() for slot in order.records()]
            assert sorted(owned) == sorted(idle)
            for tenant, count in num_by_tenant.items():
                assert not tenant or count <= self._max_slots_per_tenant, f"tenant {tenant!r} is over its cap"
        assert len(self._ready) + len(self._filling) == sum(key is not None for key in self._keys)

    @staticmethod
    def _may_pop(order: EvictionOrder[HostSlot], may_lose: bool) -> bool:
        return bool(len(order) if may_lose else order.num_settled)

    def _evict(self, order: EvictionOrder[HostSlot]) -> None:
        slot, is_settled = order.pop()
        key = self._keys[slot]
        assert key is not None
        if order is not self._order:
            self._order.remove(slot)
        elif self._max_slots_per_tenant:
            self._own_orders[self._tenants[slot]].remove(slot)
        del self._ready[key]
        self._keys[slot] = None
        self._free_slot(slot)
        self.num_evictions += 1
        self.num_lost += not is_settled

    def _free_slot(self, slot: HostSlot) -> None:
        self._keys[slot] = None
        self._given_up.discard(slot)
        self._num_by_tenant[self._tenants[slot]] -= 1
        self._free.append(slot)

    def _enter_order(self, slot: HostSlot, key: BlockKey) -> None:
        is_settled = self._is_on_disk is None or slot in self._given_up or self._is_on_disk(key)
        self._order.add(slot, is_settled)
        if self._max_slots_per_tenant:
            self._own_orders.setdefault(self._tenants[slot], EvictionOrder()).add(slot, is_settled)

    def _leave_order(self, slot: HostSlot) -> None:
        self._order.remove(slot)
        if self._max_slots_per_tenant:
            self._own_orders[self._tenants[slot]].remove(slot)
