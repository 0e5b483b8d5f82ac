"""One call of ManageCache: the disk's care runs on a thread of its own, its events come to the loop."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, Callable

from engine.errors import InvalidRequest
from kvstore.errors import TierError
from services.common import logs
from services.worker.cache_wire import (
    clearing_to_wire,
    description_to_wire,
    failure_to_wire,
    progress_to_wire,
    verification_to_wire,
)
from services.worker.disk_keeper import CareStopped, DiskKeeper
from tiercel.v1 import common_pb2

_log = logs.get_logger(__name__)

_PROGRESS_INTERVAL_NS = 50_000_000

Say = Callable[[common_pb2.ManageCacheEvent], None]


async def look_after(
    keeper: DiskKeeper, request: common_pb2.ManageCacheRequest
) -> AsyncGenerator[common_pb2.ManageCacheEvent, None]:
    """Carry the request out. When the iterator is closed, the thread ends at the next record."""
    loop = asyncio.get_running_loop()
    # A progress report every so often and then the result: bounded whatever the reader does.
    news: asyncio.Queue[common_pb2.ManageCacheEvent | None] = asyncio.Queue()
    unwanted = threading.Event()

    def tell(event: common_pb2.ManageCacheEvent | None) -> None:
        # A closed loop means that the process is leaving.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(news.put_nowait, event)

    def work() -> None:
        try:
            _carry_out(keeper, request, tell, lambda: not unwanted.is_set())
        finally:
            tell(None)

    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        while (event := await news.get()) is not None:
            yield event
        await working
    finally:
        unwanted.set()


def _carry_out(
    keeper: DiskKeeper, request: common_pb2.ManageCacheRequest, say: Say, is_wanted: Callable[[], bool]
) -> None:
    try:
        match request.WhichOneof("action"):
            case "describe":
                say(description_to_wire(keeper, keeper.stats(is_wanted)))
            case "verify":
                for event in verification_to_wire(keeper.verify(is_wanted, _sparsely(say))):
                    say(event)
            case "clear":
                num_cleared = keeper.clear(is_wanted, all_namespaces=request.clear.all_namespaces)
                _log.info("disk cleared", extra=logs.fields(directory=str(keeper.directory), records=num_cleared))
                say(clearing_to_wire(num_cleared))
            case action:
                raise InvalidRequest(f"a worker cannot be asked to {action}; run one release of all services")
    except (TierError, OSError) as error:
        say(failure_to_wire(str(error)))
    except CareStopped:
        say(failure_to_wire("it was stopped before it was done: the worker is leaving"))


def _sparsely(say: Say) -> Callable[[int, int], None]:
    """Progress reports no more often than people can see."""
    said_ns = 0

    def report(num_done: int, num_records: int) -> None:
        nonlocal said_ns
        now_ns = time.monotonic_ns()
        if num_done == num_records or now_ns - said_ns >= _PROGRESS_INTERVAL_NS:
            said_ns = now_ns
            say(progress_to_wire(num_done, num_records))

    return report
