"""What a link to a worker may be in, and whom it tells."""

import enum
from typing import TYPE_CHECKING, Protocol

from engine.blocks.disk import DiskMirror
from engine.scheduling.request import Event, Request
from tiercel.v1 import execution_pb2

if TYPE_CHECKING:
    from services.scheduler.link import WorkerLink


class LinkState(enum.StrEnum):
    """As `infer-cli status` shows it.

    lost -> loading -> ready -> draining -> lost
                 └─▶ mismatch, asked again after a while     another model than the other workers'
    """

    LOST = "lost"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    MISMATCH = "mismatch"


class LinkOwner(Protocol):
    """Who decides what becomes of a link's requests: `services.scheduler.dispatcher.Dispatcher`."""

    def accepts(self, link: "WorkerLink", ready: execution_pb2.Ready) -> str | None:
        """None if the worker may serve; else why not."""
        ...

    def disk_mirror(self, ready: execution_pb2.Ready) -> DiskMirror | None:
        """What is known of the worker's disk, shared with the other workers on it. None: it has none."""
        ...

    def on_link_changed(self, link: "WorkerLink") -> None:
        """The link's state is another one now."""
        ...

    def on_events(self, events: list[Event]) -> None: ...

    def on_handed_back(self, requests: list[Request]) -> None:
        """Requests that had not started on a link that takes no more work."""
        ...

    def client_id(self, engine_id: str) -> str: ...


class SessionBroken(Exception):
    """The session cannot go on; the message says why."""
