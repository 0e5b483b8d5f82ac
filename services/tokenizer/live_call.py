"""One Generate call between submission and its end: token ids in, text events for its client out."""

from dataclasses import dataclass

from engine.errors import InferError
from engine.logprobs import Logprobs
from engine.text.answer import Answer
from services.tokenizer.call_clock import CallClock
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
        self,
        stream: SchedulerStream,
        started: inference_pb2.Started,
        answers: list[Answer],
        num_resumed: int,
        clock: CallClock,
        *,
        stream_interval: int = 1,
        keeps_texts: bool = False,
    ) -> None:
        """`started` is sent when the scheduler has started the request; it lacks the cached tokens only.

        Deltas wait for `stream_interval` tokens, but for a choice's first and last, and go along with what another
        choice has to send. With `keeps_texts` the answers are kept until the call has ended.
        """
        self.mailbox = Mailbox(stream_interval)
        self.report = common_pb2.RequestReport()
        self.handle = 0
        self._stream = stream
        self._started = started
        self._clock = clock
        self.texts: list[list[str]] | None = [[] for _ in answers] if keeps_texts else None
        self._choices = [_Choice(answer, num_resumed) for answer in answers]
        self._num_open = len(answers)

    def submit(self, message: scheduling_pb2.Submit) -> None:
        """Raises WorkerLost when the scheduler is not connected."""
        self._clock.on_submitted()
        if message.trace.traceparent:
            # So that the scheduler's span begins where the tokenizer's first part ends.
            message.trace.sent_unix_ns = self._clock.received_unix_ns + self._clock.submitted_ns
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
        if self.texts is not None:
            self.texts[index].append(delta.text)
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
                if self.texts is not None:
                    self.texts[finish.index].append(delta.text)
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
            self._clock.on_answered()
            self.mailbox.end()

    def on_refused(self, error: InferError, report: common_pb2.RequestReport | None) -> None:
        if report is not None:
            self.report.CopyFrom(report)
            self._clock.on_answered()
        self.mailbox.fail(error)

    def usage(self) -> common_pb2.Usage:
        """Up to now."""
        return common_pb2.Usage(
            prompt_tokens=self._started.prompt_tokens,
            completion_tokens=sum(choice.num_tokens for choice in self._choices),
            cached_tokens=self._started.cached_tokens,
        )

    def finished(self) -> inference_pb2.Finished:
        """The last event, once the mailbox has ended. `report` is complete."""
        ends = [choice.end for choice in self._choices if choice.end is not None]
        return inference_pb2.Finished(choices=ends, usage=self.usage(), report=self.report)
