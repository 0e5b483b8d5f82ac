from tiercel.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrontMessage(_message.Message):
    __slots__ = ("submit", "cancel")
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    submit: Submit
    cancel: Cancel
    def __init__(self, submit: _Optional[_Union[Submit, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("handle", "request_id", "prompt_token_ids", "resume_token_ids", "sampling", "n", "priority", "tenant", "cache_salt", "timeout_ns", "trace", "keep_prefix", "pin_name")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    KEEP_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PIN_NAME_FIELD_NUMBER: _ClassVar[int]
    handle: int
    request_id: str
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    resume_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _common_pb2.TokenSampling
    n: int
    priority: int
    tenant: str
    cache_salt: str
    timeout_ns: int
    trace: _common_pb2.TraceContext
    keep_prefix: bool
    pin_name: str
    def __init__(self, handle: _Optional[int] = ..., request_id: _Optional[str] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., resume_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_common_pb2.TokenSampling, _Mapping]] = ..., n: _Optional[int] = ..., priority: _Optional[int] = ..., tenant: _Optional[str] = ..., cache_salt: _Optional[str] = ..., timeout_ns: _Optional[int] = ..., trace: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ..., keep_prefix: _Optional[bool] = ..., pin_name: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("handle", "index", "reason")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    handle: int
    index: int
    reason: _common_pb2.FinishReason
    def __init__(self, handle: _Optional[int] = ..., index: _Optional[int] = ..., reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ...) -> None: ...

class SchedulerMessage(_message.Message):
    __slots__ = ("info", "output")
    INFO_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    info: SchedulerInfo
    output: StepOutput
    def __init__(self, info: _Optional[_Union[SchedulerInfo, _Mapping]] = ..., output: _Optional[_Union[StepOutput, _Mapping]] = ...) -> None: ...

class SchedulerInfo(_message.Message):
    __slots__ = ("ready", "model", "fingerprint", "max_model_tokens", "vocab_size", "max_waiting")
    READY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_WAITING_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    model: str
    fingerprint: str
    max_model_tokens: int
    vocab_size: int
    max_waiting: int
    def __init__(self, ready: _Optional[bool] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., max_model_tokens: _Optional[int] = ..., vocab_size: _Optional[int] = ..., max_waiting: _Optional[int] = ...) -> None: ...

class StepOutput(_message.Message):
    __slots__ = ("starts", "tokens", "finishes", "refusals", "prompt_scores")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINISHES_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SCORES_FIELD_NUMBER: _ClassVar[int]
    starts: _containers.RepeatedCompositeFieldContainer[Start]
    tokens: TokenColumns
    finishes: _containers.RepeatedCompositeFieldContainer[Finish]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    prompt_scores: _containers.RepeatedCompositeFieldContainer[PromptScores]
    def __init__(self, starts: _Optional[_Iterable[_Union[Start, _Mapping]]] = ..., tokens: _Optional[_Union[TokenColumns, _Mapping]] = ..., finishes: _Optional[_Iterable[_Union[Finish, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., prompt_scores: _Optional[_Iterable[_Union[PromptScores, _Mapping]]] = ...) -> None: ...

class Start(_message.Message):
    __slots__ = ("handle", "cached_tokens")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    cached_tokens: _common_pb2.CachedTokens
    def __init__(self, handle: _Optional[int] = ..., cached_tokens: _Optional[_Union[_common_pb2.CachedTokens, _Mapping]] = ...) -> None: ...

class TokenColumns(_message.Message):
    __slots__ = ("handles", "indices", "token_ids", "logprob_rows", "logprobs")
    HANDLES_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_ROWS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    handles: _containers.RepeatedScalarFieldContainer[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprob_rows: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _common_pb2.LogprobColumns
    def __init__(self, handles: _Optional[_Iterable[int]] = ..., indices: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprob_rows: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Union[_common_pb2.LogprobColumns, _Mapping]] = ...) -> None: ...

class PromptScores(_message.Message):
    __slots__ = ("handle", "logprobs")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    logprobs: _common_pb2.LogprobColumns
    def __init__(self, handle: _Optional[int] = ..., logprobs: _Optional[_Union[_common_pb2.LogprobColumns, _Mapping]] = ...) -> None: ...

class Finish(_message.Message):
    __slots__ = ("handle", "index", "reason", "stop_token_id", "report")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    handle: int
    index: int
    reason: _common_pb2.FinishReason
    stop_token_id: int
    report: _common_pb2.RequestReport
    def __init__(self, handle: _Optional[int] = ..., index: _Optional[int] = ..., reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., stop_token_id: _Optional[int] = ..., report: _Optional[_Union[_common_pb2.RequestReport, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("handle", "kind", "message", "retry_after_ns", "report")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    handle: int
    kind: str
    message: str
    retry_after_ns: int
    report: _common_pb2.RequestReport
    def __init__(self, handle: _Optional[int] = ..., kind: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_ns: _Optional[int] = ..., report: _Optional[_Union[_common_pb2.RequestReport, _Mapping]] = ...) -> None: ...

class GetSchedulerStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSchedulerStatusResponse(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedCompositeFieldContainer[_common_pb2.ServiceStatus]
    def __init__(self, services: _Optional[_Iterable[_Union[_common_pb2.ServiceStatus, _Mapping]]] = ...) -> None: ...
