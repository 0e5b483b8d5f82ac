"""One choice of a request: its tokens, its blocks, and how far it has come."""

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from engine.blocks.keys import KeyChain
from engine.ids import BlockId, BlockKey, HostSlot, SeqSlot
from engine.sampling import SamplingParams
from engine.scheduling.request import CachedTokens

if TYPE_CHECKING:
    from engine.scheduling.fetch_wait import FetchWait
    from engine.scheduling.live_request import LiveRequest
    from engine.scheduling.loading import Load
    from engine.scheduling.timeline import Phase, Stretch

Rank = tuple[int, int, int]
"""(priority, arrival, choice): the one order that queue, plans and preemption share. Smaller goes first."""


class Sequence:
    """Mutable state of one choice, owned by the scheduler.

        tokens   0 ............ num_computed ....... num_scheduled ..... len(token_ids) ..... num_total
                    in blocks        in plans in flight       known, to compute       sampled by plans in flight

    `0 <= num_computed <= num_scheduled <= num_total` holds at all times. While the sequence waits it has no slot
    and no block, and nothing of it is computed.
    """

    __slots__ = (
        "blocks",
        "cached",
        "chain",
        "epoch",
        "fetch",
        "fetched",
        "has_fetched_late",
        "index",
        "is_introduced",
        "load",
        "loaded_early",
        "max_total",
        "num_computed",
        "num_hit_blocks",
        "num_pending",
        "num_prompt_tokens",
        "num_published",
        "num_scheduled",
        "num_sent_blocks",
        "num_skips",
        "rank",
        "request",
        "retry_at",
        "sampling",
        "slot",
        "stretch",
        "to_load",
        "token_ids",
    )

    def __init__(
        self,
        request: "LiveRequest",
        index: int,
        token_ids: list[int],
        sampling: SamplingParams,
        chain: KeyChain,
        max_model_tokens: int,
    ) -> None:
        self.request = request
        self.index = index
        self.rank: Rank = (request.request.priority, request.arrival, index)
        self.token_ids = token_ids
        """Prompt and output as far as the scheduler knows it."""
        self.num_prompt_tokens = len(request.request.prompt_token_ids)
        self.sampling = sampling
        self.chain = chain
        self.max_total = min(self.num_prompt_tokens + sampling.max_tokens, max_model_tokens)
        """No token is sampled past this length."""
        self.epoch = 0
        """Counts the stays in the running batch. Rows of an earlier stay are void."""
        self.slot: SeqSlot | None = None
        self.blocks: list[BlockId] = []
        """Append-only while running; one reference each."""
        self.num_sent_blocks = 0
        """Blocks that the worker has been told of."""
        self.num_computed = 0
        self.num_scheduled = 0
        self.num_pending = 0
        """Tokens that plans in flight sample."""
        self.num_published = 0
        """Blocks whose keys are published, or were hits."""
        self.num_skips = 0
        """Sequences that passed this one while it headed the queue."""
        self.is_introduced = False
        """Whether the worker knows of it, in this stay in the batch."""
        self.num_hit_blocks = 0
        """Blocks that held content when it was admitted, or were to be loaded."""
        self.to_load: list[tuple[int, HostSlot]] = []
        """(index in `blocks`, source) of the blocks to be loaded, until the sequence can go on."""
        self.cached = CachedTokens()
        """What it did not have to compute in this stay."""
        self.fetch: FetchWait | None = None
        """Only in the queue: what is being fetched for it."""
        self.has_fetched_late = False
        """Whether a fetch was tried when it could be admitted, in this stay in the queue."""
        self.fetched: AbstractSet[BlockKey] = frozenset()
        """What was fetched for it before its admission."""
        self.loaded_early: AbstractSet[BlockKey] = frozenset()
        """What was loaded for it before its admission."""
        self.load: Load | None = None
        """Only in the batch: nothing is planned for it until this is over."""
        self.retry_at = 0
        """The pool's `num_openings` below which another attempt to admit this one must fail."""
        self.stretch: Stretch | None = None
        """The phase it is in; None while it decodes."""

    @property
    def num_total(self) -> int:
        return len(self.token_ids) + self.num_pending

    @property
    def waits_for_fetch(self) -> bool:
        return self.fetch is not None and self.fetch.is_waiting

    def enter(self, phase: "Phase", now_ns: int) -> "Stretch":
        """The phase before it, if there was one, ends here."""
        self.leave(now_ns)
        self.stretch = self.request.timeline.begin(phase, self.index, now_ns)
        return self.stretch

    def leave(self, now_ns: int) -> None:
        if self.stretch is not None:
            self.request.timeline.end(self.stretch, now_ns)
            self.stretch = None

    def reset(self) -> None:
        """Forget everything that depended on the slot. Rows in flight become void."""
        self.epoch += 1
        self.slot = None
        self.blocks = []
        self.num_sent_blocks = self.num_computed = self.num_scheduled = self.num_pending = self.num_published = 0
        self.num_hit_blocks = 0
        self.is_introduced = False
        self.to_load = []
        self.cached = CachedTokens()
        self.load = None
        self.retry_at = 0
        self.has_fetched_late = False

    def check_integrity(self, block_size: int) -> None:
        """Assert the order of the lengths. For tests."""
        assert 0 <= self.num_computed <= self.num_scheduled <= self.num_total <= self.max_total
        assert self.num_scheduled <= len(self.blocks) * block_size
        assert self.num_sent_blocks <= len(self.blocks)
        assert (self.slot is None) == (not self.blocks)
        assert self.slot is not None or (self.load is None and not self.is_introduced)
        assert self.slot is None or self.fetch is None
        assert self.load is None or (not self.is_introduced and not self.num_scheduled)


def rank_of(sequence: Sequence) -> Rank:
    """For sorting."""
    return sequence.rank
