"""The client in two forms, sync and asyncio, and the plain types that both speak."""

from tiercel.client.aio import AsyncClient, AsyncCompletionStream
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
from tiercel.client.status import ModelInfo, ServiceStatus, StackStatus, TierStatus, WorkerStatus
from tiercel.client.sync import Client, CompletionStream

__all__ = [
    "Alternative",
    "AsyncClient",
    "AsyncCompletionStream",
    "CachedTokens",
    "ChatMessage",
    "Choice",
    "ChoiceEnd",
    "Client",
    "Completion",
    "CompletionStream",
    "Delta",
    "Event",
    "FinishReason",
    "Finished",
    "GenerateOptions",
    "ModelInfo",
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
