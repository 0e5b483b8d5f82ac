"""What readers of the disk tier noted and the writer has not applied yet: no reader ever takes the write lock."""

import threading
from dataclasses import dataclass


@dataclass(slots=True)
class Hits:
    """Of one record."""

    count: int = 0
    used_ns: int = 0


class ReaderNotes:
    """Hits, and records found corrupt. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hits: dict[bytes, Hits] = {}
        self._condemned: dict[bytes, int] = {}

    def __bool__(self) -> bool:
        return bool(self._hits or self._condemned)

    def is_condemned(self, key: bytes) -> bool:
        """Whether the record that the index has under the key was found corrupt, so it counts as absent."""
        return key in self._condemned

    def add_hit(self, key: bytes, now_ns: int) -> None:
        with self._lock:
            hits = self._hits.setdefault(key, Hits())
            hits.count += 1
            hits.used_ns = now_ns

    def condemn(self, key: bytes, generation: int) -> bool:
        """False where another reader was faster."""
        with self._lock:
            is_new = self._condemned.get(key) != generation
            self._condemned[key] = generation
        return is_new

    def take_hits(self) -> dict[bytes, Hits]:
        """They are only worth a try: lost if the caller cannot write them."""
        with self._lock:
            hits, self._hits = self._hits, {}
        return hits

    def condemned(self) -> dict[bytes, int]:
        """Generation by key. They stay until `forget`, after the commit that deleted them."""
        with self._lock:
            return dict(self._condemned)

    def forget(self, condemned: dict[bytes, int]) -> None:
        with self._lock:
            for key, generation in condemned.items():
                if self._condemned.get(key) == generation:
                    del self._condemned[key]

    def clear(self) -> None:
        with self._lock:
            self._hits.clear()
            self._condemned.clear()
