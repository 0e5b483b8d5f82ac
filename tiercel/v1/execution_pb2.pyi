from tiercel.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransferKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSFER_KIND_UNSPECIFIED: _ClassVar[TransferKind]
    TRANSFER_KIND_SPILL: _ClassVar[TransferKind]
    TRANSFER_KIND_LOAD: _ClassVar[TransferKind]
    TRANSFER_KIND_PERSIST: _ClassVar[TransferKind]
    TRANSFER_KIND_FETCH: _ClassVar[TransferKind]

class TransferFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSFER_FAILURE_UNSPECIFIED: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_MISSING: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_CORRUPT: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_FULL: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_IO_ERROR: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_TIMEOUT: _ClassVar[TransferFailure]
    TRANSFER_FAILURE_CANCELLED: _ClassVar[TransferFailure]
TRANSFER_KIND_UNSPECIFIED: TransferKind
TRANSFER_KIND_SPILL: TransferKind
TRANSFER_KIND_LOAD: TransferKind
TRANSFER_KIND_PERSIST: TransferKind
TRANSFER_KIND_FETCH: TransferKind
TRANSFER_FAILURE_UNSPECIFIED: TransferFailure
TRANSFER_FAILURE_MISSING: TransferFailure
TRANSFER_FAILURE_CORRUPT: TransferFailure
TRANSFER_FAILURE_FULL: TransferFailure
TRANSFER_FAILURE_IO_ERROR: TransferFailure
TRANSFER_FAILURE_TIMEOUT: TransferFailure
TRANSFER_FAILURE_CANCELLED: TransferFailure

