"""A sequence that waits for the disk, and the chunks that it waits for."""

from collections import deque

from engine.ids import BlockKey, TransferId
from engine.scheduling.sequence import Sequence


class FetchChunk:
    """Keys that are fetched together, at successive depths of one chain. Several requests may wait for them."""

    __slots__ = ("depth", "has_failed", "is_over", "keys", "num_done", "tenant", "waits")

    def __init__(self, keys: list[BlockKey], depth: int, tenant: str) -> None:
        self.keys = keys
        self.depth = depth
        """Of the first key."""
        self.tenant = tenant
        self.waits: list[FetchWait] = []
        self.is_over = False
        self.has_failed = False
        self.num_done = 0


class FetchWait:
    """What one waiting sequence is waiting for."""

    __slots__ = (
        "blocked_ns",
        "chunks",
        "deadline_ns",
        "fetched",
        "is_waiting",
        "is_wanted",
        "loaded",
        "loading",
        "num_blocks",
        "num_missing_tokens",
        "sequence",
    )

    def __init__(self, sequence: Sequence, chunks: list[FetchChunk], num_blocks: int, num_missing_tokens: int) -> None:
        self.sequence = sequence
        self.chunks = deque(chunks)
        """Not over yet, in the order of the chain."""
        self.num_blocks = num_blocks
        """The sequence's first blocks: what is here and what is worth bringing."""
        self.num_missing_tokens = num_missing_tokens
        """What would have to be computed without the disk."""
        self.blocked_ns: int | None = None
        """When the sequence could first have been admitted."""
        self.deadline_ns: int | None = None
        self.is_waiting = True
        """Whether admission waits."""
        self.is_wanted = True
        """Whether chunks that have not been sent are still worth sending: until the sequence leaves the queue."""
        self.fetched: set[BlockKey] = set()
        self.loaded: set[BlockKey] = set()
        """What was sent on to the device for it while it waited."""
        self.loading: dict[TransferId, int] = {}
        """Early loads under way that are not late, and their blocks."""

    def leave(self) -> None:
        """The sequence has left the queue."""
        self.is_waiting = self.is_wanted = False
