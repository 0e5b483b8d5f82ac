"""What the dispatcher keeps of each live request and of each tokenizer's stream."""

from collections import Counter
from dataclasses import dataclass, field

from services.scheduler.front import Front
from services.scheduler.link import WorkerLink
from services.scheduler.request_record import RequestRecord


@dataclass(slots=True)
class RoutedRequest:
    """A live request: whose it is, and where it runs (None: in the waiting room)."""

    front: Front
    handle: int
    client_id: str
    traceparent: str
    open_choices: set[int]
    record: RequestRecord
    link: WorkerLink | None = None


@dataclass(slots=True)
class DispatcherCounters:
    submitted: int = 0
    finished: int = 0
    refused: int = 0
    cancelled: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """By the error's class."""


@dataclass(slots=True)
class FrontEntry:
    front: Front
    engine_ids: set[str] = field(default_factory=set)
