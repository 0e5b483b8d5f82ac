"""The scheduler's side of scheduling.proto: submissions in, one message of columns per step out."""

from dataclasses import dataclass, field

from engine.errors import InferError, Overloaded
from engine.logprobs import Logprobs
from engine.scheduling.plan import TraceContext
from engine.scheduling.request import (
    CachedTokens,
    Event,
    Finished,
    FinishReason,
    PromptScored,
    Refused,
    Request,
    Started,
    TokenEvent,
)
from services.common.finish_reason_wire import finish_reason_to_wire
from services.common.logprobs_wire import logprobs_to_wire
from services.common.sampling_wire import sampling_from_wire
from services.common.status import error_kind
from tiercel.v1 import common_pb2, scheduling_pb2


def request_from_wire(message: scheduling_pb2.Submit, engine_id: str, now_ns: int, trace: TraceContext) -> Request:
    """`engine_id` replaces the client's id, which is unique only among the requests of one tokenizer; `trace` is
    that of the request's span here.
    """
    return Request(
        request_id=engine_id,
        prompt_token_ids=list(message.prompt_token_ids),
        sampling=sampling_from_wire(message.sampling),
        n=message.n,
        resume_token_ids=list(message.resume_token_ids),
        priority=message.priority,
        tenant=message.tenant,
        cache_salt=message.cache_salt,
        deadline_ns=now_ns + message.timeout_ns if message.HasField("timeout_ns") else None,
        trace=trace,
        keep_prefix=message.keep_prefix,
        pin_name=message.pin_name,
    )


@dataclass(slots=True)
class OutputColumns:
    """What one step, or one sweep between steps, has to say to one tokenizer."""

    output: scheduling_pb2.StepOutput = field(default_factory=scheduling_pb2.StepOutput)
    handles: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprob_rows: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=Logprobs)

    def add(self, handle: int, event: Event, report: common_pb2.RequestReport | None) -> None:
        """`report` comes with the last event of a request."""
        match event:
            case TokenEvent(index=index, token_id=token_id, logprobs=logprobs):
                if logprobs is not None:
                    self.logprob_rows.append(len(self.handles))
                    self.logprobs.extend(logprobs)
                self.handles.append(handle)
                self.indices.append(index)
                self.token_ids.append(token_id)
            case Started(cached=cached):
                self.output.starts.add(handle=handle, cached_tokens=_cached_tokens(cached))
            case Finished(index=index, reason=reason, stop_token_id=stop_token_id):
                finish = self.output.finishes.add(handle=handle, index=index, reason=finish_reason_to_wire(reason))
                if stop_token_id is not None:
                    finish.stop_token_id = stop_token_id
                if report is not None:
                    finish.report.CopyFrom(report)
            case PromptScored(logprobs=logprobs):
                self.output.prompt_scores.add(handle=handle, logprobs=logprobs_to_wire(logprobs))
            case Refused(error=error):
                self.refuse(handle, error, report)

    def refuse(self, handle: int, error: InferError, report: common_pb2.RequestReport | None) -> None:
        refusal = self.output.refusals.add(handle=handle, kind=error_kind(error), message=error.message)
        if isinstance(error, Overloaded):
            refusal.retry_after_ns = int(error.retry_after_s * 1e9)
        if report is not None:
            refusal.report.CopyFrom(report)

    def to_wire(self) -> scheduling_pb2.SchedulerMessage:
        if self.handles:
            tokens = self.output.tokens
            tokens.handles.extend(self.handles)
            tokens.indices.extend(self.indices)
            tokens.token_ids.extend(self.token_ids)
            if self.logprob_rows:
                tokens.logprob_rows.extend(self.logprob_rows)
                tokens.logprobs.CopyFrom(logprobs_to_wire(self.logprobs))
        return scheduling_pb2.SchedulerMessage(output=self.output)


def _cached_tokens(cached: CachedTokens) -> common_pb2.CachedTokens:
    return common_pb2.CachedTokens(device=cached.device, host=cached.host, disk=cached.disk)


def cancel_reason(message: scheduling_pb2.Cancel) -> FinishReason:
    """STOP ends a choice normally; whatever else a tokenizer may send means that nobody listens any more."""
    is_stop = message.reason == common_pb2.FINISH_REASON_STOP
    return FinishReason.STOP if is_stop else FinishReason.CANCELLED
