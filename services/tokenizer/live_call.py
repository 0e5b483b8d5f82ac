"""One Generate call between submission and its end: token ids in, text events for its client out."""

import time
from dataclasses import dataclass

from engine.errors import InferError
from engine.logprobs import Logprobs
from engine.text.answer import Answer
from services.tokenizer.mailbox import Mailbox
from services.tokenizer.scheduler_stream import SchedulerStream
from tiercel.v1 import common_pb2, inference_pb2, scheduling_pb2


@dataclass(slots=True)
class _Choice:
    answer: Answer
    num_tokens: int
    """Of the answer as reported, resumed ones included."""
    stop: str = ""
    has_text_ended: bool = False
    """A stop string or stop token was found; tokens that are still under way are dropped."""
    end: inference_pb2.ChoiceEnd | None = None


class LiveCall:
    """Implements `SubmittedCall`. All on the loop's thread."""

    def __init__(
        self, stream: SchedulerStream, started: inference_pb2.Started, answers: list[Answer], num_resumed: int
    ) -> None:
        """`started` is sent when the scheduler has started the request; it lacks the cached tokens only."""
        self.mailbox = Mailbox()
        self.report = common_pb2.RequestReport()
        self.handle = 0
        self._stream = stream
        self._started = started
        self._choices = [_Choice(answer, num_resumed) for answer in answers]
        self._num_open = len(answers)

    def submit(self, message: scheduling_pb2.Submit) -> None:
        """Raises WorkerLost when the scheduler is not connected."""
        self.handle = self._stream.submit(self, message)

    def leave(self) -> None:
        """The client has gone, or has everything. Cancels what still runs."""
        self._stream.leave(self.handle)

    def on_started(self, cached: common_pb2.CachedTokens) -> None:
        self._started.cached_tokens.CopyFrom(cached)
        self.mailbox.put_head(inference_pb2.GenerateEvent(started=self._started))

    def on_prompt_scored(self, columns: common_pb2.LogprobColumns) -> None:
        scores = inference_pb2.PromptLogprobs(logprobs=columns)
        self.mailbox.put_head(inference_pb2.GenerateEvent(prompt_logprobs=scores))

    def on_token(self, index: int, token_id: int, is_stop_token: bool, logprobs: Logprobs | None) -> None:
        choice = self._choices[index]
        if choice.has_text_ended:
            return
        choice.num_tokens += 1
        delta = choice.answer.finish(token_id) if is_stop_token else choice.answer.push([token_id])
        choice.has_text_ended = is_stop_token
        self.mailbox.put_delta(index, delta.text, delta.token_ids, logprobs)
        if delta.stop is not None:
            choice.has_text_ended = True
            choice.stop = delta.stop
            if not is_stop_token:
                self._stream.stop(self.handle, index)

    def on_finished(self, finish: scheduling_pb2.Finish) -> None:
        choice = self._choices[finish.index]
        if choice.end is not None:
            return
        if not choice.has_text_ended:
            delta = choice.answer.finish()
            choice.has_text_ended = True
            if delta.text:
                self.mailbox.put_delta(finish.index, delta.text, [], None)
            choice.stop = delta.stop or ""
        choice.end = inference_pb2.ChoiceEnd(
            index=finish.index, reason=finish.reason, stop=choice.stop, completion_tokens=choice.num_tokens
        )
        if choice.stop:
            # The scheduler may have seen another end before it heard of the stop string.
            choice.end.reason = common_pb2.FINISH_REASON_STOP
        elif finish.HasField("stop_token_id"):
            choice.end.stop_token_id = finish.stop_token_id
        if finish.HasField("report"):
            self.report.CopyFrom(finish.report)
        self._num_open -= 1
        if not self._num_open:
            self._stream.forget(self.handle)
            self.mailbox.end()

    def on_refused(self, error: InferError) -> None:
        self.mailbox.fail(error)

    def finished(self) -> inference_pb2.Finished:
        """The last event, once the mailbox has ended. The caller completes `report`."""
        ends = [choice.end for choice in self._choices if choice.end is not None]
        usage = common_pb2.Usage(
            prompt_tokens=self._started.prompt_tokens,
            completion_tokens=sum(end.completion_tokens for end in ends),
            cached_tokens=self._started.cached_tokens,
        )
        return inference_pb2.Finished(choices=ends, usage=usage, report=self.report)


class CallClock:
    """When things happened to one call, at the tokenizer."""

    def __init__(self) -> None:
        self.received_unix_ns = time.time_ns()
        self._received_ns = time.monotonic_ns()
        self.tokenize_ns = 0
        self.ttft_ns = 0

    def since_received_ns(self) -> int:
        return time.monotonic_ns() - self._received_ns

    def on_tokenized(self) -> None:
        self.tokenize_ns = self.since_received_ns()

    def on_first_delta(self) -> None:
        if not self.ttft_ns:
            self.ttft_ns = self.since_received_ns()

    def fill(self, report: common_pb2.RequestReport, request_id: str) -> None:
        report.request_id = request_id
        report.received_unix_ns = self.received_unix_ns
        report.tokenize_ns = self.tokenize_ns
        report.ttft_ns = self.ttft_ns
        report.e2e_ns = self.since_received_ns()
