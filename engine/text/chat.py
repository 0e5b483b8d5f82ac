"""Chat messages to prompt ids, through the tokenizer's own template."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.text.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


def render_chat(tokenizer: Tokenizer, messages: Sequence[Message]) -> str:
    """The conversation as prompt text. Encode it without special tokens: the template has written them.

    Raises InvalidRequest where the model has no template, a role is unknown, or the template refuses.
    """
    if not messages:
        raise InvalidRequest(
            "The chat has no messages; send at least one, for instance from the user.", "chat.messages"
        )
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            raise InvalidRequest(
                f"Message {i} has the role {message.role!r}; allowed are {', '.join(ROLES)}.",
                f"chat.messages[{i}].role",
            )
    if not tokenizer.has_chat_template:
        raise InvalidRequest(
            "The model has no chat template, so it cannot take chat messages; send the prompt as text or token ids.",
            "chat",
        )
    try:
        prompt = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages])
    except Exception as error:  # templates are programs of the checkpoint and raise what they like
        raise InvalidRequest(
            f"The model's chat template refused the messages: {error}. Change their order or roles to what it expects.",
            "chat.messages",
        ) from error
    if not prompt:
        raise InvalidRequest(
            "The model's chat template made an empty prompt of the messages; send one with content.", "chat.messages"
        )
    return prompt
