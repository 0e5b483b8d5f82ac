"""A fake of CUDA graphs for tests without a GPU: a "graph" calls again what was recorded.

Like a graph it knows nothing of the step that it is replayed for, only the tensors that the work has taken hold of.
Unlike one it also runs Python again, so it does not show that the work can be captured.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class ReplayedCall:
    work: Callable[[], object]
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        self.work()


@dataclass
class FakeGraphRecorder:
    graphs: list[ReplayedCall] = field(default_factory=list)
    """In the order in which they were recorded."""

    def record(self, work: Callable[[], object]) -> ReplayedCall:
        work()
        self.graphs.append(ReplayedCall(work))
        return self.graphs[-1]

    @property
    def num_replays(self) -> int:
        return sum(graph.num_replays for graph in self.graphs)
