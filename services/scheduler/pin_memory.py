"""What was pinned on a worker stays so when its session ends and it comes back."""

from engine.errors import TierFull
from engine.ids import BlockKey
from engine.scheduling.scheduler import Scheduler
from services.common import logs

_log = logs.get_logger(__name__)


class PinMemory:
    """Of one worker, as long as it serves the same namespace."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._namespace = b""
        self._keys: dict[str, tuple[BlockKey, ...]] = {}

    def remember(self, scheduler: Scheduler, namespace: bytes) -> None:
        self._namespace, self._keys = namespace, scheduler.pinned_keys()

    def pin_again(self, scheduler: Scheduler, namespace: bytes) -> None:
        if self._namespace != namespace:
            return
        for name, keys in self._keys.items():
            try:
                scheduler.pin(name, keys)
            except TierFull as error:
                _log.error("pinned no longer", extra=logs.fields(worker=self._worker, name=name, reason=str(error)))
