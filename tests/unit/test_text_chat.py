"""Chat messages through a template, and what is said when that cannot work."""

from collections.abc import Mapping, Sequence

import pytest

from engine.errors import InvalidRequest
from engine.text.chat import Message, render_chat
from tests.unit.text_tokenizers import TrainedTokenizer, byte_level

TOKENIZER = byte_level()


def test_the_template_gets_every_message_in_order() -> None:
    prompt = render_chat(TOKENIZER, [Message("system", "Be brief."), Message("user", "Hello 你好")])
    assert prompt == "<|system|>Be brief.<|end|><|user|>Hello 你好<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("messages", "field", "fragment"),
    [
        ([], "chat.messages", "no messages"),
        ([Message("user", "a"), Message("robot", "b")], "chat.messages[1].role", "'robot'"),
        ([Message("", "a")], "chat.messages[0].role", "allowed are system"),
    ],
)
def test_messages_that_no_template_takes_are_refused(messages: list[Message], field: str, fragment: str) -> None:
    with pytest.raises(InvalidRequest, match=fragment.replace("[", r"\[")) as caught:
        render_chat(TOKENIZER, messages)
    assert caught.value.field == field


class NoTemplate(TrainedTokenizer):
    has_chat_template = False


class Refusing(TrainedTokenizer):
    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        raise RuntimeError(f"roles must alternate, got {len(messages)}")


class Mute(TrainedTokenizer):
    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "" * len(messages)


@pytest.mark.parametrize(
    ("kind", "field", "fragment"),
    [
        (NoTemplate, "chat", "no chat template"),
        (Refusing, "chat.messages", "roles must alternate, got 1"),
        (Mute, "chat.messages", "empty prompt"),
    ],
)
def test_templates_that_fail_are_the_requests_error(kind: type[TrainedTokenizer], field: str, fragment: str) -> None:
    with pytest.raises(InvalidRequest, match=fragment) as caught:
        render_chat(kind(TOKENIZER.inner), [Message("user", "a")])
    assert caught.value.field == field
