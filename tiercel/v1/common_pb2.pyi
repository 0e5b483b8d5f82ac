from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate", "sent_unix_ns")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    SENT_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    sent_unix_ns: int
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., sent_unix_ns: _Optional[int] = ...) -> None: ...

class CachedTokens(_message.Message):
    __slots__ = ("device", "host", "disk")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    device: int
    host: int
    disk: int
    def __init__(self, device: _Optional[int] = ..., host: _Optional[int] = ..., disk: _Optional[int] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "cached_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: CachedTokens
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., cached_tokens: _Optional[_Union[CachedTokens, _Mapping]] = ...) -> None: ...

class RequestReport(_message.Message):
    __slots__ = ("request_id", "queue_ns", "prefill_ns", "decode_ns", "ttft_ns", "e2e_ns", "tokenize_ns", "preemptions", "prefill_chunks", "worker", "received_unix_ns", "fetch_ns", "load_ns", "lookup_ns", "schedule_ns", "transit_ns", "detokenize_ns", "trace_id", "error", "error_message", "phases", "preemption_events", "model", "queue_ahead")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_NS_FIELD_NUMBER: _ClassVar[int]
    DECODE_NS_FIELD_NUMBER: _ClassVar[int]
    TTFT_NS_FIELD_NUMBER: _ClassVar[int]
    E2E_NS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_NS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    FETCH_NS_FIELD_NUMBER: _ClassVar[int]
    LOAD_NS_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_NS_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_NS_FIELD_NUMBER: _ClassVar[int]
    TRANSIT_NS_FIELD_NUMBER: _ClassVar[int]
    DETOKENIZE_NS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    PREEMPTION_EVENTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_AHEAD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    queue_ns: int
    prefill_ns: int
    decode_ns: int
    ttft_ns: int
    e2e_ns: int
    tokenize_ns: int
    preemptions: int
    prefill_chunks: int
    worker: str
    received_unix_ns: int
    fetch_ns: int
    load_ns: int
    lookup_ns: int
    schedule_ns: int
    transit_ns: int
    detokenize_ns: int
    trace_id: str
    error: str
    error_message: str
    phases: _containers.RepeatedCompositeFieldContainer[ReportPhase]
    preemption_events: _containers.RepeatedCompositeFieldContainer[ReportPreemption]
    model: str
    queue_ahead: int
    def __init__(self, request_id: _Optional[str] = ..., queue_ns: _Optional[int] = ..., prefill_ns: _Optional[int] = ..., decode_ns: _Optional[int] = ..., ttft_ns: _Optional[int] = ..., e2e_ns: _Optional[int] = ..., tokenize_ns: _Optional[int] = ..., preemptions: _Optional[int] = ..., prefill_chunks: _Optional[int] = ..., worker: _Optional[str] = ..., received_unix_ns: _Optional[int] = ..., fetch_ns: _Optional[int] = ..., load_ns: _Optional[int] = ..., lookup_ns: _Optional[int] = ..., schedule_ns: _Optional[int] = ..., transit_ns: _Optional[int] = ..., detokenize_ns: _Optional[int] = ..., trace_id: _Optional[str] = ..., error: _Optional[str] = ..., error_message: _Optional[str] = ..., phases: _Optional[_Iterable[_Union[ReportPhase, _Mapping]]] = ..., preemption_events: _Optional[_Iterable[_Union[ReportPreemption, _Mapping]]] = ..., model: _Optional[str] = ..., queue_ahead: _Optional[int] = ...) -> None: ...

class ReportPhase(_message.Message):
    __slots__ = ("name", "start_ns", "duration_ns", "choice", "number", "first_token", "tokens", "compute_ns", "blocks", "wanted_blocks", "bytes", "copy_ns", "is_abandoned")
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_NS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WANTED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COPY_NS_FIELD_NUMBER: _ClassVar[int]
    IS_ABANDONED_FIELD_NUMBER: _ClassVar[int]
    name: str
    start_ns: int
    duration_ns: int
    choice: int
    number: int
    first_token: int
    tokens: int
    compute_ns: int
    blocks: int
    wanted_blocks: int
    bytes: int
    copy_ns: int
    is_abandoned: bool
    def __init__(self, name: _Optional[str] = ..., start_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., choice: _Optional[int] = ..., number: _Optional[int] = ..., first_token: _Optional[int] = ..., tokens: _Optional[int] = ..., compute_ns: _Optional[int] = ..., blocks: _Optional[int] = ..., wanted_blocks: _Optional[int] = ..., bytes: _Optional[int] = ..., copy_ns: _Optional[int] = ..., is_abandoned: _Optional[bool] = ...) -> None: ...

