"""Where `--model` leads, and what is said when it leads nowhere."""

from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from services.common.model_path import TOKENIZER_FILES, resolve_model
from services.tokenizer.text_model import load_text_model, read_model_text


def test_a_directory_is_taken_by_its_base_name(model_directory: Path) -> None:
    path = resolve_model(str(model_directory), None, TOKENIZER_FILES)
    assert path.directory == model_directory
    assert path.name == model_directory.name
    assert resolve_model(str(model_directory), "served", TOKENIZER_FILES).name == "served"


def test_a_hub_id_goes_through_the_hub_and_keeps_its_name(
    model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(model_directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    path = resolve_model("acme/tiny", None, TOKENIZER_FILES)
    assert (path.directory, path.name) == (model_directory, "acme/tiny")
    assert asked == [("acme/tiny", list(TOKENIZER_FILES))]


def test_a_hub_that_does_not_answer_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub_id: str, **_: object) -> str:
        raise OSError(f"{hub_id} is not cached\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ConfigError, match=r"the Hugging Face hub did not give it: acme/tiny is not cached$"):
        resolve_model("acme/tiny", None, TOKENIZER_FILES)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a b", "one/two/three", ""])
def test_what_is_neither_directory_nor_id_is_a_config_error(model: str) -> None:
    with pytest.raises(ConfigError, match="there is no such directory"):
        resolve_model(model, None, TOKENIZER_FILES)


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ConfigError, match="is a file; give the directory"):
        resolve_model(str(file), None, TOKENIZER_FILES)


def test_a_directory_without_a_config_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it has no config\.json"):
        resolve_model(str(tmp_path), None, TOKENIZER_FILES)


def test_a_directory_without_a_tokenizer_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 8, "max_position_embeddings": 8, "model_type": "llama"}')
    with pytest.raises(ConfigError, match="cannot load the tokenizer"):
        load_text_model(resolve_model(str(tmp_path), None, TOKENIZER_FILES), 1)


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer_eos", "expected"),
    [
        ('"eos_token_id": 5', '{"eos_token_id": [1, 2]}', 7, (1, 2)),
        ('"eos_token_id": 5', None, 7, (5,)),
        ('"eos_token_id": [5, 6]', "{}", 7, (5, 6)),
        ('"eos_token_id": null', None, 7, (7,)),
        ('"eos_token_id": null', None, None, ()),
        ('"eos_token_id": 0', None, 7, (0,)),
    ],
)
def test_eos_ids_come_from_the_nearest_source(
    config: str, generation: str | None, tokenizer_eos: int | None, expected: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(f'{{"vocab_size": 8, "max_position_embeddings": 8, {config}}}')
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(generation)
    assert read_model_text(tmp_path, tokenizer_eos).eos_token_ids == expected


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"vocab_size": 8}', '{"vocab_size": 8, "max_position_embeddings": 8, "eos_token_id": "x"}']
)
def test_a_config_that_makes_no_sense_is_a_config_error(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ConfigError):
        read_model_text(tmp_path, None)
