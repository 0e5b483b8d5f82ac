"""What moves down, and when: spills from the device to the host, persists from the host to disk.

    ahead of eviction   the front of either eviction order is kept clean, so that eviction itself only drops
    at once             what a second request has hit, what is pinned, and what a preempted sequence had computed
    when draining       all that is nowhere else, heads of chains first

Nobody waits for any of it. A record whose copy fails is given up: it counts as clean until it is used again.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from itertools import groupby

from engine.blocks.host import HostPool
from engine.ids import BlockId, BlockKey, HostSlot
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.desk import Row, TransferDesk
from engine.scheduling.plan import Transfer, TransferKind, TransferResult
from engine.scheduling.running import RunningBatch


class Saver:
    """Owns the wishes that have not become transfers yet."""

    def __init__(
        self,
        config: SchedulerConfig,
        desk: TransferDesk,
        batch: Callable[[], RunningBatch],
        kept: Container[BlockKey],
    ) -> None:
        self._config = config
        self._kept = kept
        self._desk = desk
        self._batch = batch
        # Keys to spill at once -> whether they shall go on to disk.
        self._to_spill: OrderedDict[BlockKey, bool] = OrderedDict()
        self._to_persist: OrderedDict[BlockKey, None] = OrderedDict()
        # Keys on their way to a host slot that shall go on to disk from there.
        self._on_arrival: set[BlockKey] = set()
        self._persisting: set[BlockKey] = set()
        self.is_draining = False

    @property
    def is_busy(self) -> bool:
        """Whether anything that shall go down at once has neither arrived nor been given up."""
        return bool(self._to_spill or self._to_persist or self._on_arrival or self._persisting)

    def write_through(self, keys: Iterable[BlockKey]) -> None:
        """Bring copies of these to the host and to disk, from wherever they are."""
        residency = self._batch().residency
        host = residency.host
        assert host is not None
        for key in keys:
            is_on_disk = residency.is_on_disk(key)
            if host.holds(key):
                if is_on_disk or residency.disk is None:
                    continue
                if host.lookup(key) is None:
                    self._on_arrival.add(key)
                else:
                    self._to_persist[key] = None
            elif residency.pool.lookup(key) is not None and (key in self._kept or not is_on_disk):
                # What is pinned is wanted in the host tier even if it is on disk.
                self._to_spill[key] = True

    def spill(self, keys: Iterable[BlockKey]) -> None:
        """Bring copies of these to the host."""
        for key in keys:
            self._to_spill.setdefault(key, False)

    def pump(self, is_idle: bool, now_ns: int) -> None:
        """Open what the budgets allow. `is_idle`: no request needs the pool."""
        batch = self._batch()
        if batch.to_write_through:
            self.write_through(batch.to_write_through)
            batch.to_write_through.clear()
        if batch.to_spill:
            self.spill(batch.to_spill)
            batch.to_spill.clear()
        if batch.residency.disk is not None:
            self._pump_persists(now_ns)
        self._pump_spills(is_idle, now_ns)

    def on_spilled(self, transfer: Transfer, num_done: int) -> None:
        """The ticket is still open."""
        residency = self._batch().residency
        host, pool = residency.host, residency.pool
        assert host is not None
        for slot in transfer.host_slots[:num_done]:
            host.fill(slot)
        for block in transfer.block_ids[num_done:]:
            pool.give_up(block)
        self.on_arrived(transfer.keys, num_done)

    def on_arrived(self, keys: list[BlockKey], num_done: int) -> None:
        """Host slots were to be filled with these; the first `num_done` are."""
        has_disk = self._batch().residency.disk is not None
        for i, key in enumerate(keys):
            if key in self._on_arrival or key in self._kept:
                self._on_arrival.discard(key)
                if i < num_done and has_disk:
                    self._to_persist[key] = None

    def on_persisted(self, transfer: Transfer, result: TransferResult) -> None:
        """The ticket is still open."""
        residency = self._batch().residency
        assert residency.host is not None
        assert residency.disk is not None
        self._persisting.difference_update(transfer.keys)
        residency.disk.add(transfer.keys[: result.num_done])
        for slot in transfer.host_slots[result.num_done :]:
            residency.host.give_up(slot)

    def check_idle(self) -> None:
        """Assert that nothing waits for a transfer, as none is in flight. For tests."""
        assert not self._on_arrival
        assert not self._persisting

    def forget_wishes(self) -> None:
        """Of all that has not become a transfer."""
        self._to_spill.clear()
        self._to_persist.clear()
        self._on_arrival.clear()

    def reset(self) -> None:
        """The session is over, and with it all content but the disk's."""
        self._to_spill.clear()
        self._to_persist.clear()
        self._on_arrival.clear()
        self._persisting.clear()

    def _pump_persists(self, now_ns: int) -> None:
        residency = self._batch().residency
        host = residency.host
        assert host is not None
        room = self._desk.room_blocks(TransferKind.PERSIST)
        rows: list[tuple[str, Row]] = []

        def add(slot: HostSlot) -> None:
            key, depth, tenant = host.name_of(slot)
            self._persisting.add(key)
            rows.append((tenant, Row(key, depth, None, slot)))

        while self._to_persist and len(rows) < room:
            key, _ = self._to_persist.popitem(last=False)
            slot = host.lookup(key)
            if slot is not None and key not in self._persisting and not residency.is_on_disk(key):
                add(slot)
        for slot in self._slots_ahead(host, room - len(rows)):
            key = host.name_of(slot)[0]
            if residency.is_on_disk(key):
                host.settle(slot)
            elif key not in self._persisting:
                add(slot)
        rows.sort(key=lambda entry: (entry[0], entry[1].depth))
        for tenant, entries in groupby(rows, key=lambda entry: entry[0]):
            self._open(TransferKind.PERSIST, [row for _, row in entries], now_ns, tenant)

    def _slots_ahead(self, host: HostPool, room: int) -> list[HostSlot]:
        if room <= 0 or not host.num_unsaved:
            return []
        if self.is_draining:
            return host.last_unsaved(room)
        target = int(host.num_slots * self._config.persist_ahead_fraction)
        need = target - host.num_clean - self._desk.num_blocks_of(TransferKind.PERSIST)
        return host.first_unsaved(min(need, room)) if need > 0 else []

    def _pump_spills(self, is_idle: bool, now_ns: int) -> None:
        room = self._desk.room_blocks(TransferKind.SPILL)
        if room <= 0:
            return
        pool = self._batch().pool
        # Blocks of running sequences may be read at any time; of the others, half must stay to be handed out.
        num_idle = pool.num_allocatable + pool.num_draining
        num_cached = pool.num_allocatable if is_idle else max(0, num_idle // 2 - pool.num_draining)
        rows: list[Row] = []
        while self._to_spill and len(rows) < room:
            key, goes_on = self._to_spill.popitem(last=False)
            block = pool.lookup(key)
            if block is None:
                continue
            is_cached = pool.num_allocatable_among([block]) > 0
            if is_cached and not num_cached:
                self._put_back(key, goes_on)
                break
            if not self._is_saved(key, block):
                row = self._reserve(block)
                if row is None:
                    self._put_back(key, goes_on)
                    break
                if row is _GIVEN_UP:
                    continue
                rows.append(row)
                num_cached -= is_cached
            if goes_on:
                self.write_through([key])
        num_rows = len(rows)
        self._open(TransferKind.SPILL, rows, now_ns)
        self._spill_ahead(min(room - num_rows, num_cached), now_ns)

    def _spill_ahead(self, room: int, now_ns: int) -> None:
        pool = self._batch().pool
        if room <= 0 or not pool.num_unsaved:
            return
        if self.is_draining:
            blocks = pool.last_unsaved(room)
        else:
            target = int(pool.num_blocks * self._config.spill_ahead_fraction)
            need = target - pool.num_clean - self._desk.num_blocks_of(TransferKind.SPILL)
            if need <= 0:
                return
            blocks = pool.first_unsaved(min(need, room))
        rows: list[Row] = []
        for block in blocks:
            key = pool.name_of(block)[0]
            if self._is_saved(key, block):
                continue
            row = self._reserve(block)
            if row is None:
                break
            if row is not _GIVEN_UP:
                rows.append(row)
        self._open(TransferKind.SPILL, rows, now_ns)

    def _is_saved(self, key: BlockKey, block: BlockId) -> bool:
        residency = self._batch().residency
        assert residency.host is not None
        if not (residency.host.holds(key) if key in self._kept else residency.is_saved(key)):
            return False
        residency.pool.settle(block)
        return True

    def _reserve(self, block: BlockId) -> Row | None:
        """None: the host tier has no room now. `_GIVEN_UP`: none for this block's tenant."""
        residency = self._batch().residency
        host = residency.host
        assert host is not None
        # While persists are under way there will be room without a loss.
        may_lose = residency.disk is None or not self._desk.num_of(TransferKind.PERSIST)
        if not (host.num_allocatable if may_lose else host.num_clean):
            return None
        key, depth, tenant = residency.pool.name_of(block)
        slot = host.reserve(key, depth, tenant, may_lose)
        if slot is None:
            residency.pool.give_up(block)
            return _GIVEN_UP
        return Row(key, depth, block, slot)

    def _put_back(self, key: BlockKey, goes_on: bool) -> None:
        self._to_spill[key] = goes_on
        self._to_spill.move_to_end(key, last=False)

    def _open(self, kind: TransferKind, rows: list[Row], now_ns: int, tenant: str = "") -> None:
        size, tickets = self._config.max_transfer_blocks, self._batch().tickets
        rows.sort(key=lambda row: row.depth)
        for i in range(0, len(rows), size):
            self._desk.open(kind, rows[i : i + size], tickets, self._config.store_timeout_ns, now_ns, tenant)


_GIVEN_UP = Row(BlockKey(b""), 0, None, HostSlot(-1))
