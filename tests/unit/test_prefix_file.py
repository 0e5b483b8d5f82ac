"""Files of prefixes: what is read from them, and how a bad line is named."""

import io
import sys
from pathlib import Path

import pytest

from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.cli.prefix_file import Prefix, parse_prefixes, read_prefixes
from tiercel.client import ChatMessage


def test_plain_text_is_one_prefix_a_line_as_it_stands() -> None:
    content = b'You are a cook.\n\n  two spaces \r\nnot {"json": 1}\n'
    assert parse_prefixes(content, "f") == [
        Prefix(1, "You are a cook."),
        Prefix(3, "  two spaces "),
        Prefix(4, 'not {"json": 1}'),
    ]


def test_json_lines_hold_text_ids_or_messages_and_a_salt() -> None:
    lines = [
        '{"text": "caf\\u00e9", "cache_salt": "tenant-1"}',
        "",
        '{"token_ids": [1, 2, 4294967295]}',
        '{"messages": [{"role": "system", "content": "Be brief."}]}',
    ]
    assert parse_prefixes("\n".join(lines).encode(), "f") == [
        Prefix(1, "café", "tenant-1"),
        Prefix(3, [1, 2, 4294967295]),
        Prefix(4, [ChatMessage("system", "Be brief.")]),
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', "it is not JSON"),
        ("plain", "it is not JSON, as the file's first line is"),
        ("[1, 2]", "not a JSON object"),
        ("{}", "it has no prefix"),
        ('{"text": "a", "token_ids": [1]}', "it has text and token_ids"),
        ('{"prompt": "a"}', "there is nothing called 'prompt'"),
        ('{"text": ""}', "at least one character"),
        ('{"text": 5}', "text is 5"),
        ('{"token_ids": []}', "at least one id"),
        ('{"token_ids": [1, -2]}', "-2 in token_ids"),
        ('{"token_ids": [1, true]}', "true in token_ids"),
        ('{"token_ids": [1.5]}', "1.5 in token_ids"),
        ('{"token_ids": [4294967296]}', "4294967296 in token_ids"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"role": "user"}]}', "give role and content"),
        ('{"messages": [{"role": "user", "content": 1}]}', "role and content are strings"),
        ('{"text": "a", "cache_salt": 1}', "cache_salt is 1"),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: str, expected: str) -> None:
    content = '{"text": "good"}\n\n' + line + '\n{"text": "good"}\n'
    with pytest.raises(CommandFailed) as failed:
        parse_prefixes(content.encode(), "prefixes.jsonl")
    assert failed.value.exit_code == EXIT_USAGE
    assert failed.value.message.startswith("prefixes.jsonl, line 3: ")
    assert expected in failed.value.message
    assert failed.value.message.endswith("; nothing was sent")


def test_bytes_that_are_no_text_are_named_by_line_and_place() -> None:
    with pytest.raises(CommandFailed, match=r"line 2: it is not UTF-8 text \(invalid start byte at byte 3"):
        parse_prefixes(b"good\nbad\xff\n", "f")


def test_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert [prefix.prompt for prefix in read_prefixes("-")] == ["one", "two"]


def test_a_file_without_prefixes_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(CommandFailed, match="holds no prefix"):
        read_prefixes(str(tmp_path / "empty"))
    with pytest.raises(CommandFailed, match=r"cannot read .*nowhere: No such file"):
        read_prefixes(str(tmp_path / "nowhere"))