class PlanMessage(_message.Message):
    __slots__ = ("open", "plan", "transfers", "pin")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    open: Open
    plan: StepPlan
    transfers: Transfers
    pin: PinnedKeys
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., plan: _Optional[_Union[StepPlan, _Mapping]] = ..., transfers: _Optional[_Union[Transfers, _Mapping]] = ..., pin: _Optional[_Union[PinnedKeys, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("scheduler_id", "protocol_version")
    SCHEDULER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    scheduler_id: str
    protocol_version: int
    def __init__(self, scheduler_id: _Optional[str] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("ready", "result", "fault", "loading", "transfer_result", "tier_events", "tier_fault", "pinned", "pin_kept")
    READY_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    LOADING_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_RESULT_FIELD_NUMBER: _ClassVar[int]
    TIER_EVENTS_FIELD_NUMBER: _ClassVar[int]
    TIER_FAULT_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PIN_KEPT_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    result: StepResult
    fault: Fault
    loading: Loading
    transfer_result: TransferResult
    tier_events: TierEvents
    tier_fault: TierFault
    pinned: PinnedKeys
    pin_kept: PinKept
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., result: _Optional[_Union[StepResult, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ..., loading: _Optional[_Union[Loading, _Mapping]] = ..., transfer_result: _Optional[_Union[TransferResult, _Mapping]] = ..., tier_events: _Optional[_Union[TierEvents, _Mapping]] = ..., tier_fault: _Optional[_Union[TierFault, _Mapping]] = ..., pinned: _Optional[_Union[PinnedKeys, _Mapping]] = ..., pin_kept: _Optional[_Union[PinKept, _Mapping]] = ...) -> None: ...

class Loading(_message.Message):
    __slots__ = ("loaded_bytes", "total_bytes")
    LOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    loaded_bytes: int
    total_bytes: int
    def __init__(self, loaded_bytes: _Optional[int] = ..., total_bytes: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("model", "fingerprint", "namespace", "block_size_tokens", "block_bytes", "num_blocks", "max_seqs", "max_model_tokens", "max_batched_tokens", "vocab_size", "device", "dtype", "kv_dtype", "attention_backend", "pid", "rope_length_dependent_from_tokens", "num_host_slots", "host_is_pinned", "disk_id", "disk_capacity_bytes", "host_note", "disk_note", "metrics_address", "max_pinned_disk_blocks", "weights", "weight_bytes")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    KV_DTYPE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BACKEND_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    ROPE_LENGTH_DEPENDENT_FROM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_HOST_SLOTS_FIELD_NUMBER: _ClassVar[int]
    HOST_IS_PINNED_FIELD_NUMBER: _ClassVar[int]
    DISK_ID_FIELD_NUMBER: _ClassVar[int]
    DISK_CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_NOTE_FIELD_NUMBER: _ClassVar[int]
    DISK_NOTE_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAX_PINNED_DISK_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    model: str
    fingerprint: str
    namespace: bytes
    block_size_tokens: int
    block_bytes: int
    num_blocks: int
    max_seqs: int
    max_model_tokens: int
    max_batched_tokens: int
    vocab_size: int
    device: str
    dtype: str
    kv_dtype: str
    attention_backend: str
    pid: int
    rope_length_dependent_from_tokens: int
    num_host_slots: int
    host_is_pinned: bool
    disk_id: bytes
    disk_capacity_bytes: int
    host_note: str
    disk_note: str
    metrics_address: str
    max_pinned_disk_blocks: int
    weights: str
    weight_bytes: int
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., namespace: _Optional[bytes] = ..., block_size_tokens: _Optional[int] = ..., block_bytes: _Optional[int] = ..., num_blocks: _Optional[int] = ..., max_seqs: _Optional[int] = ..., max_model_tokens: _Optional[int] = ..., max_batched_tokens: _Optional[int] = ..., vocab_size: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., kv_dtype: _Optional[str] = ..., attention_backend: _Optional[str] = ..., pid: _Optional[int] = ..., rope_length_dependent_from_tokens: _Optional[int] = ..., num_host_slots: _Optional[int] = ..., host_is_pinned: _Optional[bool] = ..., disk_id: _Optional[bytes] = ..., disk_capacity_bytes: _Optional[int] = ..., host_note: _Optional[str] = ..., disk_note: _Optional[str] = ..., metrics_address: _Optional[str] = ..., max_pinned_disk_blocks: _Optional[int] = ..., weights: _Optional[str] = ..., weight_bytes: _Optional[int] = ...) -> None: ...

class Transfers(_message.Message):
    __slots__ = ("transfers",)
    TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    transfers: _containers.RepeatedCompositeFieldContainer[Transfer]
    def __init__(self, transfers: _Optional[_Iterable[_Union[Transfer, _Mapping]]] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("transfer_id", "kind", "keys", "block_ids", "host_slots", "depths", "tenant", "timeout_ns", "trace")
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    HOST_SLOTS_FIELD_NUMBER: _ClassVar[int]
    DEPTHS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_NS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    transfer_id: int
    kind: TransferKind
    keys: bytes
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    host_slots: _containers.RepeatedScalarFieldContainer[int]
    depths: _containers.RepeatedScalarFieldContainer[int]
    tenant: str
    timeout_ns: int
    trace: _common_pb2.TraceContext
    def __init__(self, transfer_id: _Optional[int] = ..., kind: _Optional[_Union[TransferKind, str]] = ..., keys: _Optional[bytes] = ..., block_ids: _Optional[_Iterable[int]] = ..., host_slots: _Optional[_Iterable[int]] = ..., depths: _Optional[_Iterable[int]] = ..., tenant: _Optional[str] = ..., timeout_ns: _Optional[int] = ..., trace: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class TransferResult(_message.Message):
    __slots__ = ("transfer_id", "num_done", "failure", "num_bytes", "wait_ns", "copy_ns")
    TRANSFER_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_DONE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAIT_NS_FIELD_NUMBER: _ClassVar[int]
    COPY_NS_FIELD_NUMBER: _ClassVar[int]
    transfer_id: int
    num_done: int
    failure: TransferFailure
    num_bytes: int
    wait_ns: int
    copy_ns: int
    def __init__(self, transfer_id: _Optional[int] = ..., num_done: _Optional[int] = ..., failure: _Optional[_Union[TransferFailure, str]] = ..., num_bytes: _Optional[int] = ..., wait_ns: _Optional[int] = ..., copy_ns: _Optional[int] = ...) -> None: ...

class TierEvents(_message.Message):
    __slots__ = ("stored", "evicted", "corrupt", "begins_listing", "ends_listing")
    STORED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_FIELD_NUMBER: _ClassVar[int]
    BEGINS_LISTING_FIELD_NUMBER: _ClassVar[int]
    ENDS_LISTING_FIELD_NUMBER: _ClassVar[int]
    stored: bytes
    evicted: bytes
    corrupt: bytes
    begins_listing: bool
    ends_listing: bool
    def __init__(self, stored: _Optional[bytes] = ..., evicted: _Optional[bytes] = ..., corrupt: _Optional[bytes] = ..., begins_listing: _Optional[bool] = ..., ends_listing: _Optional[bool] = ...) -> None: ...

class PinnedKeys(_message.Message):
    __slots__ = ("name", "keys", "is_removed")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    IS_REMOVED_FIELD_NUMBER: _ClassVar[int]
    name: str
    keys: bytes
    is_removed: bool
    def __init__(self, name: _Optional[str] = ..., keys: _Optional[bytes] = ..., is_removed: _Optional[bool] = ...) -> None: ...

class PinKept(_message.Message):
    __slots__ = ("name", "why_not")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    name: str
    why_not: str
    def __init__(self, name: _Optional[str] = ..., why_not: _Optional[str] = ...) -> None: ...

class TierFault(_message.Message):
    __slots__ = ("tier", "message")
    TIER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    tier: str
    message: str
    def __init__(self, tier: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class StepPlan(_message.Message):
    __slots__ = ("step_id", "released_slots", "new_sequences", "work")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    RELEASED_SLOTS_FIELD_NUMBER: _ClassVar[int]
    NEW_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    released_slots: _containers.RepeatedScalarFieldContainer[int]
    new_sequences: _containers.RepeatedCompositeFieldContainer[NewSequence]
    work: WorkColumns
    def __init__(self, step_id: _Optional[int] = ..., released_slots: _Optional[_Iterable[int]] = ..., new_sequences: _Optional[_Iterable[_Union[NewSequence, _Mapping]]] = ..., work: _Optional[_Union[WorkColumns, _Mapping]] = ...) -> None: ...

class NewSequence(_message.Message):
    __slots__ = ("slot", "request_id", "token_ids", "num_prompt_tokens", "sampling", "block_ids", "trace")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    request_id: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    num_prompt_tokens: int
    sampling: _common_pb2.TokenSampling
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    trace: _common_pb2.TraceContext
    def __init__(self, slot: _Optional[int] = ..., request_id: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., num_prompt_tokens: _Optional[int] = ..., sampling: _Optional[_Union[_common_pb2.TokenSampling, _Mapping]] = ..., block_ids: _Optional[_Iterable[int]] = ..., trace: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class WorkColumns(_message.Message):
    __slots__ = ("slots", "starts", "num_tokens", "samples", "num_new_blocks", "new_block_ids")
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    NUM_NEW_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NEW_BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedScalarFieldContainer[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    num_tokens: _containers.RepeatedScalarFieldContainer[int]
    samples: _containers.RepeatedScalarFieldContainer[bool]
    num_new_blocks: _containers.RepeatedScalarFieldContainer[int]
    new_block_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, slots: _Optional[_Iterable[int]] = ..., starts: _Optional[_Iterable[int]] = ..., num_tokens: _Optional[_Iterable[int]] = ..., samples: _Optional[_Iterable[bool]] = ..., num_new_blocks: _Optional[_Iterable[int]] = ..., new_block_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class StepResult(_message.Message):
    __slots__ = ("step_id", "slots", "token_ids", "logprob_slots", "logprob_positions", "logprobs", "timings")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_SLOTS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    slots: _containers.RepeatedScalarFieldContainer[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprob_slots: _containers.RepeatedScalarFieldContainer[int]
    logprob_positions: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _common_pb2.LogprobColumns
    timings: StepTimings
    def __init__(self, step_id: _Optional[int] = ..., slots: _Optional[_Iterable[int]] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprob_slots: _Optional[_Iterable[int]] = ..., logprob_positions: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Union[_common_pb2.LogprobColumns, _Mapping]] = ..., timings: _Optional[_Union[StepTimings, _Mapping]] = ...) -> None: ...

class StepTimings(_message.Message):
    __slots__ = ("start_ns", "end_ns", "gap_ns", "received_ns")
    START_NS_FIELD_NUMBER: _ClassVar[int]
    END_NS_FIELD_NUMBER: _ClassVar[int]
    GAP_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    start_ns: int
    end_ns: int
    gap_ns: int
    received_ns: int
    def __init__(self, start_ns: _Optional[int] = ..., end_ns: _Optional[int] = ..., gap_ns: _Optional[int] = ..., received_ns: _Optional[int] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("kind", "message", "slots", "step_id")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    slots: _containers.RepeatedScalarFieldContainer[int]
    step_id: int
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., slots: _Optional[_Iterable[int]] = ..., step_id: _Optional[int] = ...) -> None: ...
