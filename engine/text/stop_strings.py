"""Finding stop strings in text that arrives in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopScan:
    """What a piece of text allows to be shown, and the stop string that it completed, if any."""

    text: str
    stop: str | None = None


class StopStrings:
    """Scans one answer for any of `stops` and shows no text that may turn out to be the start of one.

    The stop that is complete first wins, of several complete at once the longest: so the result does not depend
    on how the text was cut into pieces. The text ends before the stop string, or after it with `include_stop`.
    """

    def __init__(self, stops: Sequence[str], include_stop: bool) -> None:
        assert all(stops), "an empty stop string would match everywhere"
        self._stops = tuple(stops)
        self._include_stop = include_stop
        self._held = ""
        self._done = False

    def feed(self, text: str) -> StopScan:
        """Take a piece of text. After a stop was found nothing may be fed."""
        assert not self._done, "the answer has ended"
        if not text or not self._stops:
            return StopScan(text)
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            end, start, stop = min(found)
            self._done = True
            self._held = ""
            return StopScan(text[: end if self._include_stop else start], stop)
        shown = len(text) - self._possible_start(text)
        self._held = text[shown:]
        return StopScan(text[:shown])

    def flush(self) -> str:
        """The answer ended without a stop string: what was held back."""
        self._done = True
        held, self._held = self._held, ""
        return held

    def _possible_start(self, text: str) -> int:
        """Length of the longest end of `text` that is the start of a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
