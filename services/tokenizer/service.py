"""The gRPC face of the tokenizer, the front door: text and ids in, text and ids out."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any, cast

import grpc

from engine.errors import InvalidRequest, ModelNotFound, WorkerLost
from engine.text.answer import Answer
from engine.text.chat import Message
from engine.text.detokenizer import Detokenizer
from engine.text.stop_strings import StopStrings
from services.common import logs
from services.common.metrics import Reading
from services.common.model_path import TOKENIZER_FILES, resolve_model
from services.common.sampling_wire import sampling_to_wire
from services.common.server import ServiceHost
from services.common.status import errors_as_status
from services.common.trace_context import text_metadata, trace_from_metadata, trace_to_wire
from services.tokenizer.admission import Admission
from services.tokenizer.call_watch import CallWatch, WatchedCall
from services.tokenizer.config import TokenizerConfig
from services.tokenizer.live_call import LiveCall
from services.tokenizer.metrics import OPEN_CALLS, SCHEDULER_CONNECTED, RequestMetrics
from services.tokenizer.reports import ReportBook
from services.tokenizer.scheduler_stream import SchedulerStream
from services.tokenizer.text_model import TextModel, load_text_model
from services.tokenizer.validation import ValidRequest, validate
from tiercel.v1 import common_pb2, inference_pb2, inference_pb2_grpc, scheduling_pb2

_log = logs.get_logger(__name__)

SERVICE_NAME = "tiercel.v1.Inference"

_Context = grpc.aio.ServicerContext[Any, Any]


class TokenizerService:
    """Serves `Inference`. Ready once the tokenizer is loaded and while the scheduler has a worker."""

    def __init__(self, host: ServiceHost, config: TokenizerConfig) -> None:
        self._host = host
        self._config = config
        self._admission = Admission(config.max_concurrent)
        self._reports = ReportBook(config.max_reports)
        self._readiness_changed = asyncio.Event()
        self._stream = SchedulerStream(config, self._readiness_changed.set)
        self._text: TextModel | None = None
        self._watch = CallWatch(RequestMetrics(host.metrics, config.metrics_tenants), host.telemetry, self._reports)
        host.metrics.add(self._read_metrics)

    def _read_metrics(self) -> Iterator[Reading]:
        yield Reading(OPEN_CALLS, self._admission.num_open)
        yield Reading(SCHEDULER_CONNECTED, self._stream.info is not None)

    def register(self, server: grpc.aio.Server) -> None:
        inference_pb2_grpc.add_InferenceServicer_to_server(cast(inference_pb2_grpc.InferenceServicer, self), server)

    async def run(self) -> None:
        streaming = asyncio.create_task(self._stream.run())
        try:
            self._text = await asyncio.to_thread(_load, self._config)
            _log.info(
                "tokenizer loaded",
                extra=logs.fields(model=self._text.name, eos_token_ids=list(self._text.facts.eos_token_ids)),
            )
            while True:
                await self._host.set_ready(self._stream.is_ready)
                await self._readiness_changed.wait()
                self._readiness_changed.clear()
        finally:
            streaming.cancel()
            await asyncio.gather(streaming, return_exceptions=True)

    async def Generate(self, request: inference_pb2.GenerateRequest, context: _Context) -> None:
        """Written with `context.write` rather than as a generator, so that a client that left is noticed at once."""
        metadata = context.invocation_metadata()
        tenant = request.tenant or text_metadata(metadata, "x-tenant")
        trace = trace_from_metadata(metadata)
        async with errors_as_status(context, _log):
            with self._watch.call(request, tenant, trace) as watched, self._admission.admitted():
                text = self._loaded(request.model)
                watched.model = self._model_name(text)
                call, message = await self._prepare(watched, context, text)
                try:
                    call.submit(message)
                    await self._answer(call, context, watched)
                finally:
                    call.leave()

    async def _prepare(
        self, watched: WatchedCall, context: _Context, text: TextModel
    ) -> tuple[LiveCall, scheduling_pb2.Submit]:
        """Everything up to the submission: ids, checks, the state that turns ids back into text."""
        request = watched.request
        prompt_ids = await self._prompt_ids(request, text)
        watched.clock.on_tokenized()
        watched.num_prompt_tokens = len(prompt_ids)
        captures = self._host.telemetry.captures_content
        if captures:
            watched.record_prompt()
        valid = validate(request, prompt_ids, text, self._max_model_tokens(text))
        request_id = request.request_id or watched.request_id
        answers = [_answer_for(text, valid, prompt_ids) for _ in range(valid.n)]
        if request.resume_tokens:
            answers[0].resume(request.resume_tokens)
        started = inference_pb2.Started(
            request_id=request_id, model=self._model_name(text), prompt_tokens=len(prompt_ids)
        )
        call = watched.live = LiveCall(
            self._stream,
            started,
            answers,
            len(request.resume_tokens),
            watched.clock,
            stream_interval=max(1, request.stream_interval),
            keeps_texts=captures,
        )
        message = scheduling_pb2.Submit(
            request_id=request_id,
            prompt_token_ids=prompt_ids,
            resume_token_ids=request.resume_tokens,
            sampling=sampling_to_wire(valid.sampling),
            n=valid.n,
            priority=request.priority,
            tenant=watched.tenant,
            cache_salt=request.cache_salt,
            trace=trace_to_wire(watched.span.trace),
            keep_prefix=request.keep_prefix,
            pin_name=request.pin_name,
        )
        remaining_s: float | None = context.time_remaining()
        if remaining_s is not None:
            message.timeout_ns = max(0, int(remaining_s * 1e9))
        return call, message

    async def _answer(self, call: LiveCall, context: _Context, watched: WatchedCall) -> None:
        """Send events as the client takes them. While it does not, deltas merge in the mailbox."""
        clock = watched.clock
        while (events := await call.mailbox.take()) is not None:
            for event in events:
                if event.HasField("delta"):
                    clock.on_first_delta()
                await context.write(event)
        watched.complete(call.report)
        finished = call.finished()
        watched.finished = finished
        await context.write(inference_pb2.GenerateEvent(finished=finished))

    async def Tokenize(
        self, request: inference_pb2.TokenizeRequest, context: _Context
    ) -> inference_pb2.TokenizeResponse:
        response = inference_pb2.TokenizeResponse()
        async with errors_as_status(context, _log):
            text = self._loaded(request.model)
            response.max_model_tokens = self._max_model_tokens(text)
            match request.WhichOneof("prompt"):
                case "chat":
                    response.token_ids.extend(await text.encode_chat(_messages(request.chat)))
                case "text":
                    add_special = request.add_special_tokens if request.HasField("add_special_tokens") else True
                    response.token_ids.extend(await text.encode(request.text, add_special))
                case None:
                    raise InvalidRequest("There is nothing to tokenize; set one of text or chat.", field="prompt")
        return response

    async def Detokenize(
        self, request: inference_pb2.DetokenizeRequest, context: _Context
    ) -> inference_pb2.DetokenizeResponse:
        response = inference_pb2.DetokenizeResponse()
        async with errors_as_status(context, _log):
            text = self._loaded(request.model)
            skip_special = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
            response.text = await text.decode(list(request.token_ids), skip_special)
        return response

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002
        context: _Context,
    ) -> inference_pb2.ListModelsResponse:
        response = inference_pb2.ListModelsResponse()
        async with errors_as_status(context, _log):
            response.models.append(self._model_info(self._loaded("")))
        return response

    async def GetReport(
        self, request: inference_pb2.GetReportRequest, context: _Context
    ) -> inference_pb2.GetReportResponse:
        response = inference_pb2.GetReportResponse()
        async with errors_as_status(context, _log):
            response.CopyFrom(self._reports.get(request.request_id))
        return response

    async def ListReports(
        self, request: inference_pb2.ListReportsRequest, context: _Context
    ) -> inference_pb2.ListReportsResponse:
        response = inference_pb2.ListReportsResponse()
        async with errors_as_status(context, _log):
            response.reports.extend(self._reports.select(request.order, request.limit))
        return response

    async def GetStatus(
        self,
        request: inference_pb2.GetStatusRequest,  # noqa: ARG002
        context: _Context,
    ) -> inference_pb2.GetStatusResponse:
        response = inference_pb2.GetStatusResponse()
        async with errors_as_status(context, _log):
            response.services.add(
                role="tokenizer",
                address=self._host.address,
                pid=os.getpid(),
                state=self._host.state,
                metrics_address=self._host.metrics_address,
                uptime_ns=self._host.uptime_ns,
                detail=f"{self._admission.num_open} calls open",
            )
            response.services.extend(await self._stream.scheduler_rows())
            if self._text is not None:
                response.models.append(self._model_info(self._text))
        return response

    async def ManageCache(self, request: common_pb2.ManageCacheRequest, context: _Context) -> None:
        answering = contextlib.aclosing(self._stream.manage_cache(request))
        async with errors_as_status(context, _log), answering as events:
            async for event in events:
                await context.write(event)

    async def _prompt_ids(self, request: inference_pb2.GenerateRequest, text: TextModel) -> list[int]:
        match request.WhichOneof("prompt"):
            case "token_ids":
                return list(request.token_ids.ids)
            case "chat":
                return await text.encode_chat(_messages(request.chat))
            case _:
                return await text.encode(request.text, add_special_tokens=True)

    def _loaded(self, model: str) -> TextModel:
        if self._text is None:
            raise WorkerLost("the tokenizer is still loading; try again in a moment")
        name = self._model_name(self._text)
        if model and model != name:
            raise ModelNotFound(f"there is no model {model!r} here; {name!r} is served", field="model")
        return self._text

    def _model_name(self, text: TextModel) -> str:
        """What the worker calls the model, once one has been there."""
        return self._served.model or text.name

    @property
    def _served(self) -> scheduling_pb2.SchedulerInfo:
        info = self._stream.info
        return info if info is not None else scheduling_pb2.SchedulerInfo()

    def _max_model_tokens(self, text: TextModel) -> int:
        """The workers' limit; before one is there the model's own, which the scheduler checks again."""
        return self._served.max_model_tokens or text.facts.max_model_tokens

    def _model_info(self, text: TextModel) -> inference_pb2.ModelInfo:
        return inference_pb2.ModelInfo(
            id=self._model_name(text),
            fingerprint=self._served.fingerprint,
            max_model_tokens=self._max_model_tokens(text),
            vocab_size=text.facts.vocab_size,
            has_chat_template=text.tokenizer.has_chat_template,
        )

    async def drain(self) -> None:
        """Refuse what comes, finish what is open."""
        await self._admission.drain()

    async def close(self) -> None:
        if self._text is not None:
            self._text.close()


def _load(config: TokenizerConfig) -> TextModel:
    """Blocks, for seconds or for a download."""
    return load_text_model(
        resolve_model(config.model, config.served_model_name, TOKENIZER_FILES), config.encode_threads
    )


def _messages(chat: inference_pb2.Chat) -> list[Message]:
    return [Message(message.role, message.content) for message in chat.messages]


def _answer_for(text: TextModel, valid: ValidRequest, prompt_ids: list[int]) -> Answer:
    return Answer(
        Detokenizer(text.tokenizer, prompt_ids, valid.skip_special_tokens),
        StopStrings(valid.stop, valid.include_stop),
        valid.include_stop,
    )