class ReportPreemption(_message.Message):
    __slots__ = ("choice", "at_ns", "computed_tokens")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    AT_NS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    choice: int
    at_ns: int
    computed_tokens: int
    def __init__(self, choice: _Optional[int] = ..., at_ns: _Optional[int] = ..., computed_tokens: _Optional[int] = ...) -> None: ...

class LogprobColumns(_message.Message):
    __slots__ = ("token_ids", "logprobs", "ranks", "num_top", "top_token_ids", "top_logprobs")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOP_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    num_top: _containers.RepeatedScalarFieldContainer[int]
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[float]] = ..., ranks: _Optional[_Iterable[int]] = ..., num_top: _Optional[_Iterable[int]] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class TokenSampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias_ids", "logit_bias_values", "allowed_token_ids", "stop_token_ids", "bad_words", "logprobs", "prompt_logprobs")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    BAD_WORDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    max_tokens: int
    min_tokens: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias_ids: _containers.RepeatedScalarFieldContainer[int]
    logit_bias_values: _containers.RepeatedScalarFieldContainer[float]
    allowed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    bad_words: _containers.RepeatedCompositeFieldContainer[TokenIds]
    logprobs: int
    prompt_logprobs: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., seed: _Optional[int] = ..., max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., logit_bias_ids: _Optional[_Iterable[int]] = ..., logit_bias_values: _Optional[_Iterable[float]] = ..., allowed_token_ids: _Optional[_Iterable[int]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., bad_words: _Optional[_Iterable[_Union[TokenIds, _Mapping]]] = ..., logprobs: _Optional[int] = ..., prompt_logprobs: _Optional[int] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ServiceStatus(_message.Message):
    __slots__ = ("role", "address", "pid", "state", "uptime_ns", "detail", "worker", "metrics_address")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_NS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    role: str
    address: str
    pid: int
    state: str
    uptime_ns: int
    detail: str
    worker: WorkerStatus
    metrics_address: str
    def __init__(self, role: _Optional[str] = ..., address: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., uptime_ns: _Optional[int] = ..., detail: _Optional[str] = ..., worker: _Optional[_Union[WorkerStatus, _Mapping]] = ..., metrics_address: _Optional[str] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("model", "device", "dtype", "kv_dtype", "attention_backend", "block_size_tokens", "block_bytes", "max_model_tokens", "max_batched_tokens", "max_seqs", "running", "waiting", "steps", "prompt_tokens", "completion_tokens", "preemptions", "tiers", "step_gap_p50_ns", "step_gap_p99_ns", "back_to_back_steps", "moves", "weights", "weight_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BACKEND_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    STEP_GAP_P50_NS_FIELD_NUMBER: _ClassVar[int]
    STEP_GAP_P99_NS_FIELD_NUMBER: _ClassVar[int]
    BACK_TO_BACK_STEPS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    device: str
    dtype: str
    kv_dtype: str
    attention_backend: str
    block_size_tokens: int
    block_bytes: int
    max_model_tokens: int
    max_batched_tokens: int
    max_seqs: int
    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    completion_tokens: int
    preemptions: int
    tiers: _containers.RepeatedCompositeFieldContainer[TierStatus]
    step_gap_p50_ns: int
    step_gap_p99_ns: int
    back_to_back_steps: int
    moves: _containers.RepeatedCompositeFieldContainer[MoveStatus]
    weights: str
    weight_bytes: int
    def __init__(self, model: _Optional[str] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., kv_dtype: _Optional[str] = ..., attention_backend: _Optional[str] = ..., block_size_tokens: _Optional[int] = ..., block_bytes: _Optional[int] = ..., max_model_tokens: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., max_seqs: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., steps: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., preemptions: _Optional[int] = ..., tiers: _Optional[_Iterable[_Union[TierStatus, _Mapping]]] = ..., step_gap_p50_ns: _Optional[int] = ..., step_gap_p99_ns: _Optional[int] = ..., back_to_back_steps: _Optional[int] = ..., moves: _Optional[_Iterable[_Union[MoveStatus, _Mapping]]] = ..., weights: _Optional[str] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

class TierStatus(_message.Message):
    __slots__ = ("tier", "capacity_blocks", "in_use_blocks", "cached_blocks", "lookup_tokens", "hit_tokens", "pinned_blocks", "evicted_blocks", "note")
    TIER_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    IN_USE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PINNED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    EVICTED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    tier: str
    capacity_blocks: int
    in_use_blocks: int
    cached_blocks: int
    lookup_tokens: int
    hit_tokens: int
    pinned_blocks: int
    evicted_blocks: int
    note: str
    def __init__(self, tier: _Optional[str] = ..., capacity_blocks: _Optional[int] = ..., in_use_blocks: _Optional[int] = ..., cached_blocks: _Optional[int] = ..., lookup_tokens: _Optional[int] = ..., hit_tokens: _Optional[int] = ..., pinned_blocks: _Optional[int] = ..., evicted_blocks: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class MoveStatus(_message.Message):
    __slots__ = ("move", "transfers", "blocks", "bytes", "copy_ns", "wait_ns", "failed_transfers", "failures")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MOVE_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    COPY_NS_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    FAILED_TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    move: str
    transfers: int
    blocks: int
    bytes: int
    copy_ns: int
    wait_ns: int
    failed_transfers: int
    failures: _containers.ScalarMap[str, int]
    def __init__(self, move: _Optional[str] = ..., transfers: _Optional[int] = ..., blocks: _Optional[int] = ..., bytes: _Optional[int] = ..., copy_ns: _Optional[int] = ..., wait_ns: _Optional[int] = ..., failed_transfers: _Optional[int] = ..., failures: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ManageCacheRequest(_message.Message):
    __slots__ = ("describe", "verify", "clear", "unpin", "settle")
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    CLEAR_FIELD_NUMBER: _ClassVar[int]
    UNPIN_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    describe: DescribeCache
    verify: VerifyCache
    clear: ClearCache
    unpin: UnpinPrefix
    settle: SettleCache
    def __init__(self, describe: _Optional[_Union[DescribeCache, _Mapping]] = ..., verify: _Optional[_Union[VerifyCache, _Mapping]] = ..., clear: _Optional[_Union[ClearCache, _Mapping]] = ..., unpin: _Optional[_Union[UnpinPrefix, _Mapping]] = ..., settle: _Optional[_Union[SettleCache, _Mapping]] = ...) -> None: ...

class DescribeCache(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyCache(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ClearCache(_message.Message):
    __slots__ = ("all_namespaces",)
    ALL_NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    all_namespaces: bool
    def __init__(self, all_namespaces: _Optional[bool] = ...) -> None: ...

class UnpinPrefix(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class SettleCache(_message.Message):
    __slots__ = ("timeout_ns",)
    TIMEOUT_NS_FIELD_NUMBER: _ClassVar[int]
    timeout_ns: int
    def __init__(self, timeout_ns: _Optional[int] = ...) -> None: ...

class ManageCacheEvent(_message.Message):
    __slots__ = ("worker", "progress", "disk", "no_disk", "pinned", "bad_records", "verification", "clearing", "unpinned", "settling", "memory_clearing", "failure")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    NO_DISK_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    BAD_RECORDS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATION_FIELD_NUMBER: _ClassVar[int]
    CLEARING_FIELD_NUMBER: _ClassVar[int]
    UNPINNED_FIELD_NUMBER: _ClassVar[int]
    SETTLING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CLEARING_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    worker: str
    progress: CacheProgress
    disk: DiskDescription
    no_disk: NoDisk
    pinned: PinnedPrefix
    bad_records: BadRecords
    verification: DiskVerification
    clearing: DiskClearing
    unpinned: Unpinned
    settling: CacheSettling
    memory_clearing: MemoryClearing
    failure: CareFailure
    def __init__(self, worker: _Optional[str] = ..., progress: _Optional[_Union[CacheProgress, _Mapping]] = ..., disk: _Optional[_Union[DiskDescription, _Mapping]] = ..., no_disk: _Optional[_Union[NoDisk, _Mapping]] = ..., pinned: _Optional[_Union[PinnedPrefix, _Mapping]] = ..., bad_records: _Optional[_Union[BadRecords, _Mapping]] = ..., verification: _Optional[_Union[DiskVerification, _Mapping]] = ..., clearing: _Optional[_Union[DiskClearing, _Mapping]] = ..., unpinned: _Optional[_Union[Unpinned, _Mapping]] = ..., settling: _Optional[_Union[CacheSettling, _Mapping]] = ..., memory_clearing: _Optional[_Union[MemoryClearing, _Mapping]] = ..., failure: _Optional[_Union[CareFailure, _Mapping]] = ...) -> None: ...

class CacheProgress(_message.Message):
    __slots__ = ("done_records", "total_records")
    DONE_RECORDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_RECORDS_FIELD_NUMBER: _ClassVar[int]
    done_records: int
    total_records: int
    def __init__(self, done_records: _Optional[int] = ..., total_records: _Optional[int] = ...) -> None: ...

class NoDisk(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class CareFailure(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: str
    def __init__(self, message: _Optional[str] = ...) -> None: ...

class DiskDescription(_message.Message):
    __slots__ = ("disk_id", "directory", "capacity_bytes", "index_bytes", "served_namespace", "corrupt_records", "namespaces", "tenants", "tenant_bytes")
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
    SERVED_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACES_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    TENANT_BYTES_FIELD_NUMBER: _ClassVar[int]
    disk_id: bytes
    directory: str
    capacity_bytes: int
    index_bytes: int
    served_namespace: bytes
    corrupt_records: int
    namespaces: _containers.RepeatedCompositeFieldContainer[DiskNamespace]
    tenants: int
    tenant_bytes: int
    def __init__(self, disk_id: _Optional[bytes] = ..., directory: _Optional[str] = ..., capacity_bytes: _Optional[int] = ..., index_bytes: _Optional[int] = ..., served_namespace: _Optional[bytes] = ..., corrupt_records: _Optional[int] = ..., namespaces: _Optional[_Iterable[_Union[DiskNamespace, _Mapping]]] = ..., tenants: _Optional[int] = ..., tenant_bytes: _Optional[int] = ...) -> None: ...

class DiskNamespace(_message.Message):
    __slots__ = ("namespace", "block_bytes", "records", "payload_bytes", "file_bytes", "hits", "hit_records", "youngest_ns", "median_age_ns", "oldest_ns")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    HIT_RECORDS_FIELD_NUMBER: _ClassVar[int]
    YOUNGEST_NS_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_AGE_NS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_NS_FIELD_NUMBER: _ClassVar[int]
    namespace: bytes
    block_bytes: int
    records: int
    payload_bytes: int
    file_bytes: int
    hits: int
    hit_records: int
    youngest_ns: int
    median_age_ns: int
    oldest_ns: int
    def __init__(self, namespace: _Optional[bytes] = ..., block_bytes: _Optional[int] = ..., records: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., file_bytes: _Optional[int] = ..., hits: _Optional[int] = ..., hit_records: _Optional[int] = ..., youngest_ns: _Optional[int] = ..., median_age_ns: _Optional[int] = ..., oldest_ns: _Optional[int] = ...) -> None: ...

class PinnedPrefix(_message.Message):
    __slots__ = ("name", "blocks", "device_blocks", "host_blocks", "disk_blocks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HOST_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DISK_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    blocks: int
    device_blocks: int
    host_blocks: int
    disk_blocks: int
    def __init__(self, name: _Optional[str] = ..., blocks: _Optional[int] = ..., device_blocks: _Optional[int] = ..., host_blocks: _Optional[int] = ..., disk_blocks: _Optional[int] = ...) -> None: ...

class BadRecord(_message.Message):
    __slots__ = ("namespace", "key", "fault")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    namespace: bytes
    key: bytes
    fault: str
    def __init__(self, namespace: _Optional[bytes] = ..., key: _Optional[bytes] = ..., fault: _Optional[str] = ...) -> None: ...

class BadRecords(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[BadRecord]
    def __init__(self, records: _Optional[_Iterable[_Union[BadRecord, _Mapping]]] = ...) -> None: ...

class DiskVerification(_message.Message):
    __slots__ = ("records", "bytes", "bad_records", "index_faults")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    BAD_RECORDS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FAULTS_FIELD_NUMBER: _ClassVar[int]
    records: int
    bytes: int
    bad_records: int
    index_faults: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, records: _Optional[int] = ..., bytes: _Optional[int] = ..., bad_records: _Optional[int] = ..., index_faults: _Optional[_Iterable[str]] = ...) -> None: ...

class DiskClearing(_message.Message):
    __slots__ = ("records",)
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    records: int
    def __init__(self, records: _Optional[int] = ...) -> None: ...

class MemoryClearing(_message.Message):
    __slots__ = ("device_blocks", "host_blocks", "kept_blocks")
    DEVICE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    HOST_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    KEPT_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    device_blocks: int
    host_blocks: int
    kept_blocks: int
    def __init__(self, device_blocks: _Optional[int] = ..., host_blocks: _Optional[int] = ..., kept_blocks: _Optional[int] = ...) -> None: ...

class CacheSettling(_message.Message):
    __slots__ = ("is_settled",)
    IS_SETTLED_FIELD_NUMBER: _ClassVar[int]
    is_settled: bool
    def __init__(self, is_settled: _Optional[bool] = ...) -> None: ...

class Unpinned(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...
