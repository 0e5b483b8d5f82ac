"""Early loads: what a fetch has brought goes on to the device while the rest of it is still being read.

    a chunk arrives ──▶ loading ──▶ cached on the device, where admission finds it as a hit
                           └──deadline──▶ late: not waited for, out of the host tier; its target is free with the result

The sequence still waits in the queue and holds nothing. Blocks are taken only while the whole prompt has room as it
would need for admission, so that nothing is evicted that admission would have spared.
"""

from collections.abc import Callable
from heapq import heappop, heappush

from engine.blocks.pool import BlockPool
from engine.ids import BlockId, HostSlot, TransferId
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.desk import Row, TransferDesk
from engine.scheduling.fetch_wait import FetchWait
from engine.scheduling.plan import Transfer, TransferKind, TransferResult
from engine.scheduling.rates import Rates
from engine.scheduling.running import RunningBatch
from engine.scheduling.timeline import Phase


class EarlyLoader:
    """Owns the early loads in flight."""

    def __init__(
        self, config: SchedulerConfig, rates: Rates, desk: TransferDesk, batch: Callable[[], RunningBatch]
    ) -> None:
        self._config = config
        self._rates = rates
        self._desk = desk
        self._batch = batch
        self._in_flight: dict[TransferId, tuple[FetchWait, Transfer]] = {}
        self._deadlines: list[tuple[int, TransferId]] = []
        self.num_late = 0

    def owns(self, transfer_id: TransferId) -> bool:
        return transfer_id in self._in_flight

    def advance(self, wait: FetchWait, now_ns: int) -> None:
        """Load what is in the host tier of the blocks that the wait is about, up to the first that is not there yet.

        To be called when it was found that its sequence could be admitted now, and whenever a chunk has come.
        """
        if wait.blocked_ns is None or not wait.is_wanted:
            return
        config, batch = self._config, self._batch()
        pool, host, keys = batch.pool, batch.residency.host, wait.sequence.chain.keys
        assert host is not None
        hits: list[BlockId] = []
        to_load: list[tuple[int, HostSlot]] = []
        end = 0
        for end in range(wait.num_blocks):
            block = pool.lookup(keys[end])
            if block is not None:
                hits.append(block)
                continue
            if keys[end] in batch.loading:
                continue
            slot = host.lookup(keys[end])
            if slot is None:
                break
            to_load.append((end, slot))
        else:
            end = wait.num_blocks
        num_new = config.num_blocks_for(len(wait.sequence.token_ids)) - end + len(to_load)
        num_running = len(batch.sequences)
        headroom = config.headroom_blocks_per_sequence * (num_running + 1) if num_running else 0
        if not to_load or num_new + headroom > pool.num_allocatable - pool.num_allocatable_among(hits):
            return
        self._open(wait, to_load, _allocate_beside(pool, hits, len(to_load)), now_ns)

    def on_result(self, result: TransferResult, now_ns: int) -> None:
        """The ticket is still open."""
        batch = self._batch()
        wait, transfer = self._in_flight.pop(result.transfer_id)
        assert batch.residency.host is not None
        tenant = wait.sequence.request.request.tenant
        for i in range(result.num_done):
            batch.pool.publish(transfer.block_ids[i], transfer.keys[i], transfer.depths[i], tenant)
        if result.failure is not None:
            batch.residency.host.drop(transfer.keys[result.num_done])
        batch.loading.difference_update(transfer.keys)
        batch.pool.announce()
        self._count_out(wait, transfer.transfer_id, result, now_ns)

    def sweep(self, now_ns: int) -> None:
        """Too late: what has not come counts as absent, and its targets stay pinned until the result."""
        batch = self._batch()
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            entry = self._in_flight.get(heappop(self._deadlines)[1])
            if entry is None:
                continue
            self.num_late += 1
            wait, transfer = entry
            assert batch.residency.host is not None
            for key in transfer.keys:
                batch.residency.host.drop(key)
            batch.loading.difference_update(transfer.keys)
            batch.pool.announce()
            self._count_out(wait, transfer.transfer_id, None, now_ns)

    def next_deadline_ns(self) -> int | None:
        while self._deadlines and self._deadlines[0][1] not in self._in_flight:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def reset(self) -> None:
        """The session is over: no result will come."""
        self._in_flight.clear()
        self._deadlines.clear()

    def _open(self, wait: FetchWait, to_load: list[tuple[int, HostSlot]], blocks: list[BlockId], now_ns: int) -> None:
        config, batch, keys = self._config, self._batch(), wait.sequence.chain.keys
        # As long as computing them would take, as with any load.
        wait_ns = int(self._rates.compute_ns(len(to_load) * config.block_size))
        wait_ns = min(max(wait_ns, config.min_load_wait_ns), config.max_load_wait_ns)
        rows = [Row(keys[i], i, block, slot) for (i, slot), block in zip(to_load, blocks, strict=True)]
        if not wait.is_waiting:
            # What is left of the loads when the fetch is over is waited for; the rest hides behind the fetch.
            stretch = wait.sequence.stretch
            if stretch is None or stretch.phase is not Phase.LOAD:
                stretch = wait.sequence.enter(Phase.LOAD, now_ns)
            stretch.num_wanted_blocks += len(rows)
        size = config.max_transfer_blocks
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            transfer = self._desk.open(TransferKind.LOAD, some, batch.tickets, wait_ns, now_ns, waiting=wait.sequence)
            self._in_flight[transfer.transfer_id] = (wait, transfer)
            wait.loading[transfer.transfer_id] = len(some)
            heappush(self._deadlines, (now_ns + wait_ns, transfer.transfer_id))
        # The tickets keep them until the results; then they are cached like all that nobody holds.
        batch.pool.release(blocks)
        batch.loading.update(row.key for row in rows)
        wait.loaded.update(row.key for row in rows)

    def _count_out(self, wait: FetchWait, transfer_id: TransferId, result: TransferResult | None, now_ns: int) -> None:
        """An early load is over, or is late and not waited for any more."""
        if wait.loading.pop(transfer_id, None) is None:
            return
        stretch = wait.sequence.stretch
        if not wait.is_wanted or stretch is None or stretch.phase is not Phase.LOAD:
            return
        if result is None:
            stretch.is_abandoned = True
        else:
            stretch.num_blocks += result.num_done
            stretch.copy_ns += result.copy_ns
        if not wait.loading:
            wait.sequence.enter(Phase.QUEUE, now_ns)


def _allocate_beside(pool: BlockPool, hits: list[BlockId], count: int) -> list[BlockId]:
    """New blocks, none of which is had by evicting one of `hits`."""
    pool.acquire(hits)
    blocks = pool.allocate(count)
    pool.release(hits)
    return blocks
