"""What becomes of requests when something ends early: calls, deadlines, queues, workers, schedulers."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.scheduler.link_owner import LinkState
from tests.fakes.worker_service import FakeEngine
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, eventually, port_of, running_stack
from tests.services.test_generate import Answer, generate, request, start
from tiercel.v1 import inference_pb2

LONG: dict[str, Any] = {"max_tokens": 400, "ignore_eos": True}
WORKER_LOSS_S = 2.0


def is_all_free(stack: Stack) -> bool:
    """No request, sequence, block or plan is left on any worker's scheduler."""
    dispatcher = stack.scheduler().dispatcher
    for link in dispatcher.links:
        if link.scheduler is not None:
            figures = link.scheduler.figures()
            if not link.scheduler.is_idle or figures.num_running or figures.num_waiting or figures.num_blocks_in_use:
                return False
            link.scheduler.check_integrity()
    return dispatcher.num_live == 0 and dispatcher.num_unrouted == 0


async def details_of(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, Status]:
    """The `ErrorInfo` that every error carries, and the whole status."""
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "tiercel"
    return info, status


async def refused(call: Any, code: grpc.StatusCode, reason: str) -> Status:
    """Read the call to its end, which must be this error. Returns the rich status."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() is code, caught.value.details()
    info, status = await details_of(caught.value)
    assert info.reason == reason, status.message
    return status


async def first_delta(call: Any) -> inference_pb2.Delta:
    async for event in call:
        if event.HasField("delta"):
            delta: inference_pb2.Delta = event.delta
            return delta
    raise AssertionError("the call ended without a delta")


async def test_cancelling_a_call_frees_everything(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, step_s=0.005))
        for n in (1, 3):
            call = stack.inference(address).Generate(request(n=n, **LONG))
            await first_delta(call)
            call.cancel()
            await eventually(lambda: is_all_free(stack), "nothing is left of the cancelled call")
        figures = stack.scheduler().dispatcher.links[0].scheduler
        assert figures is not None
        assert figures.figures().num_cancelled == 2
        whole = await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        assert len(whole.ids()) == 5


async def test_cancelling_a_call_that_waits_leaves_no_trace(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, max_seqs=1)
        address = await start(stack, engine)
        engine.gate.clear()
        first = stack.inference(address).Generate(request(max_tokens=3, ignore_eos=True))
        second = stack.inference(address).Generate(request(max_tokens=3, ignore_eos=True))
        dispatcher = stack.scheduler().dispatcher
        await eventually(lambda: dispatcher.num_live == 2, "both requests are there")
        second.cancel()
        await eventually(lambda: dispatcher.num_live == 1, "the cancelled one has left")
        engine.gate.set()
        assert len(Answer([event async for event in first]).ids()) == 3
        await eventually(lambda: is_all_free(stack), "nothing is left")


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_deadline_ends_a_request_and_frees_everything(model_directory: Path, is_running: bool) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.01, max_seqs=1)
        address = await start(stack, engine)
        blocker = None
        if not is_running:
            blocker = stack.inference(address).Generate(request([1, 2, 3], **LONG))
            await first_delta(blocker)
        call = stack.inference(address).Generate(request(**LONG), timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        dispatcher = stack.scheduler().dispatcher
        await eventually(lambda: dispatcher.num_live == (0 if is_running else 1), "the late request has left")
        if blocker is not None:
            blocker.cancel()
        await eventually(lambda: is_all_free(stack), "nothing is left")


async def test_a_full_queue_is_refused_with_a_retry_hint(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, max_seqs=1)
        worker = await stack.start_worker(engine)
        address = await stack.start_tokenizer(await stack.start_scheduler([worker], max_waiting=2))
        await stack.serving(address)
        engine.gate.clear()
        stub = stack.inference(address)
        calls = [stub.Generate(request(max_tokens=3, ignore_eos=True))]
        link = stack.scheduler().dispatcher.links[0]
        assert link.scheduler is not None
        scheduler = link.scheduler
        await eventually(lambda: scheduler.figures().num_running == 1, "the first request has started")
        calls += [stub.Generate(request(max_tokens=3, ignore_eos=True)) for _ in range(2)]
        await eventually(lambda: scheduler.figures().num_waiting == 2, "the queue is full")
        status = await refused(stub.Generate(request(max_tokens=3)), grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
        retry = RetryInfo()
        assert status.details[1].Unpack(retry)
        assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 60
        engine.gate.set()
        for call in calls:
            assert len(Answer([event async for event in call]).ids()) == 3
        await eventually(lambda: is_all_free(stack), "nothing is left")


async def test_too_many_open_calls_are_refused_at_the_door(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.005)
        worker = await stack.start_worker(engine)
        address = await stack.start_tokenizer(await stack.start_scheduler([worker]), max_concurrent=1)
        await stack.serving(address)
        stub = stack.inference(address)
        call = stub.Generate(request(**LONG))
        await first_delta(call)
        status = await refused(stub.Generate(request()), grpc.StatusCode.RESOURCE_EXHAUSTED, "Overloaded")
        assert status.details[1].Is(RetryInfo.DESCRIPTOR)
        call.cancel()


@pytest.mark.parametrize(
    ("message", "code", "reason", "field"),
    [
        (request(top_p=1.5), grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "sampling.top_p"),
        (request(n=65), grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "sampling.n"),
        (request([VOCAB_SIZE]), grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "token_ids"),
        (request([1] * 512), grpc.StatusCode.INVALID_ARGUMENT, "PromptTooLong", "prompt"),
        (request([]), grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequest", "prompt"),
        (request(model="other"), grpc.StatusCode.NOT_FOUND, "ModelNotFound", "model"),
    ],
)
async def test_a_bad_request_names_its_field(
    message: inference_pb2.GenerateRequest, code: grpc.StatusCode, reason: str, field: str, model_directory: Path
) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        status = await refused(stack.inference(address).Generate(message), code, reason)
        violations = BadRequest()
        assert status.details[1].Unpack(violations)
        assert [violation.field for violation in violations.field_violations] == [field]
        assert is_all_free(stack)


async def test_a_lost_worker_ends_its_requests_soon_and_a_new_one_takes_over(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.01, max_seqs=1)
        address = await start(stack, engine)
        (worker,) = stack.workers
        stub = stack.inference(address)
        running = stub.Generate(request(**LONG))
        await first_delta(running)
        waiting = stub.Generate(request(max_tokens=4, ignore_eos=True))
        dispatcher = stack.scheduler().dispatcher
        await eventually(lambda: dispatcher.num_live == 2, "both requests are there")
        lost_ns = time.monotonic_ns()
        await stack.stop_worker(worker)
        status = await refused(running, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        assert (time.monotonic_ns() - lost_ns) / 1e9 < WORKER_LOSS_S
        assert "safe to send again" in status.message
        await eventually(lambda: stack.tokenizers[address].host.state == "starting", "the tokenizer is not ready")
        await refused(stub.Generate(request()), grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        rows = (await stub.GetStatus(inference_pb2.GetStatusRequest())).services
        assert rows[2].state == "lost"
        assert await stack.start_worker(engine, port_of(worker)) == worker
        answer = Answer([event async for event in waiting])
        assert len(answer.ids()) == 4
        await stack.serving(address)
        assert len((await generate(stack, address, request(max_tokens=7, ignore_eos=True))).ids()) == 7
        await eventually(lambda: is_all_free(stack), "nothing is left")


async def test_a_frozen_worker_is_found_out_by_keepalive(model_directory: Path) -> None:
    """The connection stays open but nobody answers, as when a host is gone."""
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.01)
        worker = await stack.start_worker(engine)
        silence = asyncio.Event()
        links: list[asyncio.StreamWriter] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port_of(worker))
            links.extend([writer, other_writer])
            await asyncio.gather(_copy(reader, other_writer, silence), _copy(other_reader, writer, silence))

        proxy = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        address = await stack.start_tokenizer(await stack.start_scheduler([f"127.0.0.1:{port}"]))
        await stack.serving(address)
        call = stack.inference(address).Generate(request(**LONG))
        await first_delta(call)
        silence.set()
        silent_ns = time.monotonic_ns()
        await refused(call, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        assert (time.monotonic_ns() - silent_ns) / 1e9 < WORKER_LOSS_S + 0.5
        proxy.close()
        for writer in links:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence: asyncio.Event) -> None:
    while data := await reader.read(65536):
        if not silence.is_set():
            writer.write(data)


async def test_a_step_that_fails_ends_the_requests_in_it_and_the_worker_goes_on(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.005)
        address = await start(stack, engine)
        call = stack.inference(address).Generate(request(**LONG))
        await first_delta(call)
        engine.fail_next_step = RuntimeError("out of memory")
        status = await refused(call, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        assert "RuntimeError: out of memory" in status.message
        await stack.serving(address)
        answer = await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        assert len(answer.ids()) == 5
        await eventually(lambda: is_all_free(stack), "nothing is left")


async def test_a_sequence_without_finite_logits_fails_alone(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE)
        address = await start(stack, engine)
        engine.void_next_slots = True
        bad = stack.inference(address).Generate(request(max_tokens=9, ignore_eos=True))
        status = await refused(bad, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        assert "not finite" in status.message
        good = await generate(stack, address, request(max_tokens=9, ignore_eos=True))
        assert len(good.ids()) == 9
        await eventually(lambda: is_all_free(stack), "nothing is left")
        assert stack.scheduler().dispatcher.links[0].is_ready


async def test_a_lost_scheduler_ends_calls_soon_and_its_successor_serves(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.01)
        address = await start(stack, engine)
        (scheduler,), (worker,) = stack.schedulers, stack.workers
        call = stack.inference(address).Generate(request(**LONG))
        await first_delta(call)
        lost_ns = time.monotonic_ns()
        await stack.stop_scheduler(scheduler)
        status = await refused(call, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        assert (time.monotonic_ns() - lost_ns) / 1e9 < WORKER_LOSS_S
        assert "scheduler was lost" in status.message
        await refused(stack.inference(address).Generate(request()), grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        await eventually(lambda: not engine.busy_slots, "the worker has dropped the lost scheduler's sequences")
        await stack.start_scheduler([worker], port=port_of(scheduler))
        await stack.serving(address)
        answer = await generate(stack, address, request(max_tokens=6, ignore_eos=True))
        assert len(answer.ids()) == 6


async def test_a_lost_tokenizer_leaves_nothing_running(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, step_s=0.01))
        call = stack.inference(address).Generate(request(**LONG))
        await first_delta(call)
        await stack.stop_tokenizer(address)
        await eventually(lambda: is_all_free(stack), "the scheduler has cancelled the lost tokenizer's requests")


async def test_requests_wait_for_a_worker_that_loads(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE)
        engine.loading_gate.clear()
        worker = await stack.start_worker(engine)
        address = await stack.start_tokenizer(await stack.start_scheduler([worker], worker_wait_s=0.05))
        dispatcher = stack.scheduler().dispatcher
        await eventually(lambda: dispatcher.links[0].state is LinkState.LOADING, "the worker loads")
        stub = stack.inference(address)

        async def is_connected() -> bool:
            rows = (await stub.GetStatus(inference_pb2.GetStatusRequest())).services
            return len(rows) == 3 and rows[2].state == "loading" and bool(rows[0].detail)

        await eventually(is_connected, "the status shows the loading worker")
        answers = [asyncio.create_task(_retrying(stack, address)) for _ in range(3)]
        await eventually(lambda: dispatcher.num_unrouted == 3, "the requests wait")
        engine.loading_gate.set()
        for answer in await asyncio.gather(*answers):
            assert len(answer.ids()) == 4
        await eventually(lambda: is_all_free(stack), "nothing is left")


async def _retrying(stack: Stack, address: str) -> Answer:
    """Generate as soon as the tokenizer has loaded and is connected."""
    while True:
        try:
            return await generate(stack, address, request(max_tokens=4, ignore_eos=True))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.01)


async def test_no_worker_at_all_is_a_clear_refusal(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await stack.start_tokenizer(await stack.start_scheduler(["127.0.0.1:1"]))
        stub = stack.inference(address)

        async def is_loaded() -> bool:
            return bool((await stub.GetStatus(inference_pb2.GetStatusRequest())).models)

        await eventually(is_loaded, "the tokenizer is loaded")
        messages = []

        async def is_refused_by_the_scheduler() -> bool:
            status = await refused(stub.Generate(request()), grpc.StatusCode.UNAVAILABLE, "WorkerLost")
            messages.append(status.message)
            return "no worker is ready: 127.0.0.1:1 is lost" in status.message

        await eventually(is_refused_by_the_scheduler, f"the scheduler says which worker is missing: {messages[-1:]}")


async def test_an_unexpected_exception_is_internal_with_a_reference_only(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        service: Any = stack.tokenizers[address].service
        monkeypatch.setattr(service, "_prompt_ids", lambda *_: 1 / 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(stack, address, request())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        details = caught.value.details() or ""
        assert "division" not in details
        reference = details.split("reference ")[1].split(";")[0]
        assert any(reference in record.getMessage() and record.exc_info for record in caplog.records)
