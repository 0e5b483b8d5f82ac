"""One choice of an answer on its way to the client: ids in, text and the ids that belong to it out."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.text.detokenizer import Detokenizer
from engine.text.stop_strings import StopStrings


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """Text may lag behind the ids: a character may be unfinished, or a stop string may have begun."""

    text: str
    token_ids: list[int]
    stop: str | None = None
    """The stop string that ended the answer. `token_ids` ends with the token that completed it."""


class Answer:
    """Detokenizer and stop strings of one choice, in step with its ids. Not for use from two threads at once."""

    def __init__(self, detokenizer: Detokenizer, stop_strings: StopStrings, include_stop: bool) -> None:
        self._detokenizer = detokenizer
        self._stop_strings = stop_strings
        self._include_stop = include_stop

    def push(self, ids: Sequence[int]) -> AnswerDelta:
        """Take generated ids. Those after a completed stop string are dropped; nothing may be pushed after it."""
        shown: list[str] = []
        for count, token_id in enumerate(ids, start=1):
            # One at a time: only so is it known which token completed a stop string.
            scan = self._stop_strings.feed(self._detokenizer.push([token_id]))
            shown.append(scan.text)
            if scan.stop is not None:
                return AnswerDelta("".join(shown), list(ids[:count]), scan.stop)
        return AnswerDelta("".join(shown), list(ids))

    def resume(self, ids: Sequence[int]) -> None:
        """Go to where an answer with these ids was before it was interrupted. Their text has been shown.

        Raises InvalidRequest where the ids complete a stop string: such an answer was not interrupted.
        """
        stop = self.push(ids).stop
        if stop is not None:
            raise InvalidRequest(
                f"resume_tokens complete the stop string {stop!r}, so nothing is left to generate; the answer is "
                "complete.",
                "resume_tokens",
            )

    def finish(self, stop_token_id: int | None = None) -> AnswerDelta:
        """The answer ended, by `stop_token_id` (which was not pushed) or otherwise: all that was held back.

        A stop token's id belongs to the answer; its text only where stops are included.
        """
        ids = [] if stop_token_id is None else [stop_token_id]
        text = self._detokenizer.push(ids) if self._include_stop else ""
        scan = self._stop_strings.feed(text + self._detokenizer.finish())
        if scan.stop is not None:
            return AnswerDelta(scan.text, ids, scan.stop)
        return AnswerDelta(scan.text + self._stop_strings.flush(), ids)
