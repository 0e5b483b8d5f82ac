"""A finished answer, put together from the events of its stream."""

from dataclasses import dataclass, field

from tiercel.client.events import (
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
from tiercel.errors import ServerFailure


@dataclass(frozen=True, slots=True)
class Choice:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop: str | None
    """The stop string that ended it, if one did."""
    stop_token_id: int | None
    logprobs: tuple[TokenLogprob, ...]
    """One entry per token id, when asked for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `text`, `token_ids`, `finish_reason` and `logprobs` are those of the first choice."""

    request_id: str
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    report: RequestReport
    prompt_logprobs: tuple[TokenLogprob, ...] | None
    """None unless asked for; entry i describes prompt token i + 1."""

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        return self.choices[0].logprobs


@dataclass(slots=True)
class _Parts:
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class CompletionBuilder:
    """Takes the events of one stream in order; `build` gives the answer once Finished was among them."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._prompt_logprobs: tuple[TokenLogprob, ...] | None = None
        self._parts: dict[int, _Parts] = {}

    def add(self, event: Event) -> None:
        match event:
            case Delta():
                parts = self._parts.setdefault(event.index, _Parts())
                parts.texts.append(event.text)
                parts.token_ids.extend(event.token_ids)
                parts.logprobs.extend(event.logprobs)
            case Started():
                self._started = event
            case PromptLogprobs():
                self._prompt_logprobs = event.logprobs
            case Finished():
                self._finished = event

    def build(self) -> Completion:
        if self._started is None or self._finished is None or not self._finished.choices:
            missing = "Started" if self._started is None else "Finished"
            raise ServerFailure(
                f"the server ended the stream without a complete {missing} event",
                code="INTERNAL",
            )
        ends = sorted(self._finished.choices, key=lambda end: end.index)
        return Completion(
            request_id=self._started.request_id,
            model=self._started.model,
            choices=tuple(self._choice(end) for end in ends),
            usage=self._finished.usage,
            report=self._finished.report,
            prompt_logprobs=self._prompt_logprobs,
        )

    def _choice(self, end: ChoiceEnd) -> Choice:
        parts = self._parts.get(end.index, _Parts())
        return Choice(
            index=end.index,
            text="".join(parts.texts),
            token_ids=parts.token_ids,
            finish_reason=end.reason,
            stop=end.stop,
            stop_token_id=end.stop_token_id,
            logprobs=tuple(parts.logprobs),
        )
