"""From what a caller writes to the message that is sent."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

from tiercel.client.tracing import CallTrace
from tiercel.errors import FieldViolation, InvalidRequest
from tiercel.v1 import common_pb2, inference_pb2


@dataclass(frozen=True, slots=True)
class ChatMessage:
    role: str
    """Usually system, user or assistant; the model's chat template decides."""
    content: str


Prompt = str | Sequence[int] | Sequence[ChatMessage]
"""Text, token ids, or chat messages that the model's chat template renders."""


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of `generate` and `stream`. Names, meanings and defaults as in vLLM."""

    model: str
    request_id: str
    tenant: str
    cache_salt: str
    """Requests share cached prefixes only under equal salt."""
    priority: int
    """Lower runs earlier, default 0."""
    keep_prefix: bool
    """Bring the prompt's blocks down to host memory and disk as soon as they are computed."""
    pin_name: str
    """Add the prompt's blocks to the prefix that is pinned under this name. Raises TierFull where there is no room."""
    resume_tokens: Sequence[int]
    """Tokens of this answer that the caller already has; generation goes on after them."""
    stream_interval: int
    """Tokens that a Delta waits for, but a choice's first and last: fewer messages for who needs not read each token
    at once. Default 1; `generate`, which waits for the whole answer, asks for more."""
    timeout: float
    """Seconds for the whole call, retries included."""
    traceparent: str
    """W3C trace context, passed on to every service."""
    tracestate: str

    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    max_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_in_output: bool
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    logprobs: int
    prompt_logprobs: int
    skip_special_tokens: bool


Metadata = tuple[tuple[str, str], ...]

_CALL_OPTIONS = frozenset({"timeout", "traceparent", "tracestate"})
_REQUEST_OPTIONS = frozenset(
    {
        *("model", "request_id", "tenant", "cache_salt", "priority", "resume_tokens", "keep_prefix", "pin_name"),
        "stream_interval",
    }
)

WHOLE_ANSWER: GenerateOptions = {"stream_interval": 256}
"""For who reads nothing before the end. Longer answers still come in parts, so that no message grows too large."""


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One call of Generate, ready to be sent (again)."""

    request: inference_pb2.GenerateRequest
    metadata: Metadata
    timeout_s: float | None

    def traced(self, trace: CallTrace) -> "GenerateCall":
        """The same, as a part of this trace."""
        context = trace.metadata()
        replaced = {name for name, _ in context}
        return replace(
            self, metadata=(*((name, value) for name, value in self.metadata if name not in replaced), *context)
        )


def generate_call(prompt: Prompt, default_tenant: str, **options: Unpack[GenerateOptions]) -> GenerateCall:
    """Builds the message.

    Raises InvalidRequest for a value that the message cannot carry and TypeError for an unknown option. All
    else is checked by the server, which alone knows the model.
    """
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_unknown(given)
    request = inference_pb2.GenerateRequest(tenant=default_tenant)
    for name, value in given.items():
        if name in _CALL_OPTIONS:
            continue
        target = request if name in _REQUEST_OPTIONS else request.sampling
        _set(target, name, value, prefix="" if target is request else "sampling.")
    _set_prompt(request, prompt)
    return GenerateCall(
        request, trace_metadata(options.get("traceparent"), options.get("tracestate")), options.get("timeout")
    )


def list_reports(limit: int, slowest: bool) -> inference_pb2.ListReportsRequest:
    order = inference_pb2.REPORT_ORDER_SLOWEST if slowest else inference_pb2.REPORT_ORDER_LATEST
    return inference_pb2.ListReportsRequest(order=order, limit=limit)


def tokenize_request(prompt: str | Sequence[ChatMessage], model: str) -> inference_pb2.TokenizeRequest:
    request = inference_pb2.TokenizeRequest(model=model)
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.chat.CopyFrom(_chat(prompt))
    return request


def detokenize_request(
    token_ids: Sequence[int], model: str, skip_special_tokens: bool
) -> inference_pb2.DetokenizeRequest:
    request = inference_pb2.DetokenizeRequest(model=model, skip_special_tokens=skip_special_tokens)
    _set(request, "token_ids", token_ids, prefix="")
    return request


def trace_metadata(traceparent: str | None, tracestate: str | None) -> Metadata:
    pairs = (("traceparent", traceparent), ("tracestate", tracestate))
    return tuple((key, value) for key, value in pairs if value)


def _refuse_unknown(options: Mapping[str, object]) -> None:
    allowed = GenerateOptions.__annotations__.keys()
    for name in options:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(sorted(allowed))}"
            raise TypeError(f"unknown option {name!r}; {hint}")


def _set_prompt(request: inference_pb2.GenerateRequest, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        request.text = prompt
    elif prompt and all(isinstance(message, ChatMessage) for message in prompt):
        request.chat.CopyFrom(_chat(prompt))  # type: ignore[arg-type]
    else:
        request.token_ids.SetInParent()
        _set(request.token_ids, "ids", prompt, prefix="prompt.")


def _chat(messages: Sequence[ChatMessage]) -> inference_pb2.Chat:
    return inference_pb2.Chat(
        messages=[inference_pb2.ChatMessage(role=message.role, content=message.content) for message in messages]
    )


_Message = (
    inference_pb2.GenerateRequest | inference_pb2.SamplingParams | inference_pb2.DetokenizeRequest | common_pb2.TokenIds
)


def _set(message: _Message, name: str, value: object, prefix: str) -> None:
    """Sets one field of a message; protobuf's own complaint becomes an InvalidRequest that names the field."""
    try:
        if isinstance(value, Mapping):
            getattr(message, name).update(value)
        elif name == "stop" and isinstance(value, str):
            getattr(message, name).append(value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    except (TypeError, ValueError) as error:
        field = prefix + name
        raise InvalidRequest(
            f"{field}: {_shown(value)} cannot be sent: {error}",
            code="INVALID_ARGUMENT",
            reason="InvalidRequest",
            field_violations=(FieldViolation(field, str(error)),),
        ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
