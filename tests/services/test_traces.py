"""What a collector gets to see of each kind of request: the tree of spans, and that nothing of its time is missing."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from tests.fakes.trace_collector import CollectedSpan, TraceCollector, trace_collector
from tests.fakes.worker_service import FakeEngine
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, eventually, running_stack
from tests.services.test_generate import PROMPT, generate, request
from tiercel.v1 import inference_pb2

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SERVER_KIND = 2

Tree = dict[str, list[CollectedSpan]]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceCollector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    with trace_collector() as collector:
        yield collector


@contextlib.asynccontextmanager
async def traced_stack(
    directory: Path, collector: TraceCollector, engine: FakeEngine
) -> AsyncIterator[tuple[Stack, str]]:
    async with running_stack(directory, otlp=collector.endpoint) as stack:
        scheduler = await stack.start_scheduler([await stack.start_worker(engine)])
        tokenizer = await stack.start_tokenizer(scheduler)
        await stack.serving(tokenizer)
        yield stack, tokenizer


async def tree_of(collector: TraceCollector, request_id: str) -> Tree:
    await eventually(lambda: collector.has(request_id), f"the spans of {request_id}")
    return collector.tree(request_id)


def shape(tree: Tree) -> dict[str, int]:
    """`child < parent` of each span below another one, and how many there are."""
    names = {span.span_id: span.name for spans in tree.values() for span in spans}
    pairs = [(span.name, names.get(span.parent_id)) for spans in tree.values() for span in spans]
    return dict(Counter(f"{name} < {parent}" for name, parent in pairs if parent is not None))


def children(tree: Tree, parent: CollectedSpan) -> list[CollectedSpan]:
    found = [span for spans in tree.values() for span in spans if span.parent_id == parent.span_id]
    return sorted(found, key=lambda span: (span.start_ns, span.end_ns))


def assert_without_gaps(tree: Tree) -> None:
    """The parts of `generate` and of `schedule` follow one another and fill their parents."""
    for name in ("generate", "schedule"):
        (parent,) = tree[name]
        at_ns = parent.start_ns
        for part in children(tree, parent):
            assert part.start_ns == at_ns, f"{part.name} does not begin where the part before it ends"
            at_ns = part.end_ns
        assert at_ns == parent.end_ns, f"something at the end of {name} is missing"


async def test_a_cold_request_and_a_second_one_that_hits(model_directory: Path, collector: TraceCollector) -> None:
    engine = FakeEngine(VOCAB_SIZE, max_batched_tokens=8)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        message = request([*PROMPT, *range(20, 31)], max_tokens=5, request_id="cold", tenant="acme", ignore_eos=True)
        first = await generate(stack, tokenizer, message, metadata=(("traceparent", CLIENT),))
        message.request_id = "warm"
        await generate(stack, tokenizer, message)
        cold, warm = await tree_of(collector, "cold"), await tree_of(collector, "warm")
        (schedule,) = cold["schedule"]
        await eventually(lambda: len(collector.steps(schedule)) >= 7, "a span of each step")
        steps = collector.steps(schedule)
    assert shape(cold) == {
        "tokenize < generate": 1,
        "schedule < generate": 1,
        "transit < generate": 1,
        "detokenize < generate": 1,
        "kv.lookup < schedule": 1,
        "queue < schedule": 1,
        "prefill < schedule": 3,
        "decode < schedule": 1,
    }
    assert_without_gaps(cold)
    (root,) = cold["generate"]
    assert (root.trace_id, root.parent_id, root.kind) == (CLIENT[3:35], CLIENT[36:52], SERVER_KIND)
    assert {span.service for spans in cold.values() for span in spans} == {"tiercel-tokenizer", "tiercel-scheduler"}
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tiercel",
        "gen_ai.response.id": "cold",
        "gen_ai.response.model": "fake",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.0,
        "tiercel.tenant": "acme",
    }
    assert expected.items() <= root.attributes.items()
    assert "gen_ai.input.messages" not in root.attributes
    chunks = [span.attributes for span in cold["prefill"]]
    assert [each["tiercel.prefill.tokens"] for each in chunks] == [8, 8, 4]
    assert [each["tiercel.prefill.first_token"] for each in chunks] == [0, 8, 16]
    (decode,) = cold["decode"]
    assert [name for name, _, _ in decode.events] == ["first_token"]
    assert decode.attributes["gen_ai.usage.output_tokens"] == 5
    assert schedule.attributes["tiercel.outcome"] == "length"
    assert all(span.error is None for spans in cold.values() for span in spans)
    assert [step.parent_id for step in steps] == [""] * len(steps)
    assert {step.service for step in steps} == {"tiercel-worker"}
    assert sum(step.attributes["tiercel.step.prefill_tokens"] for step in steps) == 20

    # The report tells the same.
    report = first.finished.report
    assert report.trace_id == root.trace_id
    told = {(phase.name, phase.start_ns): phase.duration_ns for phase in report.phases}
    leaves = [span for spans in cold.values() for span in spans if span.name not in ("generate", "schedule")]
    assert told == {(span.name, span.start_ns - root.start_ns): span.duration_ns for span in leaves}

    assert_without_gaps(warm)
    (lookup,) = warm["kv.lookup"]
    assert lookup.attributes["tiercel.cache.device_tokens"] == 16
    assert [each.attributes["tiercel.prefill.first_token"] for each in warm["prefill"]] == [16]


async def test_a_preempted_request(model_directory: Path, collector: TraceCollector) -> None:
    """Two that do not fit side by side: the later one gives way while it decodes, and computes again."""
    engine = FakeEngine(VOCAB_SIZE, num_blocks=14, block_size=4, max_model_tokens=48)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        ids = ("first", "second")
        messages = [
            request([*PROMPT, number], max_tokens=30, ignore_eos=True, request_id=name)
            for number, name in enumerate(ids)
        ]
        await asyncio.gather(*(generate(stack, tokenizer, message) for message in messages))
        trees = [await tree_of(collector, name) for name in ids]
    preempted = [tree for tree in trees if tree["schedule"][0].attributes["tiercel.preemptions"]]
    assert preempted
    for tree in preempted:
        assert_without_gaps(tree)
        (decode,) = tree["decode"]
        assert "preempted" in [name for name, _, _ in decode.events]
        below = [span.name for span in children(tree, decode)]
        assert below[:2] == ["queue", "prefill"]
        assert all(decode.start_ns <= each.start_ns <= each.end_ns <= decode.end_ns for each in children(tree, decode))


async def test_a_cancelled_request(model_directory: Path, collector: TraceCollector) -> None:
    engine = FakeEngine(VOCAB_SIZE, step_s=0.005)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        message = request(max_tokens=400, ignore_eos=True, request_id="gone")
        call = stack.inference(tokenizer).Generate(message)
        async for event in call:
            if event.HasField("delta"):
                break
        call.cancel()
        tree = await tree_of(collector, "gone")
    (root,), (schedule,) = tree["generate"], tree["schedule"]
    assert (root.attributes["error.type"], root.error) == ("Cancelled", None)
    assert schedule.attributes["tiercel.outcome"] == "cancelled"
    assert shape(tree).items() >= {"kv.lookup < schedule": 1, "prefill < schedule": 1, "decode < schedule": 1}.items()
    assert tree["decode"][0].attributes["gen_ai.usage.output_tokens"] > 0


async def test_requests_refused_at_the_door_and_in_the_queue(model_directory: Path, collector: TraceCollector) -> None:
    engine = FakeEngine(VOCAB_SIZE, max_seqs=1)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        with pytest.raises(grpc.aio.AioRpcError, match="temperature"):
            await generate(stack, tokenizer, request(temperature=-1.0, request_id="bad"))
        await eventually(lambda: any(span.name == "generate" for span in collector.spans), "the refused call")
        engine.gate.clear()
        running = asyncio.create_task(
            generate(stack, tokenizer, request(max_tokens=20, ignore_eos=True, request_id="runs"))
        )
        await eventually(lambda: engine.is_waiting, "the first request runs")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await generate(stack, tokenizer, request(request_id="late"), timeout=0.2)
        assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        tree = await tree_of(collector, "late")
        engine.gate.set()
        await running
    (bad,) = [span for span in collector.spans if span.attributes.get("tiercel.request.id") == "bad"]
    assert (bad.name, bad.attributes["error.type"], bad.error) == ("generate", "InvalidRequest", None)
    ((name, _, about),) = bad.events
    assert name == "refused"
    assert "temperature" in about["exception.message"]
    assert [span.name for span in collector.spans if span.trace_id == bad.trace_id] == ["tokenize", "generate"]
    assert shape(tree).keys() >= {"tokenize < generate", "kv.lookup < schedule", "queue < schedule"}
    assert "prefill" not in tree
    assert tree["schedule"][0].duration_ns >= 150_000_000


async def test_a_request_whose_worker_dies(model_directory: Path, collector: TraceCollector) -> None:
    engine = FakeEngine(VOCAB_SIZE)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        engine.fail_next_step = RuntimeError("the device is gone")
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(stack, tokenizer, request(request_id="lost"))
        tree = await tree_of(collector, "lost")
        await eventually(lambda: any(span.name == "step" for span in collector.spans), "the step that failed")
        report = await stack.inference(tokenizer).GetReport(inference_pb2.GetReportRequest(request_id="lost"))
    (root,), (schedule,) = tree["generate"], tree["schedule"]
    for span in (root, schedule):
        assert span.attributes["error.type"] == "WorkerLost"
        assert "the device is gone" in (span.error or "")
    assert_without_gaps(tree)
    (step,) = collector.steps(schedule)
    assert "the device is gone" in (step.error or "")
    assert (report.report.error, report.report.trace_id) == ("WorkerLost", root.trace_id)
    assert [phase.name for phase in report.report.phases][:3] == ["tokenize", "kv.lookup", "queue"]


async def test_a_request_that_waits_for_a_worker(model_directory: Path, collector: TraceCollector) -> None:
    """It is routed only when one is there; the wait is a part of its queue."""
    engine = FakeEngine(VOCAB_SIZE)
    engine.loading_gate.clear()
    async with running_stack(model_directory, otlp=collector.endpoint) as stack:
        scheduler = await stack.start_scheduler([await stack.start_worker(engine)])
        tokenizer = await stack.start_tokenizer(scheduler)
        dispatcher = stack.scheduler().dispatcher
        await eventually(lambda: any(link.state == "loading" for link in dispatcher.links), "the worker loads")
        stub = stack.inference(tokenizer)

        async def is_up() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.Tokenize(inference_pb2.TokenizeRequest(text="a"))
                return True
            return False

        await eventually(is_up, "the tokenizer is loaded")
        waiting = asyncio.create_task(generate(stack, tokenizer, request(max_tokens=3, request_id="early")))
        await eventually(lambda: dispatcher.num_unrouted == 1, "the request waits for a worker")
        waits_since_ns = time.monotonic_ns()
        for _ in range(10):
            assert await is_up()
        waited_ns = time.monotonic_ns() - waits_since_ns
        engine.loading_gate.set()
        await waiting
        tree = await tree_of(collector, "early")
    assert_without_gaps(tree)
    assert sum(span.duration_ns for span in tree["queue"]) >= waited_ns


async def test_contents_are_recorded_on_request_only(
    model_directory: Path, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    async with traced_stack(model_directory, collector, FakeEngine(VOCAB_SIZE)) as (stack, tokenizer):
        answer = await generate(stack, tokenizer, request("a secret", max_tokens=4, request_id="told"))
        (root,) = (await tree_of(collector, "told"))["generate"]
    assert "a secret" in root.attributes["gen_ai.input.messages"]
    assert '"role": "assistant"' in root.attributes["gen_ai.output.messages"]
    assert answer.finished.choices[0].completion_tokens > 0


@pytest.mark.parametrize("sampler", ["always_off", "parentbased_always_on"])
async def test_who_is_not_sampled_leaves_no_span_anywhere(
    model_directory: Path, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """By our own sampler, or by the caller's: the last digit of its context says so."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    engine = FakeEngine(VOCAB_SIZE)
    unsampled = (("traceparent", CLIENT[:-2] + "00"),)
    async with traced_stack(model_directory, collector, engine) as (stack, tokenizer):
        metadata = () if sampler == "always_off" else unsampled
        await generate(stack, tokenizer, request(request_id="quiet"), metadata=metadata)
        assert [int(parent[-2:], 16) & 1 for parent in engine.traceparents] == [0]
    assert collector.spans == []


async def test_a_clock_that_is_wrong_by_decades_breaks_no_order(
    model_directory: Path, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scheduler and worker do not ask their wall clocks about what belongs to a request."""
    wrong = SimpleNamespace(time_ns=lambda: 0, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("services.common.trace_context.time", wrong)
    async with traced_stack(model_directory, collector, FakeEngine(VOCAB_SIZE)) as (stack, tokenizer):
        await generate(stack, tokenizer, request(request_id="skewed"))
        assert_without_gaps(await tree_of(collector, "skewed"))
