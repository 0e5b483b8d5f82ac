"""ManageCache over real services and a real disk: every hop passes it on, and the session goes on beside it."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from kvstore import disk_index
from kvstore.disk import DiskTier
from kvstore.errors import NoSpaceLeft
from services.worker.disk_keeper import CareStopped, DiskKeeper
from tests.disk_rows import key_of, open_disk, store_row
from tests.fakes.worker_service import FakeEngine, FakeEngineTiers
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, eventually, running_stack
from tiercel.v1 import common_pb2, inference_pb2, inference_pb2_grpc

PROMPT = list(range(5, 46))
"""Ten blocks of four, and one token more."""

DESCRIBE = common_pb2.ManageCacheRequest(describe=common_pb2.DescribeCache())
VERIFY = common_pb2.ManageCacheRequest(verify=common_pb2.VerifyCache())
CLEAR = common_pb2.ManageCacheRequest(clear=common_pb2.ClearCache())
SETTLE = common_pb2.ManageCacheRequest(settle=common_pb2.SettleCache(timeout_ns=60 * 10**9))
CLEAR_ALL = common_pb2.ManageCacheRequest(clear=common_pb2.ClearCache(all_namespaces=True))


def unpin(name: str) -> common_pb2.ManageCacheRequest:
    return common_pb2.ManageCacheRequest(unpin=common_pb2.UnpinPrefix(name=name))


async def start(
    stack: Stack, *engines: FakeEngine, always_bring: bool = False
) -> "inference_pb2_grpc.InferenceAsyncStub":
    workers = [await stack.start_worker(engine) for engine in engines]
    scheduler = await stack.start_scheduler(workers, always_bring=always_bring)
    tokenizer = await stack.start_tokenizer(scheduler)
    await stack.serving(tokenizer)
    links = stack.scheduler().dispatcher.links
    await eventually(lambda: all(link.is_ready for link in links), "all workers are ready")
    return stack.inference(tokenizer)


def engine_on(directory: Path) -> FakeEngine:
    return FakeEngine(VOCAB_SIZE, tiers=FakeEngineTiers(directory))


async def ask(
    stub: "inference_pb2_grpc.InferenceAsyncStub", request: common_pb2.ManageCacheRequest
) -> list[common_pb2.ManageCacheEvent]:
    return [event async for event in stub.ManageCache(request)]


async def generate(stub: "inference_pb2_grpc.InferenceAsyncStub", **fields: str | bool) -> common_pb2.CachedTokens:
    request = inference_pb2.GenerateRequest(sampling={"max_tokens": 1, "temperature": 0}, **fields)  # type: ignore[arg-type]
    request.token_ids.ids.extend(PROMPT)
    async for event in stub.Generate(request):
        if event.HasField("finished"):
            return event.finished.usage.cached_tokens
    raise AssertionError("no Finished came")


async def num_records(stub: "inference_pb2_grpc.InferenceAsyncStub") -> int:
    (disk,) = [event.disk for event in await ask(stub, DESCRIBE) if event.HasField("disk")]
    return sum(namespace.records for namespace in disk.namespaces if namespace.namespace == disk.served_namespace)


async def holds(stub: "inference_pb2_grpc.InferenceAsyncStub", count: int) -> bool:
    return await num_records(stub) == count


async def test_a_kept_prefix_is_described_verified_and_cleared(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        await generate(stub, keep_prefix=True)
        (event,) = await ask(stub, SETTLE)
        assert event.settling.is_settled
        assert await num_records(stub) == 10
        (disk,) = [event.disk for event in await ask(stub, DESCRIBE)]
        assert disk.directory == str(tmp_path / "kv")
        assert disk.namespaces[0].records == 10
        assert disk.namespaces[0].payload_bytes == 10 * 64

        events = await ask(stub, VERIFY)
        assert [event.WhichOneof("event") for event in events][-1] == "verification"
        assert events[-1].verification.records == 10
        assert events[-1].verification.bad_records == 0
        assert [event.progress.done_records for event in events if event.HasField("progress")][-1] == 10
        assert {event.worker for event in events} == set(stack.workers)

        (link,) = stack.scheduler().dispatcher.links
        assert link.scheduler is not None
        figures = link.scheduler.figures().tiers
        assert figures is not None
        assert figures.disk.num_used == 10
        in_memory, cleared = await ask(stub, CLEAR)
        assert in_memory.memory_clearing.device_blocks == 10
        assert in_memory.memory_clearing.host_blocks == 10
        assert cleared.clearing.records == 10

        def is_forgotten() -> bool:
            assert link.scheduler is not None
            figures = link.scheduler.figures().tiers
            return figures is not None and figures.disk.num_used == 0 and figures.disk.num_evictions == 10

        await eventually(is_forgotten, "the scheduler knows that the disk is empty")
        again = await generate(stub)
        assert again.device == again.host == again.disk == 0


async def test_a_pin_is_shown_kept_over_a_restart_of_the_worker_and_given_up(
    model_directory: Path, tmp_path: Path
) -> None:
    async with running_stack(model_directory) as stack:
        engine = engine_on(tmp_path / "kv")
        stub = await start(stack, engine)
        await generate(stub, pin_name="cook")

        async def pin() -> common_pb2.PinnedPrefix:
            (found,) = [event.pinned for event in await ask(stub, DESCRIBE) if event.HasField("pinned")]
            return found

        async def is_down() -> bool:
            found = await pin()
            return (found.name, found.blocks, found.host_blocks, found.disk_blocks) == ("cook", 10, 10, 10)

        await eventually(is_down, "the pinned prefix is in host memory and on disk")
        (address,) = stack.workers
        (link,) = stack.scheduler().dispatcher.links
        await stack.stop_worker(address)
        await eventually(lambda: not link.is_ready, "the worker is missed")
        await stack.start_worker(engine, port=int(address.rsplit(":", 1)[1]))
        await eventually(lambda: link.is_ready, "the worker is back")

        async def is_only_on_disk() -> bool:
            found = await pin()
            return (found.blocks, found.device_blocks, found.host_blocks, found.disk_blocks) == (10, 0, 0, 10)

        await eventually(is_only_on_disk, "the pin is back")
        assert (await ask(stub, unpin("nobody"))) == []
        (event,) = await ask(stub, unpin("cook"))
        assert event.unpinned.name == "cook"
        assert not [event for event in await ask(stub, DESCRIBE) if event.HasField("pinned")]


async def test_a_pin_is_kept_over_a_restart_of_everything_until_it_is_given_up(
    model_directory: Path, tmp_path: Path
) -> None:
    """All processes but the disk are new each time."""
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        await generate(stub, pin_name="cook")
        (settled,) = await ask(stub, SETTLE)
        assert settled.settling.is_settled
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))

        async def is_back() -> bool:
            pins = [event.pinned for event in await ask(stub, DESCRIBE) if event.HasField("pinned")]
            return [(pin.name, pin.blocks, pin.host_blocks, pin.disk_blocks) for pin in pins] == [("cook", 10, 0, 10)]

        await eventually(is_back, "the disk has told of the pin and of its records")
        (link,) = stack.scheduler().dispatcher.links
        (event,) = await ask(stub, unpin("cook"))
        assert event.unpinned.name == "cook"
        await eventually(lambda: link.pins.is_settled, "the disk has given the pin up too")
    disk = open_disk(tmp_path / "kv", namespace=bytes(32), block_bytes=64)
    assert disk.pins() == {}
    assert sum(map(len, disk.key_chunks())) == 10
    disk.close()


async def test_a_pin_that_no_longer_fits_is_said_and_can_be_given_up(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        await generate(stub, pin_name="cook")
        await ask(stub, SETTLE)
    async with running_stack(model_directory) as stack:
        smaller = FakeEngine(VOCAB_SIZE, tiers=FakeEngineTiers(tmp_path / "kv", num_slots=16))
        stub = await start(stack, smaller)
        (link,) = stack.scheduler().dispatcher.links
        await eventually(lambda: "cook" in link.pins.notes, "the pin has been told, and refused")
        status = await stub.GetStatus(inference_pb2.GetStatusRequest())
        (worker,) = [row.worker for row in status.services if row.HasField("worker")]
        (note,) = [tier.note for tier in worker.tiers if tier.tier == "disk"]
        assert "'cook' is pinned no longer: Pinning 'cook' takes 10 blocks" in note
        (event,) = await ask(stub, unpin("cook"))
        assert event.unpinned.name == "cook"
        assert not link.pins.notes


async def test_what_another_process_removes_is_forgotten_by_the_scheduler_too(
    model_directory: Path, tmp_path: Path
) -> None:
    async with running_stack(model_directory) as stack:
        engine = engine_on(tmp_path / "kv")
        stub = await start(stack, engine)
        await generate(stub, keep_prefix=True)
        await ask(stub, SETTLE)
        (link,) = stack.scheduler().dispatcher.links

        def num_known() -> int:
            assert link.scheduler is not None
            figures = link.scheduler.figures().tiers
            assert figures is not None
            return figures.disk.num_used

        assert num_known() == 10
        assert engine.tiers is not None
        assert engine.tiers.mover is not None
        keeper = engine.tiers.mover.keeper
        assert keeper is not None
        keeper.listing.refresh()
        code = "from pathlib import Path; from kvstore.disk_care import DiskCare; import sys; "
        code += "DiskCare.open(Path(sys.argv[1])).clear()"
        await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(tmp_path / "kv")], check=True, timeout=60
        )
        assert num_known() == 10
        # As the worker does every so often.
        keeper.listing.refresh()
        await eventually(lambda: num_known() == 0, "the scheduler knows that the disk is empty")


def fill_with_pins(disk: DiskTier, num_keys: int) -> None:
    """Until there is no room for another name with so many keys."""
    keys = list(map(key_of, range(num_keys)))
    with contextlib.suppress(NoSpaceLeft):
        for number in range(10_000):
            disk.pin(f"{num_keys} {number}", keys)
        raise AssertionError("the index does not become full")


async def test_a_full_index_is_said_until_there_is_room_again_and_requests_go_on(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full of pins, as the quickest way to fill it."""
    monkeypatch.setattr(disk_index, "MAP_BYTES", 1 << 20)
    async with running_stack(model_directory) as stack:
        engine = engine_on(tmp_path / "kv")
        stub = await start(stack, engine)
        (link,) = stack.scheduler().dispatcher.links
        assert engine.tiers is not None
        assert engine.tiers.disk is not None
        for num_keys in (64, 1):
            fill_with_pins(engine.tiers.disk, num_keys)
        await generate(stub, keep_prefix=True)
        await eventually(lambda: "has reached its 1 MiB" in link.tier_notes["disk"], "the full index is said")
        assert (await generate(stub)).device == 40
        *_, cleared = await ask(stub, CLEAR)
        assert cleared.HasField("clearing"), cleared
        await generate(stub, keep_prefix=True)
        await eventually(lambda: not link.tier_notes["disk"], "it is said no longer")
        await eventually(lambda: holds(stub, 10), "records are stored again")


