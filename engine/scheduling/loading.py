"""Loads: from host slots into blocks that a sequence has been given, while it holds its slot and nothing else waits.

    start ──▶ loading ──▶ done: the sequence goes on behind what was loaded, or from the first block that failed
                 └──deadline──▶ late: back to the queue without these keys; the targets are free when the result comes

A sequence that loads is not known to the worker yet. Blocks are published as they arrive, whatever has become of it.
"""

from heapq import heappop, heappush

from engine.ids import TransferId
from engine.scheduling.book import RequestBook
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.desk import Row, TransferDesk
from engine.scheduling.plan import Transfer, TransferKind, TransferResult
from engine.scheduling.rates import Rates
from engine.scheduling.sequence import Sequence
from engine.scheduling.timeline import Phase


class Load:
    """What one admitted sequence is waiting for."""

    __slots__ = (
        "deadline_ns",
        "epoch",
        "first_failed",
        "last_shared",
        "num_blocks",
        "num_outstanding",
        "sequence",
    )

    def __init__(self, sequence: Sequence, num_blocks: int, last_shared: int, deadline_ns: int) -> None:
        self.sequence = sequence
        self.epoch = sequence.epoch
        self.num_blocks = num_blocks
        """The sequence's first blocks, all of which hold content if nothing fails."""
        self.last_shared = last_shared
        """Of these, the last one that was on the device already and belongs to others too; -1: none."""
        self.first_failed = num_blocks
        self.num_outstanding = 0
        self.deadline_ns = deadline_ns

    @property
    def is_live(self) -> bool:
        """Whether the sequence still waits for it."""
        return self.sequence.load is self and self.sequence.epoch == self.epoch


class Loader:
    """Owns the loads in flight."""

    def __init__(self, config: SchedulerConfig, rates: Rates, desk: TransferDesk, book: RequestBook) -> None:
        self._config = config
        self._rates = rates
        self._desk = desk
        self._book = book
        self._in_flight: dict[TransferId, tuple[Load, Transfer]] = {}
        self._deadlines: list[tuple[int, int, Load]] = []
        self._num_loads = 0
        self.num_late = 0

    def start(self, sequence: Sequence, now_ns: int) -> None:
        """Load what `sequence.to_load` names. The sequence has just been admitted."""
        config, batch = self._config, self._book.batch
        keys, to_load = sequence.chain.keys, sequence.to_load
        loaded = {index for index, _ in to_load}
        num_blocks = sequence.num_hit_blocks
        last_shared = next((i for i in reversed(range(num_blocks)) if i not in loaded), -1)
        wait_ns = int(self._rates.compute_ns(len(to_load) * config.block_size))
        wait_ns = min(max(wait_ns, config.min_load_wait_ns), config.max_load_wait_ns)
        load = Load(sequence, num_blocks, last_shared, now_ns + wait_ns)
        rows = [Row(keys[index], index, sequence.blocks[index], slot) for index, slot in to_load]
        sequence.enter(Phase.LOAD, now_ns).num_wanted_blocks = len(rows)
        for some in _chunks(rows, config.max_transfer_blocks):
            transfer = self._desk.open(TransferKind.LOAD, some, batch.tickets, wait_ns, now_ns, waiting=sequence)
            self._in_flight[transfer.transfer_id] = (load, transfer)
            load.num_outstanding += 1
        batch.loading.update(keys[index] for index, _ in to_load)
        sequence.load = load
        self._num_loads += 1
        heappush(self._deadlines, (load.deadline_ns, self._num_loads, load))

    def on_result(self, result: TransferResult, now_ns: int) -> None:
        """The ticket is still open."""
        batch, host = self._book.batch, self._book.batch.residency.host
        assert host is not None
        load, transfer = self._in_flight.pop(result.transfer_id)
        load.num_outstanding -= 1
        tenant = load.sequence.request.request.tenant
        for i in range(result.num_done):
            batch.pool.publish(transfer.block_ids[i], transfer.keys[i], transfer.depths[i], tenant)
        if result.failure is not None:
            host.drop(transfer.keys[result.num_done])
            load.first_failed = min(load.first_failed, transfer.depths[result.num_done])
        batch.loading.difference_update(transfer.keys)
        batch.pool.announce()
        if load.is_live:
            if load.sequence.stretch is not None:
                load.sequence.stretch.num_blocks += result.num_done
                load.sequence.stretch.copy_ns += result.copy_ns
            if not load.num_outstanding:
                self._finish(load, now_ns)

    def sweep(self, now_ns: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, _, load = heappop(self._deadlines)
            if load.is_live:
                self._give_up(load, now_ns)

    def next_deadline_ns(self) -> int | None:
        while self._deadlines and not self._deadlines[0][2].is_live:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def reset(self) -> None:
        """The session is over: no result will come."""
        self._in_flight.clear()
        self._deadlines.clear()

    def _finish(self, load: Load, now_ns: int) -> None:
        sequence = load.sequence
        if load.first_failed <= load.last_shared:
            # Blocks of others lie behind the gap; they must not be written. The next admission stops at the gap.
            self._book.requeue(sequence, now_ns)
            return
        sequence.load = None
        self._book.batch.go_on_from(sequence, load.first_failed)
        sequence.enter(Phase.PREFILL, now_ns)

    def _give_up(self, load: Load, now_ns: int) -> None:
        """Too late: what has not come counts as absent, and its blocks stay pinned until the result."""
        host = self._book.batch.residency.host
        assert host is not None
        self.num_late += 1
        if load.sequence.stretch is not None:
            load.sequence.stretch.is_abandoned = True
        for other, transfer in self._in_flight.values():
            if other is load:
                for key in transfer.keys:
                    host.drop(key)
                self._book.batch.loading.difference_update(transfer.keys)
        self._book.batch.pool.announce()
        self._book.requeue(load.sequence, now_ns)


def _chunks(rows: list[Row], size: int) -> list[list[Row]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
