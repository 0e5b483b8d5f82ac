"""What a service says about its start: JSON lines through a named pipe, so that nobody polls a file."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any


class Announcements:
    """The reading end of one service's `--announce` pipe. Belongs to the loop that makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        # Opened for both directions: a pipe without a reader would block the writer, and one without a writer
        # would read as ended.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self._events.get()

    def _on_readable(self) -> None:
        try:
            self._rest += os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                self._events.put_nowait(event)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)
