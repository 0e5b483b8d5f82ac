"""The sequences that hold a slot and blocks on the worker."""

from bisect import bisect_left, insort
from collections.abc import Callable, Container
from itertools import groupby

from engine.blocks.disk import DiskMirror
from engine.blocks.residency import Residency, Run, Tier
from engine.blocks.tickets import TicketRegistry
from engine.ids import BlockId, BlockKey, HostSlot, SeqSlot
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.live_request import LiveRequest
from engine.scheduling.rates import Rates
from engine.scheduling.request import CachedTokens
from engine.scheduling.sequence import Sequence, rank_of

_Place = tuple[BlockId | None, HostSlot | None]
"""The block on the device, or else the host slot."""


class RunningBatch:
    """Owns the slots and the block pool of one worker session, and who holds what of them.

    A sequence gets the blocks of all its known tokens when it is admitted, so a prefill that has begun never
    lacks room. Room for output is found as it is needed.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        rates: Rates,
        disk: DiskMirror | None = None,
        kept: Container[BlockKey] = (),
    ) -> None:
        self._config = config
        self._rates = rates
        self._kept = kept
        num_host_slots = config.num_host_slots if config.has_host else 0
        self.residency = Residency(config.num_blocks, num_host_slots, disk, config.max_host_slots_per_tenant, kept)
        self.pool = self.residency.pool
        self.tickets = TicketRegistry(self.pool, self.residency.host)
        self.loading: set[BlockKey] = set()
        """Keys that are being loaded for some sequence; others wait for them rather than load them twice."""
        self.to_spill: list[BlockKey] = []
        """What preempted sequences had computed."""
        self.to_write_through: list[BlockKey] = []
        """What a second request has hit, or is pinned and was just computed."""
        self.sequences: list[Sequence] = []
        """By rank, best first."""
        self._free_slots = [SeqSlot(i) for i in reversed(range(config.max_seqs))]
        self._released_slots: list[SeqSlot] = []
        self._sharing: dict[LiveRequest, None] = {}

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots)

    def try_admit(self, sequence: Sequence, now_ns: int, waits_for_more: Callable[[Sequence, int, int], bool]) -> bool:
        """Give the sequence a slot and the blocks of all its known tokens, if both are there.

        Blocks that already hold its first tokens are shared; at least its last token is left to compute. Where
        `sequence.to_load` names blocks afterwards, the caller has them loaded, and then lets it go on.
        `waits_for_more(sequence, blocks found, now_ns)` is asked at the last moment whether it stays in the queue.
        """
        config, pool = self._config, self.pool
        if not self._free_slots:
            return False
        num_running = len(self.sequences)
        headroom = config.headroom_blocks_per_sequence * (num_running + 1) if num_running else 0
        # At least one block is new. Looking up the others is what costs, with a long prompt.
        if headroom >= pool.num_allocatable or pool.num_openings < sequence.retry_at:
            return False
        located = self._locate_hit(sequence, now_ns)
        if located is None:
            sequence.retry_at = pool.num_openings + 1
            return False
        hits = [block for block, _ in located if block is not None]
        num_new = config.num_blocks_for(len(sequence.token_ids)) - len(hits)
        num_missing = num_new - (pool.num_allocatable - pool.num_allocatable_among(hits))
        if num_missing + headroom > 0:
            sequence.retry_at = pool.num_openings + max(num_missing, 0)
            return False
        if waits_for_more(sequence, len(located), now_ns):
            return False
        pool.acquire(hits)
        blocks = pool.allocate(num_new)
        if len(hits) == len(located):
            sequence.blocks = hits + blocks
        else:
            new_blocks = iter(blocks)
            sequence.blocks = [next(new_blocks) if block is None else block for block, _ in located]
            sequence.to_load = [(i, slot) for i, (_, slot) in enumerate(located) if slot is not None]
            sequence.blocks += new_blocks
        sequence.slot = self._free_slots.pop()
        sequence.num_hit_blocks = len(located)
        insort(self.sequences, sequence, key=rank_of)
        if self.residency.host is not None and not sequence.request.has_started:
            self.to_write_through += sequence.chain.keys[: len(located)]
        if not sequence.to_load:
            self.go_on_from(sequence, len(located))
        return True

    def go_on_from(self, sequence: Sequence, num_blocks: int) -> None:
        """The sequence's first blocks hold their content, and work can be planned for what is behind them."""
        size = self._config.block_size
        sequence.num_sent_blocks = sequence.num_published = num_blocks
        sequence.num_computed = sequence.num_scheduled = num_blocks * size
        cached = CachedTokens(device=num_blocks * size)
        if sequence.to_load or sequence.loaded_early:
            loaded = {index for index, _ in sequence.to_load}
            for index, key in enumerate(sequence.chain.keys[:num_blocks]):
                if index not in loaded and key not in sequence.loaded_early:
                    continue
                cached.device -= size
                if key in sequence.fetched:
                    cached.disk += size
                else:
                    cached.host += size
        sequence.cached = cached
        sequence.to_load = []

    def try_grow(self, sequence: Sequence) -> bool:
        """Append one block to the sequence's table, if one can be had."""
        if not self.pool.num_allocatable:
            return False
        sequence.blocks += self.pool.allocate(1)
        return True

    def vacate(self, sequence: Sequence) -> None:
        """Take slot and blocks back. Published blocks stay cached; rows in flight become void."""
        assert sequence.slot is not None
        position = bisect_left(self.sequences, sequence.rank, key=rank_of)
        assert self.sequences[position] is sequence
        del self.sequences[position]
        self._free_slots.append(sequence.slot)
        if sequence.is_introduced:
            self._released_slots.append(sequence.slot)
        self.pool.release(sequence.blocks)
        sequence.reset()

    def take_released_slots(self) -> list[SeqSlot]:
        """For the next plan, which may hand the same slots out again: the worker releases first."""
        released, self._released_slots = self._released_slots, []
        return released

    def publish(self, sequence: Sequence) -> None:
        """Let the keys of the sequence's computed full blocks name them."""
        num_full = sequence.num_computed // self._config.block_size
        if num_full <= sequence.num_published or not self._config.prefix_cache:
            return
        sequence.chain.extend(sequence.token_ids)
        keys, request = sequence.chain.keys, sequence.request.request
        keeps = request.keep_prefix and self.residency.host is not None
        num_to_keep = len(request.prompt_token_ids) // self._config.block_size if keeps else 0
        for i in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[i], keys[i], i, request.tenant)
            if keys[i] in self._kept or i < num_to_keep:
                self.to_write_through.append(keys[i])
        sequence.num_published = num_full

    def share_prompt(self, leader: Sequence) -> None:
        """Keep the leader's full prompt blocks for the forks of its request, whatever becomes of the leader."""
        live = leader.request
        assert not live.shared_blocks
        num_shared = (leader.num_prompt_tokens - 1) // self._config.block_size
        live.shared_blocks = leader.blocks[:num_shared]
        self.pool.acquire(live.shared_blocks)
        self._sharing[live] = None

    def stop_sharing(self, live: LiveRequest) -> None:
        """Forks that have not started will find their prompt in the prefix cache, or compute it."""
        self.pool.release(live.shared_blocks)
        live.shared_blocks = []
        self._sharing.pop(live, None)

    def stop_all_sharing(self) -> bool:
        """Whether there was anything to give up."""
        sharing = list(self._sharing)
        for live in sharing:
            self.stop_sharing(live)
        return bool(sharing)

    def note_preempted(self, sequence: Sequence) -> None:
        """What the sequence has computed shall go down, as it is about to lose its blocks."""
        if self.residency.host is not None:
            self.to_spill += sequence.chain.keys[: sequence.num_published]

    def _locate_hit(self, sequence: Sequence, now_ns: int) -> list[_Place] | None:
        """Where the sequence's first blocks are, as far as it is worth bringing them.

        None: some of them are just being loaded for another sequence.
        """
        block_size = self._config.block_size
        max_blocks = (len(sequence.token_ids) - 1) // block_size
        live = sequence.request
        if live.wants_prompt_scores:
            # The logits of every prompt position are wanted; those that have been scored may come from the cache.
            assert live.prompt_scores is not None
            max_blocks = min(max_blocks, len(live.prompt_scores) // block_size)
        shared: list[_Place] = [(block, None) for block in live.shared_blocks[:max_blocks]]
        if not self._config.prefix_cache:
            return shared
        sequence.chain.extend(sequence.token_ids)
        keys = sequence.chain.keys
        if self.residency.host is None:
            places: list[_Place] = [(block, None) for block in self.pool.longest_prefix(keys, max_blocks)]
        else:
            places = self.residency.locate(keys, max_blocks)
            if any(block is None for block, _ in places):
                del places[self._rates.worthwhile_blocks(_runs_of(places), now_ns) :]
                if any(block is None and keys[i] in self.loading for i, (block, _) in enumerate(places)):
                    return None
        return places if len(places) > len(shared) else shared


def _runs_of(places: list[_Place]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for is_on_host, run in groupby(places, key=lambda place: place[0] is None):
        count = sum(1 for _ in run)
        runs.append(Run(Tier.HOST if is_on_host else Tier.DEVICE, start, count))
        start += count
    return runs
