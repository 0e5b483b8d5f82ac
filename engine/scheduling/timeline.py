"""Where the time of one request went, written down as it goes: plain data, on the clock of the scheduler's callers.

    QUEUE ─▶ FETCH ─▶ QUEUE ─▶ LOAD ─▶ QUEUE ─▶ PREFILL ─▶ PREFILL ─▶ decoding, for which nothing is written down
      ▲                                                                   │
      └───────────────────────────── preempted ───────────────────────────┘

Each choice is in one phase at a time, and one begins where the last one ends: before the first token nothing is left
out and nothing counted twice.
"""

import enum
from dataclasses import dataclass, field

_MAX_STRETCHES = 256
"""Of one request. A longer story is told with longer stretches."""


class Phase(enum.Enum):
    QUEUE = "queue"
    FETCH = "fetch"
    """Waiting in the queue, for blocks from disk."""
    LOAD = "load"
    """In a slot, waiting for blocks from host memory."""
    PREFILL = "prefill"
    """From when its chunk could be computed to when it was: the steps before it on the worker included."""


@dataclass(slots=True)
class Stretch:
    """One choice in one phase, `[start_ns, end_ns)`. What does not belong to the phase stays 0."""

    number: int
    """Unique within the request; never that of another stretch."""
    phase: Phase
    index: int
    start_ns: int
    end_ns: int = -1
    """-1 while it lasts."""
    num_ahead: int | None = None
    """QUEUE: sequences that stood before this one when it came; None where it goes on waiting."""
    first_token: int = 0
    """PREFILL: position of the first one."""
    num_tokens: int = 0
    """PREFILL: computed."""
    compute_ns: int = 0
    """PREFILL: of the worker's step, which others shared."""
    num_blocks: int = 0
    """FETCH, LOAD: that came."""
    num_wanted_blocks: int = 0
    """FETCH, LOAD: that were asked for."""
    copy_ns: int = 0
    """FETCH, LOAD: spent moving them, on the worker."""
    is_abandoned: bool = False
    """FETCH, LOAD: it took too long, and what had not come by then was computed."""


@dataclass(frozen=True, slots=True)
class Preemption:
    index: int
    at_ns: int
    num_computed: int
    """Tokens whose K and V the choice gave up; some of them may be found again in the cache."""


@dataclass(slots=True)
class Timeline:
    """Of one request. Those that write to it own the stretches that they began until they end them."""

    stretches: list[Stretch] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    _num_begun: int = 0

    def begin(self, phase: Phase, index: int, now_ns: int) -> Stretch:
        stretches = self.stretches
        if len(stretches) >= _MAX_STRETCHES:
            last = next((each for each in reversed(stretches) if (each.phase, each.index) == (phase, index)), None)
            if last is not None:
                last.end_ns = -1
                return last
        self._num_begun += 1
        stretch = Stretch(self._num_begun, phase, index, now_ns)
        stretches.append(stretch)
        return stretch

    def end(self, stretch: Stretch, now_ns: int) -> None:
        """One that took no time and did nothing is forgotten."""
        stretch.end_ns = max(now_ns, stretch.start_ns)
        did_nothing = not stretch.num_tokens and not stretch.num_wanted_blocks
        if did_nothing and stretch.end_ns == stretch.start_ns and stretch is self.stretches[-1]:
            self.stretches.pop()

    def total_ns(self, phase: Phase) -> int:
        """Spent in this phase by all choices, once they have left it."""
        return sum(stretch.end_ns - stretch.start_ns for stretch in self.stretches if stretch.phase is phase)

    def close(self, now_ns: int) -> None:
        """The request is over, and whatever it was in."""
        for stretch in self.stretches:
            if stretch.end_ns < 0:
                stretch.end_ns = max(now_ns, stretch.start_ns)
