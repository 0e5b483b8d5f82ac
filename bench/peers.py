"""A peer is something that serves a checkpoint and can be measured: this stack, or a library beside it."""

from typing import Protocol

from bench.records import RequestRecord
from bench.workloads import Workload


class Peer(Protocol):
    """Started once, measured in many rounds; idle between them."""

    name: str

    def start(self) -> None: ...

    def run(self, workload: Workload) -> list[RequestRecord]:
        """Serve the workload and report each request, in its order."""
        ...

    def stop(self) -> None: ...
