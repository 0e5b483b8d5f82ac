"""What people ask of the cache: pins are the scheduler's own business, disks are asked through one worker each."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc

from engine.errors import InvalidRequest, WorkerLost
from services.common import logs
from services.common.channel import dial
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.dispatcher import Dispatcher
from services.scheduler.link import WorkerLink
from tiercel.v1 import common_pb2, execution_pb2_grpc

_log = logs.get_logger(__name__)


class CacheRelay:
    """On the loop's thread. Dials for each question: none of it passes through a worker's session."""

    def __init__(self, dispatcher: Dispatcher, config: SchedulerServiceConfig) -> None:
        self._dispatcher = dispatcher
        self._config = config

    async def answer(self, request: common_pb2.ManageCacheRequest) -> AsyncGenerator[common_pb2.ManageCacheEvent, None]:
        """Raises WorkerLost where no worker is ready, and InvalidRequest for a question of a later release."""
        links = self._dispatcher.ready_links
        if not links:
            states = "; ".join(f"{link.address} is {link.state}" for link in self._dispatcher.links)
            raise WorkerLost(f"no worker is ready: {states}; try again when one is")
        match request.WhichOneof("action"):
            case "describe":
                for event in _pinned(links):
                    yield event
            case "verify":
                pass
            case "clear":
                # First, so that nothing of them is persisted again.
                for event in self._unpin(None):
                    yield event
                for link in links:
                    yield _memory_cleared(link)
            case "unpin":
                for event in self._unpin(request.unpin.name):
                    yield event
                return
            case "settle":
                for link in links:
                    yield await _settled(link, request.settle.timeout_ns / 1e9)
                return
            case _:
                raise InvalidRequest("this scheduler does not know what is asked; run one release of all services")
        for link in _one_per_disk(links):
            async for event in self._ask(link, request):
                event.worker = link.address
                yield event

    def _unpin(self, name: str | None) -> list[common_pb2.ManageCacheEvent]:
        """On workers that are away too, or they would pin it again when they are back. `name` None: all of them."""
        return [
            common_pb2.ManageCacheEvent(worker=link.address, unpinned=common_pb2.Unpinned(name=pinned))
            for link in self._dispatcher.links
            for pinned in link.pins.names(link.scheduler)
            if name in (None, pinned) and link.unpin(pinned)
        ]

    async def _ask(
        self, link: WorkerLink, request: common_pb2.ManageCacheRequest
    ) -> AsyncGenerator[common_pb2.ManageCacheEvent, None]:
        """What fails here must not keep the other disks from answering."""
        try:
            async with dial(link.address, self._config) as channel:
                async for event in execution_pb2_grpc.ExecutionStub(channel).ManageCache(request):
                    yield event
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            _log.error("a worker could not be asked about its disk", extra=logs.fields(worker=link.address, why=reason))
            yield common_pb2.ManageCacheEvent(failure=common_pb2.CareFailure(message=reason))


def _memory_cleared(link: WorkerLink) -> common_pb2.ManageCacheEvent:
    cleared = link.clear_cached()
    return common_pb2.ManageCacheEvent(
        worker=link.address,
        memory_clearing=common_pb2.MemoryClearing(
            device_blocks=cleared.num_device_blocks, host_blocks=cleared.num_host_blocks, kept_blocks=cleared.num_kept
        ),
    )


async def _settled(link: WorkerLink, timeout_s: float) -> common_pb2.ManageCacheEvent:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(link.saved.wait(), timeout_s)
    settling = common_pb2.CacheSettling(is_settled=link.saved.is_set())
    return common_pb2.ManageCacheEvent(worker=link.address, settling=settling)


def _one_per_disk(links: list[WorkerLink]) -> list[WorkerLink]:
    """One worker of each disk and namespace, and all without one: they say why."""
    chosen: dict[object, WorkerLink] = {}
    for link in links:
        assert link.ready is not None
        chosen.setdefault((link.ready.disk_id, link.ready.namespace) if link.ready.disk_id else link, link)
    return list(chosen.values())


def _pinned(links: list[WorkerLink]) -> list[common_pb2.ManageCacheEvent]:
    return [
        common_pb2.ManageCacheEvent(
            worker=link.address,
            pinned=common_pb2.PinnedPrefix(
                name=pin.name,
                blocks=pin.num_blocks,
                device_blocks=pin.num_on_device,
                host_blocks=pin.num_on_host,
                disk_blocks=pin.num_on_disk,
            ),
        )
        for link in links
        if link.scheduler is not None
        for pin in link.scheduler.pins.figures()
    ]
