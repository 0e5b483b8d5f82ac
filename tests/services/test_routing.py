"""Several workers, draining, slow readers, TLS."""

import asyncio
from collections.abc import AsyncIterable
from pathlib import Path

import grpc
import pytest

from tests.fakes.worker_service import FakeEngine
from tests.services.certificates import make_certificates
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, eventually, running_stack
from tests.services.test_failures import LONG, first_delta, is_all_free, refused
from tests.services.test_generate import PROMPT, Answer, generate, request, start
from tiercel.v1 import inference_pb2, inference_pb2_grpc


async def start_two(stack: Stack, engines: list[FakeEngine]) -> str:
    workers = [await stack.start_worker(engine) for engine in engines]
    address = await stack.start_tokenizer(await stack.start_scheduler(workers))
    dispatcher = stack.scheduler().dispatcher
    await eventually(lambda: len(dispatcher.ready_links) == 2, "both workers are ready")
    await stack.serving(address)
    return address


async def test_a_request_goes_where_its_prefix_is(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start_two(stack, [FakeEngine(VOCAB_SIZE), FakeEngine(VOCAB_SIZE)])
        workers = {}
        prompts = [[number] * 20 for number in (30, 40)]
        for prompt in prompts:
            # Both at once, so that load spreads them over the workers.
            call = asyncio.create_task(generate(stack, address, request(prompt, max_tokens=60, ignore_eos=True)))
            workers[prompt[0]] = call
        homes = {number: (await call).finished.report.worker for number, call in workers.items()}
        for prompt in prompts * 2:
            answer = await generate(stack, address, request([*prompt, 7, 8], max_tokens=3, ignore_eos=True))
            assert answer.finished.report.worker == homes[prompt[0]]
            assert answer.started.cached_tokens.device == 20


async def test_requests_without_a_common_prefix_spread_over_the_workers(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engines = [FakeEngine(VOCAB_SIZE, step_s=0.005), FakeEngine(VOCAB_SIZE, step_s=0.005)]
        address = await start_two(stack, engines)
        calls = [
            asyncio.create_task(generate(stack, address, request([10 + i] * 9, max_tokens=20, ignore_eos=True)))
            for i in range(6)
        ]
        homes = [answer.finished.report.worker for answer in await asyncio.gather(*calls)]
        assert {homes.count(worker) for worker in stack.workers} == {3}


async def test_losing_one_of_two_workers_leaves_the_other_serving(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engines = [FakeEngine(VOCAB_SIZE, step_s=0.01), FakeEngine(VOCAB_SIZE, step_s=0.01)]
        address = await start_two(stack, engines)
        calls = [
            stack.inference(address).Generate(request([10 + i] * 9, max_tokens=60, ignore_eos=True)) for i in range(2)
        ]
        for call in calls:
            await first_delta(call)
        victim = next(iter(stack.workers))
        await stack.stop_worker(victim)
        ends = await asyncio.gather(*(_end_of(call) for call in calls))
        assert sorted(ends) == ["finished", "lost"]
        answer = await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        assert answer.finished.report.worker != victim
        assert stack.tokenizers[address].host.state == "ready"


async def _end_of(call: AsyncIterable[inference_pb2.GenerateEvent]) -> str:
    kind = ""
    try:
        async for event in call:
            kind = event.WhichOneof("event") or ""
    except grpc.aio.AioRpcError as error:
        return "lost" if error.code() is grpc.StatusCode.UNAVAILABLE else error.code().name
    return kind


async def test_a_worker_with_another_model_is_not_used(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        late = FakeEngine(VOCAB_SIZE, fingerprint="0b" * 32, model="other")
        late.loading_gate.clear()
        first = await stack.start_worker(FakeEngine(VOCAB_SIZE))
        other = await stack.start_worker(late)
        address = await stack.start_tokenizer(await stack.start_scheduler([first, other]))
        await stack.serving(address)
        late.loading_gate.set()

        async def is_shown_as_mismatch() -> bool:
            status = await stack.inference(address).GetStatus(inference_pb2.GetStatusRequest())
            row = next(row for row in status.services if row.address == other)
            return row.state == "mismatch" and "it serves other (0b0b0b0b0b0b0b0b)" in row.detail

        await eventually(is_shown_as_mismatch, "the status shows the other model")
        answers = await asyncio.gather(*(generate(stack, address, request(max_tokens=3)) for _ in range(4)))
        assert {answer.started.model for answer in answers} == {"fake"}
        assert {answer.finished.report.worker for answer in answers} == {first}
        # When the others are gone, the model that is there is served.
        await stack.stop_worker(first)

        async def is_other_served() -> bool:
            (model,) = (await stack.inference(address).ListModels(inference_pb2.ListModelsRequest())).models
            return model.id == "other"

        await eventually(is_other_served, "the other model is served")
        assert (await generate(stack, address, request(max_tokens=3))).started.model == "other"


async def test_a_draining_worker_finishes_and_gets_nothing_new(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engines = [FakeEngine(VOCAB_SIZE, step_s=0.01), FakeEngine(VOCAB_SIZE, step_s=0.01)]
        address = await start_two(stack, engines)
        call = stack.inference(address).Generate(request(max_tokens=50, ignore_eos=True))
        await first_delta(call)
        dispatcher = stack.scheduler().dispatcher
        busy = next(link for link in dispatcher.links if link.scheduler and link.scheduler.figures().num_running)
        worker = stack.workers[busy.address]
        await worker.host.enter_drain()
        draining = asyncio.create_task(worker.service.drain())
        await eventually(lambda: busy.state == "draining", "the scheduler has noticed")
        answer = await generate(stack, address, request(max_tokens=3, ignore_eos=True))
        assert answer.finished.report.worker != busy.address
        assert await _end_of(call) == "finished"
        await asyncio.wait_for(draining, 10)


async def test_a_draining_tokenizer_finishes_its_calls_and_refuses_new_ones(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, step_s=0.01))
        stub = stack.inference(address)
        call = stub.Generate(request(max_tokens=40, ignore_eos=True))
        await first_delta(call)
        draining = asyncio.create_task(stack.tokenizers[address].drain())
        await eventually(lambda: stack.tokenizers[address].host.state == "draining", "the tokenizer drains")
        await refused(stub.Generate(request()), grpc.StatusCode.UNAVAILABLE, "Draining")
        assert not draining.done()
        assert await _end_of(call) == "finished"
        await asyncio.wait_for(draining, 10)


async def test_a_draining_scheduler_finishes_its_requests_and_refuses_new_ones(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, step_s=0.01))
        stub = stack.inference(address)
        call = stub.Generate(request(max_tokens=40, ignore_eos=True))
        await first_delta(call)
        (scheduler,) = stack.schedulers.values()
        draining = asyncio.create_task(scheduler.drain())
        await eventually(lambda: stack.scheduler().dispatcher.is_draining, "the scheduler drains")
        await refused(stub.Generate(request()), grpc.StatusCode.UNAVAILABLE, "Draining")
        assert await _end_of(call) == "finished"
        await asyncio.wait_for(draining, 10)


async def test_a_slow_reader_gets_merged_deltas_and_slows_nobody(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, max_seqs=20, num_blocks=4096))
        # A receive window that does not grow, and logprobs, which make messages large enough to fill it.
        small_window = {"http2.lookahead_bytes": 65_536, "http2.bdp_probe": 0}
        slow = stack.inference(address, **small_window).Generate(
            request(n=16, temperature=1.0, seed=1, max_tokens=450, ignore_eos=True, logprobs=20)
        )
        await first_delta(slow)
        dispatcher = stack.scheduler().dispatcher
        # Its tokens are all computed though it reads nothing, and others are served meanwhile.
        await eventually(lambda: dispatcher.num_live == 0, "the slow reader's answer is complete on the worker")
        quick = await generate(stack, address, request(max_tokens=20, ignore_eos=True))
        assert len(quick.ids()) == 20
        events = [event async for event in slow]
        deltas = [event.delta for event in events if event.HasField("delta")]
        num_tokens = sum(len(delta.token_ids) for delta in deltas)
        assert num_tokens > 15 * 450
        assert max(len(delta.token_ids) for delta in deltas) > 50
        assert events[-1].finished.usage.completion_tokens == 16 * 450
        for delta in deltas:
            assert list(delta.logprobs.token_ids) == list(delta.token_ids)


async def test_every_hop_speaks_tls_when_told_to(model_directory: Path, tmp_path: Path) -> None:
    cert, key, ca = make_certificates(tmp_path)
    async with running_stack(model_directory, tls_cert=cert, tls_key=key, tls_ca=ca) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        async with grpc.aio.secure_channel(address, credentials) as channel:
            call = inference_pb2_grpc.InferenceStub(channel).Generate(request(max_tokens=6, ignore_eos=True))
            assert len(Answer([event async for event in call]).ids()) == 6
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await inference_pb2_grpc.InferenceStub(channel).ListModels(inference_pb2.ListModelsRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_new_scheduler_takes_the_worker_over_from_one_that_hangs(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE, step_s=0.01)
        first = await start(stack, engine)
        (worker,) = stack.workers
        call = stack.inference(first).Generate(request(PROMPT, **LONG))
        await first_delta(call)
        old = stack.scheduler()
        second = await stack.start_tokenizer(await stack.start_scheduler([worker]))
        await eventually(lambda: not any(link.is_ready for link in old.dispatcher.links), "the old session has ended")
        await refused(call, grpc.StatusCode.UNAVAILABLE, "WorkerLost")
        await stack.stop_scheduler(next(iter(stack.schedulers)))
        await stack.serving(second)
        answer = await generate(stack, second, request(max_tokens=4, ignore_eos=True))
        assert len(answer.ids()) == 4
        await eventually(lambda: is_all_free(stack), "nothing is left")
