"""What the text side needs of a tokenizer. The tokenizer service supplies it; nothing here loads one."""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back. Calls are pure, and may come from any thread."""

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Ids of a text, with what the model wants before and after it (BOS) where asked."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Text of ids, with U+FFFD for bytes that are no UTF-8, and nothing tidied up."""
        ...

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation as prompt text, ready for the answer to follow. Raises what the template raises."""
        ...