async def test_clear_gives_up_all_pins(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        await generate(stub, pin_name="cook")
        await eventually(lambda: holds(stub, 10), "the pinned prefix is on disk")
        unpinned, in_memory, cleared = await ask(stub, CLEAR)
        assert in_memory.memory_clearing.host_blocks == 10, "what was pinned a moment ago is cleared too"
        assert unpinned.unpinned.name == "cook"
        assert cleared.clearing.records == 10
        assert await num_records(stub) == 0


async def test_a_pin_without_room_is_refused_with_resource_exhausted(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, tiers=FakeEngineTiers(tmp_path / "kv", num_slots=16))
        stub = await start(stack, engine)
        with pytest.raises(grpc.aio.AioRpcError, match="may be pinned") as refused:
            await generate(stub, pin_name="cook")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError, match="printable characters") as refused:
            await generate(stub, pin_name=" cook")
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_all_namespaces_takes_those_of_other_models(model_directory: Path, tmp_path: Path) -> None:
    other = open_disk(tmp_path / "kv")
    other.store([store_row(number) for number in range(5)])
    other.close()
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        _, cleared = await ask(stub, CLEAR)
        assert cleared.clearing.records == 0
        _, cleared = await ask(stub, CLEAR_ALL)
        assert cleared.clearing.records == 5


