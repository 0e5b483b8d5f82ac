"""The client against a real gRPC server: what it sends, what it gives back, what it raises, when it tries again."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.fakes.inference_service import FakeInference, fake_stack, rich_status
from tiercel import (
    Alternative,
    AsyncClient,
    CachedTokens,
    Cancelled,
    ChatMessage,
    Client,
    DeadlinePassed,
    Delta,
    Finished,
    FinishReason,
    InvalidRequest,
    NotFound,
    Overloaded,
    RetryPolicy,
    Started,
    TokenLogprob,
    Unavailable,
)

QUICK = RetryPolicy(max_attempts=3, initial_backoff_s=0.01, max_backoff_s=0.02)


@pytest.fixture
def server() -> Iterator[FakeInference]:
    with fake_stack() as service:
        yield service


@pytest.fixture
def client(server: FakeInference) -> Iterator[Client]:
    with Client(server.address, retry=QUICK) as made:
        yield made


def unavailable() -> grpc.Status:
    return rich_status(grpc.StatusCode.UNAVAILABLE, "the worker was lost", "WorkerLost")


def overloaded(retry_after_s: float) -> grpc.Status:
    return rich_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", "Overloaded", retry_after_s=retry_after_s
    )


def test_generate_gives_the_whole_answer(client: Client) -> None:
    completion = client.generate("hello", max_tokens=3)
    assert completion.text == "HEL"
    assert completion.token_ids == [72, 69, 76]
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.usage.prompt_tokens == 5
    assert completion.usage.cached_tokens == CachedTokens(device=2, host=1, disk=0)
    assert completion.report.ttft_ns == 3_500_000
    assert completion.prompt_logprobs is None


def test_a_stream_is_started_then_deltas_then_finished(client: Client) -> None:
    with client.stream("ab") as stream:
        events = list(stream)
    assert [type(event) for event in events] == [Started, Delta, Delta, Finished]
    assert [event.text for event in events if isinstance(event, Delta)] == ["A", "B"]


def test_every_choice_is_put_together_by_itself(client: Client) -> None:
    completion = client.generate("ab", n=3)
    assert [(choice.index, choice.text) for choice in completion.choices] == [(0, "AB"), (1, "AB"), (2, "AB")]


def test_log_probabilities_come_with_their_alternatives(client: Client) -> None:
    completion = client.generate("ab", logprobs=2, prompt_logprobs=1)
    a, b = completion.logprobs
    assert a == TokenLogprob(65, -0.5, 1, (Alternative(65, -0.5), Alternative(66, -1.5)))
    assert b.token_id == 66
    assert completion.prompt_logprobs is not None
    assert [row.token_id for row in completion.prompt_logprobs] == [ord("b")]


def test_sampling_is_sent_as_given_and_left_out_otherwise(client: Client, server: FakeInference) -> None:
    client.generate("a", temperature=0.0, top_k=0, stop="x", logit_bias={3: -1.5}, max_tokens=None, resume_tokens=[5])  # type: ignore[arg-type]
    (request,) = server.requests
    assert request.sampling.HasField("temperature")
    assert request.sampling.temperature == 0.0
    assert request.sampling.HasField("top_k")
    assert list(request.sampling.stop) == ["x"]
    assert dict(request.sampling.logit_bias) == {3: -1.5}
    assert not request.sampling.HasField("top_p")
    assert not request.sampling.HasField("max_tokens")
    assert list(request.resume_tokens) == [5]


def test_a_whole_answer_asks_for_fewer_messages_than_a_stream(client: Client, server: FakeInference) -> None:
    client.generate("a")
    client.generate("a", stream_interval=2)
    list(client.stream("a"))
    assert [request.stream_interval for request in server.requests] == [256, 2, 0]


def test_prompts_are_text_ids_or_messages(client: Client, server: FakeInference) -> None:
    assert client.generate([104, 105]).text == "HI"
    assert client.generate([ChatMessage("system", "s"), ChatMessage("user", "hi")]).text == "HI"
    assert [request.WhichOneof("prompt") for request in server.requests] == ["token_ids", "chat"]


def test_tenant_and_trace_context_go_with_the_call(server: FakeInference) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with Client(server.address, tenant="blue") as client:
        client.generate("a", traceparent=traceparent, tracestate="k=v")
        client.generate("a", tenant="red")
    assert [request.tenant for request in server.requests] == ["blue", "red"]
    assert server.metadata[0]["traceparent"] == traceparent
    assert server.metadata[0]["tracestate"] == "k=v"
    assert "traceparent" not in server.metadata[1]


def test_an_unknown_option_is_named_with_its_neighbour(client: Client) -> None:
    with pytest.raises(TypeError, match=r"max_token.*did you mean 'max_tokens'"):
        client.generate("a", max_token=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("prompt", "options", "field"),
    [
        ([-1], {}, "prompt.ids"),
        ("a", {"temperature": "hot"}, "sampling.temperature"),
        ("a", {"max_tokens": 2**40}, "sampling.max_tokens"),
        ("a", {"resume_tokens": [1 << 40]}, "resume_tokens"),
    ],
)
def test_what_a_message_cannot_carry_is_refused_by_field(
    client: Client, server: FakeInference, prompt: str, options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.generate(prompt, **options)  # type: ignore[arg-type]
    assert [violation.field for violation in caught.value.field_violations] == [field]
    assert server.num_calls == 0


def test_the_other_calls_answer_in_plain_types(client: Client) -> None:
    assert client.tokenize("hi") == [104, 105]
    assert client.detokenize([104, 105]) == "hi"
    assert client.models()[0].max_model_tokens == 64
    assert client.report("fake-1").queue_ns == 7
    status = client.status()
    assert [service.role for service in status.services] == ["tokenizer", "worker"]
    assert status.services[0].worker is None
    assert status.services[1].worker is not None
    assert status.services[1].worker.tiers[0].hit_tokens == 25
    with pytest.raises(NotFound, match="no report of gone"):
        client.report("gone")


def test_an_error_keeps_what_the_server_said(client: Client, server: FakeInference) -> None:
    server.refusals.append(
        rich_status(
            grpc.StatusCode.INVALID_ARGUMENT, "top_p is 7, allowed is (0, 1]", "InvalidRequest", field="sampling.top_p"
        )
    )
    with pytest.raises(InvalidRequest) as caught:
        client.generate("a")
    assert caught.value.message == "top_p is 7, allowed is (0, 1]"
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.reason == "InvalidRequest"
    assert caught.value.field_violations[0].field == "sampling.top_p"
    assert server.num_calls == 1, "a request that can never succeed is not sent again"


def test_a_lost_worker_before_the_first_event_is_tried_again(client: Client, server: FakeInference) -> None:
    server.refusals.extend([unavailable(), unavailable()])
    assert client.generate("a").text == "A"
    assert server.num_calls == 3


def test_attempts_are_bounded(client: Client, server: FakeInference) -> None:
    server.refusals.extend([unavailable() for _ in range(9)])
    with pytest.raises(Unavailable, match="worker was lost"):
        client.generate("a")
    assert server.num_calls == QUICK.max_attempts


def test_a_stream_that_has_begun_is_never_tried_again(client: Client, server: FakeInference) -> None:
    server.break_after_start = unavailable()
    with pytest.raises(Unavailable):
        client.generate("a")
    assert server.num_calls == 1


def test_retries_can_be_switched_off(server: FakeInference) -> None:
    server.refusals.append(unavailable())
    with Client(server.address, retry=None) as client, pytest.raises(Unavailable):
        client.generate("a")
    assert server.num_calls == 1


def test_a_full_queue_is_waited_for_as_long_as_it_says(client: Client, server: FakeInference) -> None:
    server.refusals.append(overloaded(retry_after_s=0.25))
    before = time.monotonic()
    assert client.generate("a").text == "A"
    assert time.monotonic() - before >= 0.25


def test_a_hint_beyond_the_deadline_is_raised_at_once(client: Client, server: FakeInference) -> None:
    server.refusals.append(overloaded(retry_after_s=20))
    before = time.monotonic()
    with pytest.raises(Overloaded) as caught:
        client.generate("a", timeout=5)
    assert caught.value.retry_after_s == 20
    assert time.monotonic() - before < 5


def test_a_full_queue_without_a_hint_is_not_tried_again(client: Client, server: FakeInference) -> None:
    server.refusals.append(rich_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "Overloaded"))
    with pytest.raises(Overloaded):
        client.generate("a")
    assert server.num_calls == 1


def test_the_timeout_ends_call_and_server_work(client: Client, server: FakeInference) -> None:
    server.hold_after_first_delta = True
    with pytest.raises(DeadlinePassed, match="timeout passed"):
        client.generate("abc", timeout=0.3)
    assert server.ended_by_client.wait(10)


def test_leaving_the_block_cancels_on_the_server(client: Client, server: FakeInference) -> None:
    server.hold_after_first_delta = True
    with client.stream("abc") as stream:
        next(stream)
    assert server.ended_by_client.wait(10)


def test_reading_on_after_cancel_raises_cancelled(client: Client, server: FakeInference) -> None:
    server.hold_after_first_delta = True
    stream = client.stream("abc")
    next(stream)
    stream.cancel()
    with pytest.raises(Cancelled):
        list(stream)
    assert server.num_calls == 1
    assert server.ended_by_client.wait(10)


def test_nobody_there_is_said_with_the_address_and_what_to_do() -> None:
    with Client("127.0.0.1:1", retry=None) as client, pytest.raises(Unavailable) as caught:
        client.generate("a")
    assert "127.0.0.1:1" in caught.value.message
    assert "infer-cli up" in caught.value.message
    assert caught.value.reason is None


def test_tls_needs_the_right_authority(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with fake_stack(credentials) as server:
        with Client(server.address, ca=certificate) as client:
            assert client.generate("a").text == "A"
        with Client(server.address, retry=None) as client, pytest.raises(Unavailable):
            client.generate("a")


# -- asyncio ---------------------------------------------------------------------------------------


def test_async_generate_and_calls(server: FakeInference) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address, retry=QUICK) as client:
            completion, second = await asyncio.gather(client.generate("hello"), client.generate("you", n=2))
            assert completion.text == "HELLO"
            assert [choice.text for choice in second.choices] == ["YOU", "YOU"]
            assert await client.tokenize("hi") == [104, 105]
            assert await client.detokenize([104]) == "h"
            assert (await client.models())[0].id == "shout"
            assert (await client.report("fake-9")).request_id == "fake-9"
            assert len((await client.status()).services) == 2

    asyncio.run(ask())


def test_async_retries_follow_the_same_rules(server: FakeInference) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address, retry=QUICK) as client:
            server.refusals.append(unavailable())
            assert (await client.generate("a")).text == "A"
            assert server.num_calls == 2
            server.break_after_start = unavailable()
            with pytest.raises(Unavailable):
                await client.generate("a")
            assert server.num_calls == 3

    asyncio.run(ask())


def test_async_timeout_and_errors(server: FakeInference) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address) as client:
            server.hold_after_first_delta = True
            with pytest.raises(DeadlinePassed):
                await client.generate("abc", timeout=0.3)
            with pytest.raises(NotFound):
                await client.report("gone")

    asyncio.run(ask())
    assert server.ended_by_client.wait(10)


def test_async_leaving_the_block_cancels_on_the_server(server: FakeInference) -> None:
    async def ask() -> None:
        server.hold_after_first_delta = True
        async with AsyncClient(server.address) as client:
            async with client.stream("abc") as stream:
                assert isinstance(await anext(stream), Started)
            assert await asyncio.to_thread(server.ended_by_client.wait, 10)

    asyncio.run(ask())


def test_async_reading_on_after_cancel_raises_cancelled(server: FakeInference) -> None:
    async def ask() -> None:
        server.hold_after_first_delta = True
        async with AsyncClient(server.address) as client:
            stream = client.stream("abc")
            await anext(stream)
            await anext(stream)
            reading = asyncio.create_task(anext(stream))
            await asyncio.to_thread(server.first_delta_sent.wait, 10)
            stream.cancel()
            with pytest.raises(Cancelled):
                await reading
            with pytest.raises(Cancelled):
                await anext(stream)

    asyncio.run(ask())


def test_cancelling_the_task_cancels_on_the_server(server: FakeInference) -> None:
    async def ask() -> None:
        server.hold_after_first_delta = True
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.generate("abc"))
            assert await asyncio.to_thread(server.first_delta_sent.wait, 10)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert await asyncio.to_thread(server.ended_by_client.wait, 10)

    asyncio.run(ask())
