"""What is pinned on one worker: remembered from one session to the next here, and for longer by the worker's disk."""

from engine.errors import TierFull
from engine.ids import BlockKey
from engine.scheduling.scheduler import Scheduler
from services.common import logs
from services.common.keys_wire import keys_from_wire
from services.scheduler.execution_wire import pin_to_wire
from tiercel.v1 import execution_pb2

_log = logs.get_logger(__name__)


class LinkPins:
    """On the loop's thread. Outlives the sessions of its link."""

    def __init__(self, address: str) -> None:
        self.notes: dict[str, str] = {}
        """By name: why it is not pinned, or not for as long as it should be."""
        self._address = address
        self._has_disk = False
        self._num_unanswered = 0
        # Of the session before: the namespace of the keys, and the keys by name.
        self._namespace = b""
        self._pinned: dict[str, tuple[BlockKey, ...]] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the disk has all that was pinned, or has said why not."""
        return not self._num_unanswered

    def begin(self, scheduler: Scheduler, ready: execution_pb2.Ready) -> None:
        """A session is ready. What was pinned stays so, as long as the worker that comes back serves the same."""
        self.notes.clear()
        self._has_disk = bool(ready.disk_id)
        self._num_unanswered = 0
        if self._namespace != ready.namespace:
            self._namespace, self._pinned = ready.namespace, {}
        for name, keys in self._pinned.items():
            self._pin(scheduler, name, keys)

    def take_messages(self, scheduler: Scheduler) -> list[execution_pb2.PlanMessage]:
        """What the worker is to write to its disk, for what has changed since the last call."""
        changes = scheduler.pins.take_changes()
        if not self._has_disk:
            return []
        self._num_unanswered += len(changes)
        return [pin_to_wire(change) for change in changes]

    def on_told(self, scheduler: Scheduler, message: execution_pb2.PinnedKeys) -> None:
        """The disk has this pinned, by an earlier scheduler or through another worker."""
        self._pin(scheduler, message.name, tuple(keys_from_wire(message.keys)))

    def on_kept(self, message: execution_pb2.PinKept) -> None:
        self._num_unanswered -= 1
        if message.why_not:
            self._note(message.name, f"pinned until the services stop, not on disk: {message.why_not}")

    def unpin(self, scheduler: Scheduler | None, name: str) -> bool:
        """Whether there was anything of that name. `scheduler` None: the worker is away."""
        is_known = self._pinned.pop(name, None) is not None and scheduler is None
        is_known |= self.notes.pop(name, None) is not None
        if scheduler is not None:
            is_known |= name in scheduler.pins.names
            scheduler.pins.unpin(name)
        return is_known

    def names(self, scheduler: Scheduler | None) -> list[str]:
        """All that can be unpinned."""
        own = self._pinned if scheduler is None else scheduler.pins.names
        return [*dict.fromkeys([*own, *self.notes])]

    def end(self, scheduler: Scheduler) -> None:
        """The session is over."""
        self._pinned = scheduler.pins.keys_by_name()
        self._num_unanswered = 0

    def _pin(self, scheduler: Scheduler, name: str, keys: tuple[BlockKey, ...]) -> None:
        known = scheduler.pins.keys_by_name().get(name, ())
        try:
            scheduler.pins.pin(name, [*known, *keys])
        except TierFull as error:
            self._note(name, f"pinned no longer: {error}")

    def _note(self, name: str, why: str) -> None:
        self.notes[name] = why
        _log.error("a pin is lost", extra=logs.fields(worker=self._address, name=name, reason=why))