async def test_workers_that_share_a_disk_are_asked_once(model_directory: Path, tmp_path: Path) -> None:
    """LMDB opens an environment once per process, so the second worker has no disk here; both answer."""
    async with running_stack(model_directory) as stack:
        without = FakeEngine(VOCAB_SIZE, disk_note="the directory is a file")
        stub = await start(stack, engine_on(tmp_path / "kv"), without)
        links = stack.scheduler().dispatcher.links
        events = await ask(stub, DESCRIBE)
        assert [event.WhichOneof("event") for event in events] == ["disk", "no_disk"]
        assert [event.worker for event in events] == [link.address for link in links]
        assert events[1].no_disk.reason == "the directory is a file"
        assert links[0].ready is not None
        assert links[1].ready is not None
        links[1].ready.disk_id = links[0].ready.disk_id
        events = await ask(stub, DESCRIBE)
        assert [(event.WhichOneof("event"), event.worker) for event in events] == [("disk", links[0].address)]


async def test_a_disk_that_is_gone_is_said_and_requests_go_on(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = await start(stack, engine_on(tmp_path / "kv"))
        (tmp_path / "kv" / "index.mdb").unlink()
        for request in (DESCRIBE, VERIFY, CLEAR):
            *_, event = await ask(stub, request)
            assert "index.mdb is gone" in event.failure.message
        await generate(stub)


async def test_without_a_worker_it_is_unavailable_with_the_reason(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE)
        engine.loading_gate.clear()
        worker = await stack.start_worker(engine)
        stub = stack.inference(await stack.start_tokenizer(await stack.start_scheduler([worker])))
        with pytest.raises(grpc.aio.AioRpcError, match="no worker is ready") as refused:
            await ask(stub, DESCRIBE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        engine.loading_gate.set()


async def test_an_unreachable_scheduler_is_unavailable(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = stack.inference(await stack.start_tokenizer("127.0.0.1:1"))
        with pytest.raises(grpc.aio.AioRpcError, match=r"the scheduler at 127\.0\.0\.1:1 is not reachable") as refused:
            await ask(stub, DESCRIBE)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_question_of_a_later_release_is_refused(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = await start(stack, FakeEngine(VOCAB_SIZE))
        with pytest.raises(grpc.aio.AioRpcError, match="run one release of all services") as refused:
            await ask(stub, common_pb2.ManageCacheRequest())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def filled(directory: Path) -> DiskTier:
    disk = open_disk(directory)
    disk.store([store_row(number) for number in range(8)])
    disk.take_events()
    return disk


def test_verification_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    disk, seen = filled(tmp_path), list[int]()
    keeper = DiskKeeper(disk, lambda _: None)
    with pytest.raises(CareStopped):
        keeper.verify(lambda: len(seen) < 3, lambda done, _: seen.append(done))
    assert seen == [1, 2, 3]
    assert keeper.verify(lambda: True, lambda *_: None).num_records == 8
    disk.close()


def test_closing_ends_what_is_under_way_and_lets_nothing_begin(tmp_path: Path) -> None:
    """Until then the disk must not be closed: its memory is still read."""
    disk = filled(tmp_path)
    keeper = DiskKeeper(disk, lambda _: None)
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def hold(_done: int, _total: int) -> None:
        begun.set()
        go_on.wait()

    def work() -> None:
        with pytest.raises(CareStopped):
            keeper.verify(lambda: True, hold)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    assert not keeper.close(0.01), "the verification holds it"
    go_on.set()
    assert keeper.close(20)
    thread.join()
    assert ended.is_set()
    disk.close()
