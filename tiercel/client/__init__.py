"""The client in two forms, sync and asyncio, and the plain types that both speak."""

from tiercel.client.aio import AsyncClient, AsyncCompletionStream
from tiercel.client.cache import (
    BadRecord,
    CacheClearing,
    CacheReport,
    CacheVerification,
    CareNote,
    DiskClearing,
    DiskNamespace,
    DiskReport,
    DiskVerification,
    PinnedPrefix,
)
from tiercel.client.completion import Choice, Completion
from tiercel.client.events import (
    Alternative,
    CachedTokens,
    ChoiceEnd,
    Delta,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    RequestReport,
    Started,
    TokenLogprob,
    Usage,
)
from tiercel.client.request import ChatMessage, GenerateOptions, Prompt
from tiercel.client.retry import RetryPolicy
from tiercel.client.status import ModelInfo, MoveStatus, ServiceStatus, StackStatus, TierStatus, WorkerStatus
from tiercel.client.sync import Client, CompletionStream

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncCompletionStream",
    "BadRecord",
    "CacheClearing",
    "CacheReport",
    "CacheVerification",
    "CachedTokens",
    "CareNote",
    "ChatMessage",
    "Choice",
    "ChoiceEnd",
    "Client",
    "Completion",
    "CompletionStream",
    "Delta",
    "DiskClearing",
    "DiskNamespace",
    "DiskReport",
    "DiskVerification",
    "Event",
    "FinishReason",
    "Finished",
    "GenerateOptions",
    "ModelInfo",
    "MoveStatus",
    "PinnedPrefix",
    "Prompt",
    "PromptLogprobs",
    "RequestReport",
    "RetryPolicy",
    "ServiceStatus",
    "StackStatus",
    "Started",
    "TierStatus",
    "TokenLogprob",
    "Usage",
    "WorkerStatus",
]
