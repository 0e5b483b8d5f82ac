"""Random fills, readers, drops and caps over one host pool, beside a model that keeps dictionaries."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.blocks.host import HostPool
from engine.ids import BlockKey, HostSlot

NUM_SLOTS = 5
KEYS = [BlockKey(number.to_bytes(32, "little")) for number in range(8)]


class HostMachine(RuleBasedStateMachine):
    """The model: which key each slot was filled with, who fills and who reads which slots."""

    @initialize(cap=st.sampled_from([0, 2]), has_disk=st.booleans())
    def start(self, cap: int, has_disk: bool) -> None:
        self.cap = cap
        self.on_disk: set[BlockKey] = set()
        self.kept: set[BlockKey] = set()
        self.host = HostPool(NUM_SLOTS, self.on_disk.__contains__ if has_disk else None, cap, self.kept)
        self.content: dict[HostSlot, BlockKey] = {}
        self.filling: dict[HostSlot, BlockKey] = {}
        self.readers: list[list[HostSlot]] = []

    def busy(self) -> set[HostSlot]:
        return {*self.filling, *(slot for reader in self.readers for slot in reader)}

    @rule(
        key=st.sampled_from(KEYS),
        depth=st.integers(0, 9),
        tenant=st.sampled_from(["", "a", "b"]),
        may_lose=st.booleans(),
    )
    def reserve(self, key: BlockKey, depth: int, tenant: str, may_lose: bool) -> None:
        if self.host.holds(key):
            return
        num_lost, num_free = self.host.num_lost, self.host.num_free
        slot = self.host.reserve(key, depth, tenant, may_lose)
        if slot is None:
            assert num_free == 0 or (tenant and self.host.num_of_tenant(tenant) == self.cap > 0)
            return
        assert slot not in self.busy(), "a busy slot was handed out"
        assert may_lose or self.host.num_lost == num_lost
        for each in [each for each, held in self.content.items() if self.host.lookup(held) is None]:
            assert self.content.pop(each) not in self.kept, "a kept key was evicted"
        self.host.pin([slot])
        self.filling[slot] = key
        assert self.host.name_of(slot) == (key, depth, tenant)

    @precondition(lambda self: self.filling)
    @rule(data=st.data(), is_done=st.booleans())
    def end_fill(self, data: st.DataObject, is_done: bool) -> None:
        slot = data.draw(st.sampled_from(sorted(self.filling)))
        key = self.filling.pop(slot)
        if is_done:
            self.host.fill(slot)
            self.content[slot] = key
        self.host.unpin([slot])

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def begin_read(self, data: st.DataObject) -> None:
        slots = data.draw(st.lists(st.sampled_from(sorted(self.content)), min_size=1, unique=True))
        self.host.pin(slots)
        self.readers.append(slots)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), is_given_up=st.booleans())
    def end_read(self, data: st.DataObject, is_given_up: bool) -> None:
        slots = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        if is_given_up:
            self.host.give_up(slots[0])
        self.host.unpin(slots)

    @rule(key=st.sampled_from(KEYS))
    def drop(self, key: BlockKey) -> None:
        self.host.drop(key)
        self.content = {slot: held for slot, held in self.content.items() if held != key}
        assert self.host.lookup(key) is None

    @rule(key=st.sampled_from(KEYS))
    def touch(self, key: BlockKey) -> None:
        self.host.touch(key)

    @rule(key=st.sampled_from(KEYS), is_kept=st.booleans())
    def keep(self, key: BlockKey, is_kept: bool) -> None:
        (self.kept.add if is_kept else self.kept.discard)(key)
        self.host.reconsider([key])

    @rule(key=st.sampled_from(KEYS))
    def reach_disk(self, key: BlockKey) -> None:
        self.on_disk.add(key)
        slot = self.host.lookup(key)
        if slot is not None:
            self.host.settle(slot)

    @invariant()
    def keys_name_the_slots_that_were_filled_for_them(self) -> None:
        if not hasattr(self, "host"):
            return
        self.host.check_integrity()
        slot_of = {key: slot for slot, key in self.content.items()}
        assert [self.host.lookup(key) for key in KEYS] == [slot_of.get(key) for key in KEYS]
        pins = [0] * NUM_SLOTS
        for slot in [*self.filling, *(slot for reader in self.readers for slot in reader)]:
            pins[slot] += 1
        assert self.host.pin_counts() == pins


HostMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHostMachine = HostMachine.TestCase
