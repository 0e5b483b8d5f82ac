"""Ids to text as they come, never half a character.

Decoding is not additive: a token may be a piece of a character, and sentencepiece-like decoders strip the
space of the first token they see. So a window of recent tokens is decoded each time, and the text is what
the window's text has gained. The window starts at the last point but one where the text was whole, hence it
stays a few tokens long.
"""

from collections.abc import Sequence

from engine.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_CONTEXT_TOKENS = 6
"""Prompt tokens decoded before the answer, at least."""
_MAX_CONTEXT_TOKENS = 96
_LONGEST_CHARACTER_TOKENS = 4
"""A character has at most four bytes in UTF-8, hence at most four tokens."""
_WINDOW_TOKENS = 64
"""A window without a whole point this long holds bytes that are no text; it is cut anywhere."""


class Detokenizer:
    """Turns one answer's ids into text. Not for use from two threads at once.

    All text given out, `finish` included, is what decoding prompt and answer together adds to the prompt's own
    text: exactly so with byte-level decoders, whatever the ids, and with others as long as the bytes are valid
    UTF-8. (A byte-fallback decoder turns a whole run of bytes into U+FFFD if its end is invalid; characters of
    the run that were whole are out by then.) If the prompt ends within a character, the answer that completes
    it gives the whole character.

    To resume, push the ids that were sent before and drop their text: what was given out after given ids
    does not depend on how they were split into calls.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window = self._context(prompt_ids)
        self._num_whole = len(self._window)
        """Tokens of the window up to the last point where its text was whole."""
        self._given = self._decode(self._window)
        """The part of the window's text that is out already (or is the prompt's)."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids add. Text that may still change, the tail of an unfinished character, is kept."""
        # One at a time, so that what is out after given ids does not depend on how they were split into calls.
        return "".join([self._push(token_id) for token_id in ids])

    def finish(self) -> str:
        """What was held back, as it is. Nothing may be pushed afterwards."""
        text = self._decode(self._window)
        return text[self._start_of_news(text) :]

    def _push(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        end = len(text.rstrip(_REPLACEMENT))
        start = self._start_of_news(text)
        if end == len(text):
            return self._push_whole(token_id, text, start)
        if not text.startswith(self._given):
            # An unfinished character hides those before it (byte fallback). They are out; wait for its end.
            end = start
        news = text[start:end]
        if end > start:
            self._given = text[:end]
        if len(self._window) - self._num_whole > _WINDOW_TOKENS:
            news += self._cut(text, max(start, end))
        return news

    def _push_whole(self, token_id: int, text: str, start: int) -> str:
        if start < len(text):
            del self._window[: self._num_whole]
            self._num_whole = len(self._window)
            self._given = self._decode(self._window)
        elif self._is_silent(token_id):
            # A skipped special token: more of them would only push the context out of the window.
            self._window.pop()
        elif len(self._window) - self._num_whole > _WINDOW_TOKENS:
            return self._cut(text, len(text))
        return text[start:]

    def _start_of_news(self, text: str) -> int:
        if text.startswith(self._given):
            return len(self._given)
        # The answer completed the prompt's last character; or bytes turned out to be invalid.
        return min(len(self._given.rstrip(_REPLACEMENT)), len(text))

    def _cut(self, text: str, start: int) -> str:
        """Halve the window at no particular point, and give out all but what one unfinished character may change."""
        held = min(len(text) - start, _LONGEST_CHARACTER_TOKENS - 1)
        del self._window[: len(self._window) - _WINDOW_TOKENS // 2]
        self._num_whole = 0
        rest = self._decode(self._window)
        self._given = rest[: max(0, len(rest) - held)]
        return text[start : len(text) - held]

    def _context(self, prompt_ids: Sequence[int]) -> list[int]:
        """The prompt's last tokens: enough to have a text, which does not start within a character."""
        count = _CONTEXT_TOKENS
        while count < min(len(prompt_ids), _MAX_CONTEXT_TOKENS) and not self._decode(prompt_ids[-count:]):
            count *= 2
        for wider in range(count, count + _LONGEST_CHARACTER_TOKENS):
            if not self._decode(prompt_ids[-wider:]).startswith(_REPLACEMENT):
                return list(prompt_ids[-wider:])
        return list(prompt_ids[-count:])

    def _is_silent(self, token_id: int) -> bool:
        # Twice, because a lone space may be nothing at the start of a text and something after it.
        return not self._decode((token_id, token_id))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, self._skip_special_tokens)
