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
class ReportPhase:
    """One stretch of a request's time. What does not belong to the phase is zero."""

    name: str
    """One of `tiercel.phases.PhaseName`."""
    start_ns: int
    """Since the request was received."""
    duration_ns: int
    choice: int = 0
    first_token: int = 0
    """Prefill: position of the first one."""
    tokens: int = 0
    """Prefill: computed; decode: sampled; tokenize: of the prompt."""
    compute_ns: int = 0
    """Prefill: of the worker's step, which others shared."""
    blocks: int = 0
    """Fetch, load: that came."""
    wanted_blocks: int = 0
    bytes: int = 0
    copy_ns: int = 0
    """Fetch, load: spent moving them, on the worker."""
    is_abandoned: bool = False
    """Fetch, load: it took too long, and what was missing was computed."""

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns


@dataclass(frozen=True, slots=True)
class Preemption:
    choice: int
    at_ns: int
    """Since the request was received."""
    computed_tokens: int
    """Whose K and V it gave up."""


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
    lookup_ns: int = 0
    """Part of the queue time: checked, and its prefix looked for."""
    schedule_ns: int = 0
    """With the scheduler, from submit to its last word."""
    transit_ns: int = 0
    """Between tokenizer and scheduler, both ways."""
    detokenize_ns: int = 0
    """From the scheduler's last word to the last event."""
    queue_ahead: int = 0
    """Sequences that stood before it in the queue when it came."""
    model: str = ""
    trace_id: str = ""
    """Hexadecimal; empty: not traced."""
    error: str = ""
    """Class of the error that ended it; empty: it finished."""
    error_message: str = ""
    phases: tuple[ReportPhase, ...] = ()
    """The same time phase by phase. Those of one choice neither overlap nor leave a gap; what happened to it after
    its first token lies within `decode`."""
    preemption_events: tuple[Preemption, ...] = ()


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """What a front door remembers of a request."""

    report: RequestReport
    usage: Usage


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
