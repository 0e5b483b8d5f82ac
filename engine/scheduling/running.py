"""The sequences that hold a slot and blocks on the worker."""

from bisect import bisect_left, insort

from engine.blocks.pool import BlockPool
from engine.blocks.tickets import TicketRegistry
from engine.ids import BlockId, SeqSlot
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.live_request import LiveRequest
from engine.scheduling.sequence import Sequence, rank_of


class RunningBatch:
    """Owns the slots and the block pool of one worker session, and who holds what of them.

    A sequence gets the blocks of all its known tokens when it is admitted, so a prefill that has begun never
    lacks room. Room for output is found as it is needed.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self.pool = BlockPool(config.num_blocks)
        self.tickets = TicketRegistry(self.pool)
        self.sequences: list[Sequence] = []
        """By rank, best first."""
        self._free_slots = [SeqSlot(i) for i in reversed(range(config.max_seqs))]
        self._released_slots: list[SeqSlot] = []
        self._sharing: dict[LiveRequest, None] = {}

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free_slots)

    def try_admit(self, sequence: Sequence) -> bool:
        """Give the sequence a slot and the blocks of all its known tokens, if both are there.

        Blocks that already hold its first tokens are shared; at least its last token is left to compute.
        """
        config, pool = self._config, self.pool
        if not self._free_slots:
            return False
        num_running = len(self.sequences)
        headroom = config.headroom_blocks_per_sequence * (num_running + 1) if num_running else 0
        # At least one block is new. Looking up the others is what costs, with a long prompt.
        if headroom >= pool.num_allocatable or pool.num_openings < sequence.retry_at:
            return False
        hits = self._longest_hit(sequence)
        num_new = config.num_blocks_for(len(sequence.token_ids)) - len(hits)
        num_missing = num_new - (pool.num_allocatable - pool.num_allocatable_among(hits))
        if num_missing + headroom > 0:
            sequence.retry_at = pool.num_openings + max(num_missing, 0)
            return False
        pool.acquire(hits)
        sequence.blocks = hits + pool.allocate(num_new)
        sequence.slot = self._free_slots.pop()
        sequence.num_sent_blocks = sequence.num_published = len(hits)
        sequence.num_computed = sequence.num_scheduled = len(hits) * config.block_size
        insort(self.sequences, sequence, key=rank_of)
        return True

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
        for i in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[i], sequence.chain.keys[i])
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

    def _longest_hit(self, sequence: Sequence) -> list[BlockId]:
        block_size = self._config.block_size
        max_blocks = (len(sequence.token_ids) - 1) // block_size
        live = sequence.request
        if live.wants_prompt_scores:
            # The logits of every prompt position are wanted; those that have been scored may come from the cache.
            assert live.prompt_scores is not None
            max_blocks = min(max_blocks, len(live.prompt_scores) // block_size)
        shared = live.shared_blocks[:max_blocks]
        if not self._config.prefix_cache:
            return shared
        sequence.chain.extend(sequence.token_ids)
        cached = self.pool.longest_prefix(sequence.chain.keys, max_blocks)
        return cached if len(cached) > len(shared) else shared
