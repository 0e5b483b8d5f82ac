"""The sequences that wait for a slot."""

from bisect import bisect_left
from typing import TYPE_CHECKING

from engine.scheduling.sequence import Sequence, rank_of
from engine.scheduling.timeline import Phase

if TYPE_CHECKING:
    from engine.scheduling.fetch_wait import FetchWait


class WaitingQueue:
    """Ordered by rank: priority first, then the order of arrival. A preempted sequence or a fork takes the place
    that its request's arrival gives it, ahead of everything that came later.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self.num_tokens = 0
        """Tokens that the waiting sequences will have to compute, prefix hits aside."""

    def __len__(self) -> int:
        return len(self._sequences)

    def push(self, sequence: Sequence, now_ns: int) -> None:
        position = bisect_left(self._sequences, sequence.rank, key=rank_of)
        self._sequences.insert(position, sequence)
        self.num_tokens += len(sequence.token_ids)
        sequence.enter(Phase.QUEUE, now_ns).num_ahead = position

    def remove(self, sequence: Sequence) -> None:
        position = bisect_left(self._sequences, sequence.rank, key=rank_of)
        assert self._sequences[position] is sequence
        del self._sequences[position]
        self.num_tokens -= len(sequence.token_ids)

    def first_ready(self, count: int) -> "tuple[list[Sequence], list[FetchWait]]":
        """The first sequences that wait for no fetch, and the waits of those that stand between them."""
        ready: list[Sequence] = []
        waits: list[FetchWait] = []
        for sequence in self._sequences:
            if sequence.fetch is not None and sequence.fetch.is_waiting:
                waits.append(sequence.fetch)
                continue
            ready.append(sequence)
            if len(ready) == count:
                break
        return ready, waits

    def first(self, count: int) -> list[Sequence]:
        return self._sequences[:count]
