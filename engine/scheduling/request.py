"""What is submitted to the scheduler, and what it says back."""

import enum
from dataclasses import dataclass, field

from engine.errors import InferError
from engine.logprobs import Logprobs
from engine.sampling import SamplingParams
from engine.scheduling.plan import TraceContext
from engine.scheduling.timeline import Timeline


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, validated. `request_id` is unique among the live requests of a scheduler."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    n: int = 1
    resume_token_ids: list[int] = field(default_factory=list)
    """Output tokens that the client already has; only with n = 1. They count against `max_tokens`."""
    priority: int = 0
    """Lower runs earlier."""
    tenant: str = ""
    cache_salt: str = ""
    deadline_ns: int | None = None
    """On the clock that `plan`, `apply` and `submit` are called with."""
    trace: TraceContext = field(default_factory=TraceContext)
    keep_prefix: bool = False
    """Bring the prompt's blocks to the tiers below as soon as they are known."""
    pin_name: str = ""
    """Add the prompt's blocks to what is pinned under this name. Empty: pin nothing."""


@dataclass(slots=True)
class CachedTokens:
    """Prompt tokens that were not computed, by tier."""

    device: int = 0
    host: int = 0
    """Loaded from host memory, where they were already."""
    disk: int = 0
    """Fetched from disk for this request."""

    @property
    def total(self) -> int:
        return self.device + self.host + self.disk


@dataclass(slots=True)
class RequestTimes:
    """What the scheduler knows of where a request's time went, in nanoseconds."""

    queue_ns: int = 0
    prefill_ns: int = 0
    decode_ns: int = 0
    preemptions: int = 0
    prefill_chunks: int = 0
    fetch_ns: int = 0
    """Part of the queue time in which blocks were awaited from disk."""
    load_ns: int = 0
    """Time in a slot in which blocks were awaited from host memory: before the first token a part of the queue time,
    after a preemption a part of the decode time."""
    first_token_ns: int | None = None
    """On the scheduler's clock, as all that follows."""
    end_ns: int = 0
    timeline: Timeline = field(default_factory=Timeline)
    """The same time, phase by phase; all of its stretches have ended."""
    num_tokens: int = 0
    """Sampled for the request, over all choices."""
    cached: CachedTokens = field(default_factory=CachedTokens)


@dataclass(frozen=True, slots=True)
class Started:
    """The request was planned for the first time. Exactly one per request that is not refused in the queue."""

    request_id: str
    cached: CachedTokens


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token of choice `index`. A stop token that ended the choice is included."""

    request_id: str
    index: int
    token_id: int
    logprobs: Logprobs | None
    """One entry, when asked for."""


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Log probabilities of the whole prompt: entry i describes prompt token i + 1. Comes before the first token."""

    request_id: str
    logprobs: Logprobs


@dataclass(frozen=True, slots=True)
class Finished:
    """Choice `index` ended. `times` is set on the last one of the request."""

    request_id: str
    index: int
    reason: FinishReason
    stop_token_id: int | None
    times: RequestTimes | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request ends with an error; nothing of it is left."""

    request_id: str
    error: InferError
    times: RequestTimes


Event = Started | TokenEvent | PromptScored | Finished | Refused
