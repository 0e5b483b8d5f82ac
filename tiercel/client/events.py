"""What a streamed answer is made of, as plain frozen types. Nothing generated leaks past this file's users."""

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a choice ended. Errors are not finish reasons: they are raised."""

    STOP = "stop"
    """An end-of-sequence token, a stop token or a stop string."""
    LENGTH = "length"
    """`max_tokens`, or the end of the model's context."""
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Prompt tokens that were not computed, by the tier that held them."""

    device: int = 0
    host: int = 0
    disk: int = 0

    @property
    def total(self) -> int:
        return self.device + self.host + self.disk


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    """Over all choices."""
    cached_tokens: CachedTokens


@dataclass(frozen=True, slots=True)
class RequestReport:
    """Where the time of one request went. Zero: that phase did not happen."""

    request_id: str
    queue_ns: int
    """Submit to first planned step."""
    prefill_ns: int
    """First planned step to first token."""
    decode_ns: int
    """First token to last token."""
    ttft_ns: int
    """Request received to first delta sent, at the tokenizer service."""
    e2e_ns: int
    """Request received to finished, at the tokenizer service."""
    tokenize_ns: int
    preemptions: int
    prefill_chunks: int
    worker: str
    """Address of the worker that ran it."""
    received_unix_ns: int
    fetch_ns: int
    """Waited for blocks from disk."""
    load_ns: int
    """Waited for blocks from host memory."""


@dataclass(frozen=True, slots=True)
class Alternative:
    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token position: the token's natural log probability and the most likely tokens there."""

    token_id: int
    logprob: float
    rank: int
    """1 is the most likely token."""
    top: tuple[Alternative, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """First event of every stream: the request was planned for the first time."""

    request_id: str
    model: str
    prompt_tokens: int
    cached_tokens: CachedTokens


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Entry i describes prompt token i + 1; the first token has no log probability."""

    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Text and token ids of one choice since its last Delta.

    Ids may come before their text, where a character is not complete or a stop string may have begun.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One entry per id, when asked for."""


@dataclass(frozen=True, slots=True)
class ChoiceEnd:
    index: int
    reason: FinishReason
    completion_tokens: int
    stop: str | None = None
    """The stop string that ended it."""
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Last event of every stream that did not fail."""

    choices: tuple[ChoiceEnd, ...]
    usage: Usage
    report: RequestReport


Event = Started | PromptLogprobs | Delta | Finished
