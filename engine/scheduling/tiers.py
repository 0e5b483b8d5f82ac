"""What moves between the tiers of one worker, and when. Made of parts that each know one direction:

engine.scheduling.fetching   disk → host, from submit on
engine.scheduling.early_loading    host → device, while the rest is being fetched
engine.scheduling.loading    host → device, from admission on
engine.scheduling.saving     device → host → disk, ahead of need
engine.scheduling.desk       the transfers in flight
engine.scheduling.rates      what each would cost
"""

from collections.abc import Iterable
from collections.abc import Sequence as Keys
from dataclasses import replace

from engine.ids import BlockKey
from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.desk import TransferDesk
from engine.scheduling.early_loading import EarlyLoader
from engine.scheduling.fetch_wait import FetchWait
from engine.scheduling.fetching import Fetcher
from engine.scheduling.figures import PinFigures, TierFigures, TiersFigures
from engine.scheduling.loading import Loader
from engine.scheduling.pins import Pins
from engine.scheduling.plan import TierEvents, Transfer, TransferKind, TransferResult
from engine.scheduling.rates import Rates
from engine.scheduling.running import RunningBatch
from engine.scheduling.saving import Saver
from engine.scheduling.sequence import Sequence
from engine.scheduling.timeline import Phase


class Tiers:
    """There is one of these only where there is a host tier."""

    def __init__(self, config: SchedulerConfig, rates: Rates, book: RequestBook, pins: Pins) -> None:
        self._config = config
        self._book = book
        self._pins = pins
        self._desk = TransferDesk(config, rates)
        self._fetcher = Fetcher(config, rates, self._desk, self._batch)
        self._early_loader = EarlyLoader(config, rates, self._desk, self._batch)
        self._loader = Loader(config, rates, self._desk, book)
        self._saver = Saver(config, self._desk, self._batch, pins.num_names)
        self._drain_deadline_ns: int | None = None
        self._num_disk_evictions = 0
        self._is_dry = False
        """Whether the last call had nothing to send, while draining."""

    @property
    def num_in_flight(self) -> int:
        return self._desk.num_in_flight

    @property
    def is_saving(self) -> bool:
        return self._saver.is_busy

    @property
    def is_drained(self) -> bool:
        """Whether all that could be saved has been, or the time for it is over. Only after `begin_drain`."""
        return self._saver.is_draining and (
            self._drain_deadline_ns is None or (self._is_dry and not self.num_in_flight)
        )

    def on_queued(self, sequence: Sequence, now_ns: int) -> None:
        """A new sequence has come into the queue."""
        self._fetcher.start(sequence, now_ns)

    def fetches_late(self, sequence: Sequence, num_found: int, now_ns: int) -> bool:
        """A sequence could be admitted with its first `num_found` blocks. Whether it waits for the disk instead, once a
        stay: what was nearer when it was queued may have been evicted, and one that was preempted never asked.
        """
        residency, keys = self._batch().residency, sequence.chain.keys
        max_blocks = (len(sequence.token_ids) - 1) // self._config.block_size
        if sequence.fetch is not None or sequence.has_fetched_late or num_found >= min(max_blocks, len(keys)):
            return False
        if not residency.is_on_disk(keys[num_found]):
            return False
        sequence.has_fetched_late = True
        wait = self._fetcher.start(sequence, now_ns)
        if wait is not None:
            self.on_blocked(wait, now_ns)
        return wait is not None

    def on_blocked(self, wait: FetchWait, now_ns: int) -> None:
        """But for this fetch its sequence might be admitted now."""
        if wait.blocked_ns is None:
            self._fetcher.on_blocked(wait, now_ns)
            self._early_loader.advance(wait, now_ns)

    def on_admitted(self, sequence: Sequence, now_ns: int) -> None:
        """A sequence has moved from the queue to the batch."""
        if sequence.fetch is not None:
            self._fetcher.on_left(sequence.fetch, now_ns)
            sequence.fetch = None
        if sequence.to_load:
            self._loader.start(sequence, now_ns)

    def take_transfers(self, is_idle: bool, now_ns: int) -> list[Transfer]:
        """What to send now. `is_idle`: no request is live."""
        if self._drain_deadline_ns is not None or not self._saver.is_draining:
            self._fetcher.pump(now_ns)
            self._saver.pump(is_idle, now_ns)
        transfers = self._desk.take()
        self._is_dry = is_idle and not transfers
        return transfers

    def apply_transfer(self, result: TransferResult, now_ns: int) -> None:
        """Raises WorkerLost when it answers no transfer in flight."""
        transfer = self._desk.find(result)
        self._is_dry = False
        match transfer.kind:
            case TransferKind.LOAD if self._early_loader.owns(result.transfer_id):
                self._early_loader.on_result(result, now_ns)
            case TransferKind.LOAD:
                self._loader.on_result(result, now_ns)
            case TransferKind.FETCH:
                waits = self._fetcher.on_result(result, transfer.host_slots, now_ns)
                self._saver.on_arrived(transfer.keys, result.num_done)
                for wait in waits:
                    self._early_loader.advance(wait, now_ns)
            case TransferKind.SPILL:
                self._saver.on_spilled(transfer, result.num_done)
            case TransferKind.PERSIST:
                self._saver.on_persisted(transfer, result)
        self._desk.close(result, self._batch().tickets, now_ns)

    def apply_events(self, events: TierEvents) -> None:
        disk = self._batch().residency.disk
        if disk is not None:
            if events.begins_listing:
                disk.begin_listing()
            disk.add(events.stored)
            disk.discard(events.evicted)
            self._num_disk_evictions += len(events.evicted)
            disk.discard(events.corrupt)
            if events.ends_listing:
                disk.end_listing()

    def sweep(self, now_ns: int) -> None:
        """End the waits whose deadlines have passed."""
        self._fetcher.sweep(now_ns)
        self._early_loader.sweep(now_ns)
        self._loader.sweep(now_ns)
        if self._drain_deadline_ns is not None and self._drain_deadline_ns <= now_ns:
            self._drain_deadline_ns = None

    def next_deadline_ns(self) -> int | None:
        deadlines = (
            self._fetcher.next_deadline_ns(),
            self._early_loader.next_deadline_ns(),
            self._loader.next_deadline_ns(),
            self._drain_deadline_ns,
        )
        return min((each for each in deadlines if each is not None), default=None)

    def begin_drain(self, deadline_ns: int) -> None:
        """From now on everything that is worth keeping goes to disk, if there is one."""
        self._saver.is_draining = True
        self._is_dry = False
        has_disk = self._batch().residency.disk is not None
        self._drain_deadline_ns = deadline_ns if has_disk else None
        self._saver.write_through(self._pins.num_names)

    def pin(self, name: str, keys: Keys[BlockKey]) -> None:
        self._on_pins_changed(self._pins.pin(name, keys))

    def unpin(self, name: str) -> None:
        self._on_pins_changed(self._pins.unpin(name))

    def pin_figures(self) -> list[PinFigures]:
        residency = self._batch().residency
        pool, host = residency.pool, residency.host
        assert host is not None
        figures = []
        for name in self._pins.names:
            keys = self._pins.keys_of(name)
            on_device = sum(1 for key in keys if pool.lookup(key) is not None)
            on_host = sum(1 for key in keys if host.lookup(key) is not None)
            on_disk = sum(1 for key in keys if residency.is_on_disk(key))
            figures.append(PinFigures(name, len(keys), on_device, on_host, on_disk))
        return figures

    def write_through(self, keys: Iterable[BlockKey]) -> None:
        self._saver.write_through(keys)

    def forget_wishes(self) -> None:
        """What was to go down and is not on its way yet stays where it is."""
        self._saver.forget_wishes()

    def void_session(self) -> None:
        """All tickets are closed, all host slots forgotten. The batch is about to be made anew."""
        self._desk.reset()
        self._fetcher.reset()
        self._early_loader.reset()
        self._loader.reset()
        self._saver.reset()

    def begin_session(self, now_ns: int) -> None:
        """The batch is new; what waits in the queue may be on disk."""
        for sequence in self._book.queue.first(len(self._book.queue)):
            sequence.fetch = None
            sequence.enter(Phase.QUEUE, now_ns)
            self._fetcher.start(sequence, now_ns)

    def figures(self) -> TiersFigures:
        counters = self._book.counters
        residency = self._batch().residency
        pool, host, disk = residency.pool, residency.host, residency.disk
        assert host is not None
        pinned = self._pins.num_names
        num_device_tokens = counters.num_hit_tokens - counters.num_host_hit_tokens - counters.num_disk_hit_tokens
        on_device = sum(1 for key in pinned if pool.lookup(key) is not None)
        on_host = sum(1 for key in pinned if host.lookup(key) is not None)
        on_disk = sum(1 for key in pinned if residency.is_on_disk(key))
        num_on_disk = 0 if disk is None else len(disk)
        return TiersFigures(
            block_bytes=self._config.block_bytes,
            device=TierFigures(
                pool.num_blocks,
                pool.num_named,
                on_device,
                pool.num_clean,
                num_device_tokens,
                pool.num_evictions,
                pool.num_lost,
            ),
            host=TierFigures(
                host.num_slots,
                host.num_ready,
                on_host,
                host.num_clean,
                counters.num_host_hit_tokens,
                host.num_evictions,
                host.num_lost,
            ),
            disk=TierFigures(0, num_on_disk, on_disk, 0, counters.num_disk_hit_tokens, self._num_disk_evictions, 0),
            moves={kind: replace(move, failures=dict(move.failures)) for kind, move in self._desk.moves.items()},
            num_in_flight=self._desk.num_in_flight,
            num_abandoned_fetches=self._fetcher.num_abandoned,
            num_late_loads=self._loader.num_late + self._early_loader.num_late,
        )

    def check_integrity(self) -> None:
        """For tests."""
        batch = self._batch()
        assert batch.residency.host is not None
        batch.residency.host.check_integrity()
        self._fetcher.check_integrity()
        loads = [sequence.load for sequence in batch.sequences if sequence.load is not None]
        assert all(load.is_live and load.num_outstanding for load in loads)
        if not self._desk.num_in_flight:
            assert not batch.loading
            assert not any(batch.residency.host.pin_counts())
            self._saver.check_idle()

    def _batch(self) -> RunningBatch:
        return self._book.batch

    def _on_pins_changed(self, keys: list[BlockKey]) -> None:
        host = self._batch().residency.host
        assert host is not None
        host.reconsider(keys)
        self._saver.write_through(key for key in keys if key in self._pins.num_names)
