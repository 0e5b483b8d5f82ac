"""What a client sees of Generate, over the wire: the order of events, text, stops, several choices, reports."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from transformers import AutoTokenizer

from engine.sampling import SamplingParams as EngineSampling
from tests.fakes.fake_worker import expected_output, fake_logprob
from tests.fakes.worker_service import FINGERPRINT, FakeEngine
from tests.services.conftest import VOCAB_SIZE
from tests.services.stack import Stack, running_stack
from tiercel.v1 import common_pb2, inference_pb2

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13]
STOP = common_pb2.FINISH_REASON_STOP
LENGTH = common_pb2.FINISH_REASON_LENGTH


def request(prompt: Any = PROMPT, **fields: Any) -> inference_pb2.GenerateRequest:
    """`sampling` fields go to the sampling parameters, the rest to the request."""
    names = {field.name for field in inference_pb2.SamplingParams.DESCRIPTOR.fields}
    sampling = {name: fields.pop(name) for name in list(fields) if name in names}
    sampling.setdefault("temperature", 0.0)
    message = inference_pb2.GenerateRequest(sampling=inference_pb2.SamplingParams(**sampling), **fields)
    if isinstance(prompt, str):
        message.text = prompt
    elif prompt:
        message.token_ids.ids.extend(prompt)
    return message


class Answer:
    """All events of a call, checked for their order."""

    def __init__(self, events: list[inference_pb2.GenerateEvent]) -> None:
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[0] == "started"
        assert kinds[-1] == "finished"
        assert kinds.count("started") == kinds.count("finished") == 1
        assert "prompt_logprobs" not in kinds[2:]
        self.started = events[0].started
        self.finished = events[-1].finished
        self.deltas = [event.delta for event in events if event.HasField("delta")]
        self.prompt_logprobs = [event.prompt_logprobs for event in events if event.HasField("prompt_logprobs")]

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def ids(self, index: int = 0) -> list[int]:
        return [token_id for delta in self.deltas if delta.index == index for token_id in delta.token_ids]


async def generate(stack: Stack, address: str, message: inference_pb2.GenerateRequest, **call: Any) -> Answer:
    return Answer([event async for event in stack.inference(address).Generate(message, **call)])


async def start(stack: Stack, engine: FakeEngine) -> str:
    """One of each; returns the tokenizer's address."""
    worker = await stack.start_worker(engine)
    tokenizer = await stack.start_tokenizer(await stack.start_scheduler([worker]))
    await stack.serving(tokenizer)
    return tokenizer


def tokens_of(model_directory: Path, text: str) -> list[int]:
    ids: list[int] = AutoTokenizer.from_pretrained(str(model_directory)).encode(text, add_special_tokens=False)
    return ids


async def test_an_answer_is_started_deltas_finished_with_a_report(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE)
        address = await start(stack, engine)
        answer = await generate(stack, address, request(max_tokens=12, ignore_eos=True, request_id="mine"))
        expected = expected_output(PROMPT, EngineSampling(temperature=0.0, max_tokens=12), VOCAB_SIZE, 512)
        assert answer.ids() == expected
        assert answer.started.request_id == "mine"
        assert answer.started.model == "fake"
        assert answer.started.prompt_tokens == len(PROMPT)
        (end,) = answer.finished.choices
        assert (end.index, end.reason, end.completion_tokens) == (0, LENGTH, 12)
        usage = answer.finished.usage
        assert (usage.prompt_tokens, usage.completion_tokens) == (len(PROMPT), 12)
        report = answer.finished.report
        assert report.request_id == "mine"
        assert report.worker in stack.workers
        assert 0 < report.ttft_ns <= report.e2e_ns
        assert report.prefill_ns > 0
        assert report.decode_ns > 0
        assert report.queue_ns + report.prefill_ns + report.decode_ns <= report.e2e_ns
        assert report.prefill_chunks == 1
        assert report.received_unix_ns > 0
        again = await stack.inference(address).GetReport(inference_pb2.GetReportRequest(request_id="mine"))
        assert again.report == report
        assert again.usage == usage
        assert engine.request_ids == ["mine"]


