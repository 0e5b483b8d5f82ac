"""Files of prefixes, as `infer-cli cache warm` and `pin` read them: one a line, plain text or JSON Lines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.client import ChatMessage, Prompt

_KINDS = ("text", "token_ids", "messages")
_ALLOWED = 'one of "text", "token_ids" and "messages", and "cache_salt" if you like'


@dataclass(frozen=True, slots=True)
class Prefix:
    line: int
    """Of the file, from 1."""
    prompt: Prompt
    cache_salt: str = ""


class _BadLine(Exception):
    """Says what is wrong with it, what is allowed, what to do."""


def read_prefixes(path: str) -> list[Prefix]:
    """The prefixes of a file, or of standard input for `-`. Empty lines do not count.

    It is JSON Lines if its first character is a brace. Raises CommandFailed, which names the first bad line.
    """
    name = "standard input" if path == "-" else path
    try:
        content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {name}: {error.strerror}", EXIT_USAGE) from None
    prefixes = parse_prefixes(content, name)
    if not prefixes:
        raise CommandFailed(f"{name} holds no prefix; write one a line", EXIT_USAGE)
    return prefixes


def parse_prefixes(content: bytes, name: str) -> list[Prefix]:
    is_json = content.lstrip().startswith(b"{")
    prefixes = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            prefixes.append(_prefix(number, line.removesuffix(b"\r"), is_json))
        except _BadLine as error:
            raise CommandFailed(f"{name}, line {number}: {error}; nothing was sent", EXIT_USAGE) from None
    return prefixes


def _prefix(number: int, line: bytes, is_json: bool) -> Prefix:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadLine(f"it is not UTF-8 text ({error.reason} at byte {error.start} of the line)") from None
    if not is_json:
        return Prefix(number, text)
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise _BadLine(f"it is not JSON, as the file's first line is ({error})") from None
    if not isinstance(entry, dict):
        raise _BadLine(f"it is not a JSON object; give one with {_ALLOWED}")
    return _entry(number, entry)


def _entry(number: int, entry: dict[str, Any]) -> Prefix:
    unknown = sorted(entry.keys() - {*_KINDS, "cache_salt"})
    if unknown:
        raise _BadLine(f"there is nothing called {unknown[0]!r}; give {_ALLOWED}")
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise _BadLine(f"it has {' and '.join(kinds) or 'no prefix'}; give {_ALLOWED}")
    salt = entry.get("cache_salt", "")
    if not isinstance(salt, str):
        raise _BadLine(f"cache_salt is {_shown(salt)}; give a string")
    value = entry[kinds[0]]
    match kinds[0]:
        case "text":
            return Prefix(number, _text(value), salt)
        case "token_ids":
            return Prefix(number, _token_ids(value), salt)
        case _:
            return Prefix(number, _messages(value), salt)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _BadLine(f"text is {_shown(value)}; give a string of at least one character")
    return value


def _token_ids(value: object) -> list[int]:
    if not isinstance(value, list) or not value:
        raise _BadLine(f"token_ids is {_shown(value)}; give a list of at least one id")
    for token_id in value:
        if type(token_id) is not int or not 0 <= token_id < 1 << 32:
            raise _BadLine(f"{_shown(token_id)} in token_ids is not a token id; give whole numbers from 0")
    return value


def _messages(value: object) -> list[ChatMessage]:
    if not isinstance(value, list) or not value:
        raise _BadLine(f"messages is {_shown(value)}; give a list of at least one message")
    messages = []
    for message in value:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise _BadLine(f"{_shown(message)} in messages is not a message; give role and content, nothing else")
        role, content = message["role"], message["content"]
        if not isinstance(role, str) or not isinstance(content, str):
            raise _BadLine(f"{_shown(message)} in messages is not a message; role and content are strings")
        messages.append(ChatMessage(role, content))
    return messages


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
