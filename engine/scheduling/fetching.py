"""Fetches: from disk into host slots, while the request that wants them waits in the queue.

    start ──▶ waiting ──▶ over: all chunks have come, one has failed, or waiting would cost more than computing
                            └──▶ admitted, with whatever is in the host tier by then

A run is fetched in chunks, and each chunk that arrives prolongs the wait: after t in which the request could have been
admitted, it goes on waiting while `t <= computing what has arrived + max_fetch_loss * computing all`. So whatever the
disk does, the first token comes hardly later than without it. What arrives after that stays in the host tier.

A fetch starts once more, when the request could be admitted, if what was nearer at submit has been evicted since.
"""

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from engine.blocks.host import HostPool
from engine.blocks.residency import Run, Tier
from engine.ids import BlockKey, HostSlot, TransferId
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.desk import Row, TransferDesk
from engine.scheduling.fetch_wait import FetchChunk, FetchWait
from engine.scheduling.plan import TransferKind, TransferResult
from engine.scheduling.rates import Rates
from engine.scheduling.running import RunningBatch
from engine.scheduling.sequence import Sequence
from engine.scheduling.timeline import Phase

_MIN_CHUNK_BLOCKS = 4
_CHUNKS_PER_RUN = 8


class Fetcher:
    """Owns the chunks that are queued or in flight and the waits for them."""

    def __init__(
        self, config: SchedulerConfig, rates: Rates, desk: TransferDesk, batch: Callable[[], RunningBatch]
    ) -> None:
        self._config = config
        self._rates = rates
        self._desk = desk
        self._batch = batch
        self._unsent: deque[FetchChunk] = deque()
        self._in_flight: dict[TransferId, FetchChunk] = {}
        self._coming: dict[BlockKey, FetchChunk] = {}
        # (deadline, a number that is never the same, wait). A wait that was prolonged has a later entry too.
        self._deadlines: list[tuple[int, int, FetchWait]] = []
        self._num_entries = 0
        self.num_abandoned = 0

    def start(self, sequence: Sequence, now_ns: int) -> FetchWait | None:
        """Fetch what a sequence in the queue lacks, as far as that is worth it. None: nothing is waited for."""
        config, residency = self._config, self._batch().residency
        host, size = residency.host, config.block_size
        if residency.disk is None or host is None or sequence.request.wants_prompt_scores:
            return None
        keys = sequence.chain.keys
        runs = residency.longest_prefix(keys, (len(sequence.token_ids) - 1) // size)
        if not any(run.tier is Tier.DISK for run in runs):
            return None
        num_coming = sum(key in self._coming for key in keys[: runs[-1].end]) if self._coming else 0
        num_blocks = self._rates.worthwhile_blocks(runs, now_ns, num_coming)
        runs = [run for run in runs if run.end <= num_blocks]
        # Never so much that a single prompt empties the host tier, or pushes out what was fetched for itself.
        max_blocks = min(host.num_slots // 2, config.max_host_slots_per_tenant or host.num_slots)
        chunks = self._chunks_of(sequence, runs, max_blocks)
        if not chunks:
            return None
        num_near = sum(run.count for run in runs if run.tier is not Tier.DISK)
        num_missing_tokens = len(sequence.token_ids) - num_near * size
        wait = FetchWait(sequence, chunks, num_blocks, num_missing_tokens)
        num_first = 0 if chunks[0].keys[0] in self._coming else len(chunks[0].keys)
        if self._rates.move_ns(TransferKind.FETCH, num_first, now_ns) > self._patience_ns(wait):
            return None  # it would be given up before anything arrives
        for run in reversed(runs):
            if run.tier is Tier.HOST:
                # What is fetched must not push out what it is to follow.
                for key in reversed(keys[run.start : run.end]):
                    host.touch(key)
        sequence.fetch, sequence.fetched, sequence.loaded_early = wait, wait.fetched, wait.loaded
        sequence.enter(Phase.FETCH, now_ns).num_wanted_blocks = sum(len(chunk.keys) for chunk in chunks)
        for chunk in chunks:
            chunk.waits.append(wait)
            if chunk.keys[0] not in self._coming:
                self._unsent.append(chunk)
                self._coming.update(dict.fromkeys(chunk.keys, chunk))
                self._rates.queued_bytes[TransferKind.FETCH] += len(chunk.keys) * config.block_bytes
        return wait

    def on_blocked(self, wait: FetchWait, now_ns: int) -> None:
        """But for this wait the sequence could be admitted now."""
        if wait.blocked_ns is None:
            wait.blocked_ns = now_ns
            self._set_deadline(wait)

    def on_left(self, wait: FetchWait, now_ns: int) -> None:
        """The sequence has been admitted or has ended."""
        if wait.is_waiting:
            self._end(wait, now_ns)
        wait.leave()

    def pump(self, now_ns: int) -> None:
        """Send the next chunks, in order of arrival, as far as budget and host slots allow."""
        batch = self._batch()
        host = batch.residency.host
        assert host is not None
        while self._unsent:
            chunk = self._unsent[0]
            if not any(wait.is_wanted for wait in chunk.waits):
                self._take_unsent(len(chunk.keys))
                self._close(chunk)
                continue
            room = min(self._desk.room_blocks(TransferKind.FETCH), self._config.max_transfer_blocks)
            if not room:
                return
            num_held = next((i for i, key in enumerate(chunk.keys) if not host.holds(key)), len(chunk.keys))
            if num_held:
                # Somebody else has brought them.
                self._take_unsent(num_held)
                self._settle(chunk, num_held, None, now_ns)
                continue
            rows = self._reserve(host, chunk, room)
            if not rows:
                return
            self._take_unsent(len(rows))
            tickets, timeout_ns = batch.tickets, self._config.fetch_timeout_ns
            waiting = next(wait.sequence for wait in chunk.waits if wait.is_wanted)
            transfer = self._desk.open(TransferKind.FETCH, rows, tickets, timeout_ns, now_ns, chunk.tenant, waiting)
            self._in_flight[transfer.transfer_id] = chunk

    def on_result(self, result: TransferResult, slots: list[HostSlot], now_ns: int) -> list[FetchWait]:
        """Returns who has been waiting for it. The ticket is still open.

        The row that failed is not on disk any more, as far as we are concerned.
        """
        residency = self._batch().residency
        chunk = self._in_flight.pop(result.transfer_id)
        assert residency.host is not None
        for slot in slots[: result.num_done]:
            residency.host.fill(slot)
        failed_key = None if result.failure is None else chunk.keys[result.num_done]
        for wait in chunk.waits:
            if wait.is_waiting and wait.sequence.stretch is not None:
                wait.sequence.stretch.copy_ns += result.copy_ns
        self._settle(chunk, result.num_done, failed_key, now_ns)
        return chunk.waits

    def sweep(self, now_ns: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, _, wait = heappop(self._deadlines)
            if wait.is_waiting and wait.deadline_ns is not None and wait.deadline_ns <= now_ns:
                self.num_abandoned += 1
                if wait.sequence.stretch is not None:
                    wait.sequence.stretch.is_abandoned = True
                self._end(wait, now_ns)

    def next_deadline_ns(self) -> int | None:
        while self._deadlines:
            deadline_ns, _, wait = self._deadlines[0]
            if wait.is_waiting and wait.deadline_ns == deadline_ns:
                return deadline_ns
            heappop(self._deadlines)
        return None

    def reset(self) -> None:
        """The session is over: nothing will come. What waited may start anew."""
        for chunk in {id(chunk): chunk for chunk in self._coming.values()}.values():
            for wait in chunk.waits:
                wait.leave()
                wait.sequence.fetch = None
        self._rates.queued_bytes[TransferKind.FETCH] -= self._num_unsent_bytes()
        self._unsent.clear()
        self._in_flight.clear()
        self._coming.clear()
        self._deadlines.clear()

    def check_integrity(self) -> None:
        """Assert that chunks, keys and waits agree. For tests."""
        chunks = [*self._unsent, *self._in_flight.values()]
        assert sum(len(chunk.keys) for chunk in chunks) == len(self._coming)
        for chunk in chunks:
            assert not chunk.is_over
            assert all(self._coming[key] is chunk for key in chunk.keys)
        queued = self._rates.queued_bytes[TransferKind.FETCH]
        in_flight = self._desk.num_blocks_of(TransferKind.FETCH) * self._config.block_bytes
        assert queued == in_flight + self._num_unsent_bytes()

    def _num_unsent_bytes(self) -> int:
        return sum(len(chunk.keys) for chunk in self._unsent) * self._config.block_bytes

    def _chunks_of(self, sequence: Sequence, runs: list[Run], max_blocks: int) -> list[FetchChunk]:
        """The chunks that hold what the runs have on disk: new ones, and those that are on their way already."""
        keys, tenant = sequence.chain.keys, sequence.request.request.tenant
        chunks: list[FetchChunk] = []
        num_new = 0
        for run in runs:
            if run.tier is not Tier.DISK:
                continue
            size = max(_MIN_CHUNK_BLOCKS, -(-run.count // _CHUNKS_PER_RUN))
            size = min(size, self._config.max_transfer_blocks)
            fresh: FetchChunk | None = None
            for depth in range(run.start, run.end):
                key = keys[depth]
                coming = self._coming.get(key)
                if coming is not None:
                    fresh = None
                    if not chunks or chunks[-1] is not coming:
                        chunks.append(coming)
                    continue
                if num_new == max_blocks:
                    return chunks
                if fresh is None or len(fresh.keys) == size:
                    fresh = FetchChunk([], depth, tenant)
                    chunks.append(fresh)
                fresh.keys.append(key)
                num_new += 1
        return chunks

    def _reserve(self, host: HostPool, chunk: FetchChunk, room: int) -> list[Row]:
        rows: list[Row] = []
        for i, key in enumerate(chunk.keys[:room]):
            slot = None if host.holds(key) else host.reserve(key, chunk.depth + i, chunk.tenant, may_lose=True)
            if slot is None:
                break
            rows.append(Row(key, chunk.depth + i, None, slot))
        return rows

    def _take_unsent(self, count: int) -> None:
        """Take the first `count` keys of the first chunk out of the queue; the others become a chunk of their own."""
        chunk = self._unsent.popleft()
        self._rates.queued_bytes[TransferKind.FETCH] -= count * self._config.block_bytes
        if count == len(chunk.keys):
            return
        rest = FetchChunk(chunk.keys[count:], chunk.depth + count, chunk.tenant)
        del chunk.keys[count:]
        for wait in chunk.waits:
            if chunk in wait.chunks:
                wait.chunks.insert(wait.chunks.index(chunk) + 1, rest)
                rest.waits.append(wait)
        self._coming.update(dict.fromkeys(rest.keys, rest))
        self._unsent.appendleft(rest)

    def _close(self, chunk: FetchChunk) -> None:
        chunk.is_over = True
        for key in chunk.keys:
            del self._coming[key]

    def _settle(self, chunk: FetchChunk, num_done: int, failed_key: BlockKey | None, now_ns: int) -> None:
        """The chunk is over: tell those who wait for it."""
        self._close(chunk)
        chunk.num_done = num_done
        chunk.has_failed = failed_key is not None
        residency = self._batch().residency
        if failed_key is not None and residency.disk is not None:
            residency.disk.discard([failed_key])
        for wait in chunk.waits:
            if wait.is_wanted:
                self._advance(wait, now_ns)

    def _advance(self, wait: FetchWait, now_ns: int) -> None:
        while wait.chunks and wait.chunks[0].is_over:
            chunk = wait.chunks.popleft()
            wait.fetched.update(chunk.keys[: chunk.num_done])
            if chunk.has_failed:
                # What comes behind a gap is of no use to this sequence.
                for useless in wait.chunks:
                    useless.waits.remove(wait)
                wait.chunks.clear()
        if not wait.is_waiting:
            return
        if not wait.chunks:
            self._end(wait, now_ns)
        elif wait.blocked_ns is not None:
            self._set_deadline(wait)

    def _set_deadline(self, wait: FetchWait) -> None:
        assert wait.blocked_ns is not None
        size, rates = self._config.block_size, self._rates
        gained_ns = 0.0
        if wait.fetched:
            load_ns = rates.move_ns(TransferKind.LOAD, len(wait.fetched), wait.blocked_ns)
            gained_ns = max(0.0, rates.compute_ns(len(wait.fetched) * size) - load_ns)
        wait.deadline_ns = wait.blocked_ns + int(gained_ns + self._patience_ns(wait))
        self._num_entries += 1
        heappush(self._deadlines, (wait.deadline_ns, self._num_entries, wait))

    def _patience_ns(self, wait: FetchWait) -> float:
        return self._config.max_fetch_loss * self._rates.compute_ns(wait.num_missing_tokens)

    def _end(self, wait: FetchWait, now_ns: int) -> None:
        """Admission waits no longer."""
        wait.is_waiting = False
        sequence = wait.sequence
        if sequence.stretch is not None:
            sequence.stretch.num_blocks = len(wait.fetched)
        if wait.loading:
            sequence.enter(Phase.LOAD, now_ns).num_wanted_blocks = sum(wait.loading.values())
        else:
            sequence.enter(Phase.QUEUE, now_ns)