async def test_the_text_is_what_the_tokenizer_makes_of_all_ids_together(model_directory: Path) -> None:
    text = " the café 你好 🙂 and 🦜"
    async with running_stack(model_directory) as stack:
        script = tokens_of(model_directory, text)
        address = await start(stack, FakeEngine(VOCAB_SIZE, script=script))
        answer = await generate(stack, address, request("Every second train", max_tokens=len(script)))
        assert answer.ids() == script
        assert answer.text() == text
        assert len(script) > len(text.split())
        assert all("\ufffd" not in delta.text for delta in answer.deltas)


async def test_deltas_wait_for_as_many_tokens_as_were_asked_for(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        asked = {"max_tokens": 14, "ignore_eos": True}
        each = await generate(stack, address, request(**asked))
        some = await generate(stack, address, request(**asked, stream_interval=6))
        all_together = await generate(stack, address, request(**asked, stream_interval=1000))
        sizes = [len(delta.token_ids) for delta in some.deltas]
        assert sizes[0] == 1
        assert all(size >= 6 for size in sizes[1:-1])
        assert len(sizes) <= 4
        assert len(all_together.deltas) == 2
        for answer in (some, all_together):
            assert answer.ids() == each.ids()
            assert answer.text() == each.text()


async def test_a_second_answer_to_the_same_prompt_reports_its_cached_tokens(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        first = await generate(stack, address, request(max_tokens=4, ignore_eos=True))
        second = await generate(stack, address, request(max_tokens=4, ignore_eos=True))
        salted = await generate(stack, address, request(max_tokens=4, ignore_eos=True, cache_salt="other"))
        assert first.started.cached_tokens.device == 0
        assert second.started.cached_tokens.device == second.finished.usage.cached_tokens.device == 8
        assert salted.started.cached_tokens.device == 0
        assert first.ids() == second.ids() == salted.ids()


@pytest.mark.parametrize(
    ("stop", "include", "shown"),
    [("brown", False, " the quick "), ("brown", True, " the quick brown"), ("k b", False, " the quic")],
)
async def test_a_stop_string_ends_the_text_before_or_after_it(
    model_directory: Path, stop: str, include: bool, shown: str
) -> None:
    async with running_stack(model_directory) as stack:
        script = tokens_of(model_directory, " the quick brown fox jumps over the lazy dog")
        engine = FakeEngine(VOCAB_SIZE, script=script)
        address = await start(stack, engine)
        message = request("Every", stop=["zebra", stop], include_stop_in_output=include, max_tokens=200)
        answer = await generate(stack, address, message)
        assert answer.text() == shown
        (end,) = answer.finished.choices
        assert (end.reason, end.stop) == (STOP, stop)
        assert not end.HasField("stop_token_id")
        tokenizer = AutoTokenizer.from_pretrained(str(model_directory))
        ids = answer.ids()
        assert stop in tokenizer.decode(ids)
        assert stop not in tokenizer.decode(ids[:-1])
        assert end.completion_tokens == len(ids) == answer.finished.usage.completion_tokens
        figures = stack.scheduler().dispatcher.links[0].scheduler
        assert figures is not None
        assert figures.figures().num_running == 0
        assert engine.num_steps < 100


async def test_text_that_only_looks_like_a_stop_is_given_out_at_the_end(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        script = tokens_of(model_directory, " the quick brown")
        address = await start(stack, FakeEngine(VOCAB_SIZE, script=script))
        answer = await generate(stack, address, request("Every", stop=["brown fox"], max_tokens=len(script)))
        assert answer.text() == " the quick brown"
        assert answer.finished.choices[0].reason == LENGTH


@pytest.mark.parametrize("include", [False, True])
async def test_a_stop_token_is_reported_and_its_text_only_on_demand(model_directory: Path, include: bool) -> None:
    async with running_stack(model_directory) as stack:
        script = tokens_of(model_directory, " the quick brown fox")
        address = await start(stack, FakeEngine(VOCAB_SIZE, script=script))
        message = request("Every", stop_token_ids=[script[-1]], include_stop_in_output=include, max_tokens=100)
        answer = await generate(stack, address, message)
        (end,) = answer.finished.choices
        assert (end.reason, end.stop_token_id, end.stop) == (STOP, script[-1], "")
        assert answer.ids() == script
        tokenizer = AutoTokenizer.from_pretrained(str(model_directory))
        assert answer.text() == tokenizer.decode(script if include else script[:-1])


async def test_the_models_eos_ends_an_answer_unless_it_is_ignored(model_directory: Path) -> None:
    eos = AutoTokenizer.from_pretrained(str(model_directory)).eos_token_id
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE, script=[20, 21, eos]))
        answer = await generate(stack, address, request(max_tokens=9))
        assert answer.ids() == [20, 21, eos]
        assert answer.finished.choices[0].stop_token_id == eos
        ignored = await generate(stack, address, request(max_tokens=9, ignore_eos=True))
        assert ignored.ids() == [20, 21, eos] * 3


async def test_choices_differ_by_seed_and_each_ends_once(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        message = request(n=4, temperature=1.0, seed=2**64 - 2, max_tokens=10, ignore_eos=True)
        answer = await generate(stack, address, message)
        for index in range(4):
            sampling = EngineSampling(seed=(2**64 - 2 + index) % 2**64, max_tokens=10)
            assert answer.ids(index) == expected_output(PROMPT, sampling, VOCAB_SIZE, 512)
        assert sorted(end.index for end in answer.finished.choices) == [0, 1, 2, 3]
        assert answer.finished.usage.completion_tokens == 40


async def test_a_stop_string_ends_only_its_choice(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        whole = await generate(stack, address, request(n=3, temperature=1.0, seed=7, max_tokens=40, ignore_eos=True))
        stop = whole.text(1)[3:8]
        assert len(stop) == 5
        message = request(n=3, temperature=1.0, seed=7, max_tokens=40, ignore_eos=True, stop=[stop])
        answer = await generate(stack, address, message)
        ends = {end.index: end for end in answer.finished.choices}
        assert ends[1].stop == stop
        for index in range(3):
            assert answer.text(index) == whole.text(index).split(stop)[0]


async def test_logprobs_come_with_their_tokens_and_prompt_logprobs_before_them(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        answer = await generate(stack, address, request(max_tokens=6, ignore_eos=True, logprobs=2, prompt_logprobs=1))
        position = len(PROMPT)
        for delta in answer.deltas:
            assert list(delta.logprobs.token_ids) == list(delta.token_ids)
            assert list(delta.logprobs.num_top) == [2] * len(delta.token_ids)
            assert len(delta.logprobs.top_logprobs) == 2 * len(delta.token_ids)
            for token_id, logprob in zip(delta.token_ids, delta.logprobs.logprobs, strict=True):
                assert logprob == pytest.approx(fake_logprob(token_id, position))
                position += 1
        assert position == len(PROMPT) + 6
        (scores,) = answer.prompt_logprobs
        assert list(scores.logprobs.token_ids) == PROMPT[1:]
        assert list(scores.logprobs.num_top) == [1] * (len(PROMPT) - 1)


async def test_a_resumed_answer_goes_on_with_the_same_tokens_and_text(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        script = tokens_of(model_directory, " the café 你好 🙂 and 🦜 once more")
        for engine in (FakeEngine(VOCAB_SIZE), FakeEngine(VOCAB_SIZE, script=script)):
            address = await start(stack, engine)
            asked: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 20, "ignore_eos": True}
            whole = await generate(stack, address, request(**asked))
            for cut in (1, 7, 19):
                resumed = await generate(stack, address, request(resume_tokens=whole.ids()[:cut], **asked))
                assert resumed.ids() == whole.ids()[cut:]
                assert whole.text().endswith(resumed.text())
                assert resumed.finished.choices[0].completion_tokens == 20
            await stack.stop_tokenizer(address)
            await stack.stop_scheduler(next(iter(stack.schedulers)))


async def test_chat_goes_through_the_models_template(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        chat = inference_pb2.Chat(messages=[inference_pb2.ChatMessage(role="user", content="Every second train")])
        answer = await generate(stack, address, request(None, chat=chat, max_tokens=3, ignore_eos=True))
        stub = stack.inference(address)
        encoded = await stub.Tokenize(inference_pb2.TokenizeRequest(chat=chat))
        assert answer.started.prompt_tokens == len(encoded.token_ids)
        decoded = await stub.Detokenize(
            inference_pb2.DetokenizeRequest(token_ids=encoded.token_ids, skip_special_tokens=False)
        )
        assert decoded.text == "<|begin|>user: Every second train<|end|>\nassistant: "


async def test_tokenize_and_detokenize_round_trip_long_texts(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        stub = stack.inference(await start(stack, FakeEngine(VOCAB_SIZE)))
        text = "Où est le café? 你好 🙂 " * 500
        encoded = await stub.Tokenize(inference_pb2.TokenizeRequest(text=text, add_special_tokens=False))
        assert encoded.max_model_tokens == 512
        decoded = await stub.Detokenize(inference_pb2.DetokenizeRequest(token_ids=encoded.token_ids))
        assert decoded.text == text


async def test_models_and_status_name_what_runs(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        stub = stack.inference(address)
        (model,) = (await stub.ListModels(inference_pb2.ListModelsRequest())).models
        assert model.id == "fake"
        assert model.fingerprint == FINGERPRINT
        assert (model.max_model_tokens, model.vocab_size, model.has_chat_template) == (512, VOCAB_SIZE, True)
        await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        await generate(stack, address, request(max_tokens=5, ignore_eos=True))
        status = await stub.GetStatus(inference_pb2.GetStatusRequest())
        assert [service.role for service in status.services] == ["tokenizer", "scheduler", "worker"]
        assert {service.state for service in status.services} == {"ready"}
        worker = status.services[2].worker
        assert worker.prompt_tokens == len(PROMPT) + 1
        assert worker.completion_tokens == 10
        (device,) = worker.tiers
        assert (device.tier, device.capacity_blocks, device.in_use_blocks) == ("device", 512, 0)
        assert (device.lookup_tokens, device.hit_tokens) == (2 * len(PROMPT), 8)
        assert device.cached_blocks > 0


async def test_the_trace_context_of_a_call_reaches_the_worker(model_directory: Path) -> None:
    traceparent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    async with running_stack(model_directory) as stack:
        engine = FakeEngine(VOCAB_SIZE)
        address = await start(stack, engine)
        for value in (traceparent, "nonsense"):
            await generate(stack, address, request(max_tokens=2), metadata=[("traceparent", value)])
        assert engine.traceparents == [traceparent, ""]


async def test_two_tokenizers_share_a_scheduler_and_its_cache(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        worker = await stack.start_worker(FakeEngine(VOCAB_SIZE))
        scheduler = await stack.start_scheduler([worker])
        addresses = [await stack.start_tokenizer(scheduler) for _ in range(2)]
        answers = []
        for address in addresses:
            await stack.serving(address)
            answers.append(await generate(stack, address, request(max_tokens=8, ignore_eos=True)))
        assert answers[0].ids() == answers[1].ids()
        assert answers[1].started.cached_tokens.device == 8


async def test_an_unknown_model_or_report_is_not_found(model_directory: Path) -> None:
    async with running_stack(model_directory) as stack:
        address = await start(stack, FakeEngine(VOCAB_SIZE))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(stack, address, request(model="another"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "'fake' is served" in (caught.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.inference(address).GetReport(inference_pb2.GetReportRequest(request_id="never"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
