"""What one Generate call has yet to send. Bounded by the length of its answer: deltas that wait are merged."""

import asyncio
from dataclasses import dataclass, field

from engine.errors import InferError
from engine.logprobs import Logprobs
from services.common.logprobs_wire import logprobs_to_wire
from tiercel.v1 import inference_pb2


@dataclass(slots=True)
class _WaitingDelta:
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: Logprobs | None = None


class Mailbox:
    """Filled by the scheduler's stream, emptied by the call. Both on the loop's thread."""

    def __init__(self, stream_interval: int = 1) -> None:
        """A choice's delta wakes who waits with so many tokens, but for the first one."""
        self._stream_interval = stream_interval
        self._begun: set[int] = set()
        self._heads: list[inference_pb2.GenerateEvent] = []
        self._deltas: dict[int, _WaitingDelta] = {}
        self._error: InferError | None = None
        self._has_ended = False
        self._news = asyncio.Event()

    def put_head(self, event: inference_pb2.GenerateEvent) -> None:
        """Started or PromptLogprobs: they come once, before the first delta."""
        self._heads.append(event)
        self._news.set()

    def put_delta(self, index: int, text: str, token_ids: list[int], logprobs: Logprobs | None) -> None:
        delta = self._deltas.get(index)
        if delta is None:
            delta = self._deltas[index] = _WaitingDelta()
        if text:
            delta.texts.append(text)
        delta.token_ids.extend(token_ids)
        if logprobs is not None:
            if delta.logprobs is None:
                delta.logprobs = Logprobs()
            delta.logprobs.extend(logprobs)
        if len(delta.token_ids) >= self._stream_interval or index not in self._begun:
            self._begun.add(index)
            self._news.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._has_ended = True
        self._news.set()

    def fail(self, error: InferError) -> None:
        """The call ends with this error once it has sent what is here. The first error stays."""
        if self._error is None:
            self._error = error
        self._news.set()

    @property
    def num_waiting_deltas(self) -> int:
        return len(self._deltas)

    async def take(self) -> list[inference_pb2.GenerateEvent] | None:
        """Wait for something to send; None when the answer is complete. Raises the error the call ends with."""
        await self._news.wait()
        events = self._heads + [_delta_event(index, delta) for index, delta in self._deltas.items()]
        if events:
            self._heads, self._deltas = [], {}
            if self._error is None and not self._has_ended:
                self._news.clear()
            return events
        if self._error is not None:
            raise self._error
        return None


def _delta_event(index: int, delta: _WaitingDelta) -> inference_pb2.GenerateEvent:
    message = inference_pb2.Delta(index=index, text="".join(delta.texts), token_ids=delta.token_ids)
    if delta.logprobs is not None:
        message.logprobs.CopyFrom(logprobs_to_wire(delta.logprobs))
    return inference_pb2.GenerateEvent(delta=message)
