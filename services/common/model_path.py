"""From what `--model` says to a directory with a checkpoint, and to the name that clients know the model by."""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError

DEMO = "demo"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
CHECKPOINT_FILES = (*TOKENIZER_FILES, "*.safetensors")


@dataclass(frozen=True, slots=True)
class ModelPath:
    directory: Path
    name: str
    """`demo`, the directory's base name, or the hub id; `--served-model-name` overrides it."""


def resolve_model(model: str, served_name: str | None, files: Sequence[str]) -> ModelPath:
    """Find the checkpoint. `files` are the patterns fetched for a hub id. May block for a download.

    Raises ConfigError when nothing is found, saying where it looked.
    """
    directory, name = _locate(model, files)
    if not (directory / "config.json").is_file():
        raise ConfigError(f"{directory} is not a checkpoint: it has no config.json")
    return ModelPath(directory, served_name or name)


def _locate(model: str, files: Sequence[str]) -> tuple[Path, str]:
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path, path.resolve().name
    if model == DEMO:
        return _demo_checkpoint(), DEMO
    if path.is_file():
        raise ConfigError(f"--model {model} is a file; give the directory that holds config.json and the weights")
    if model.startswith((".", "/", "~")) or _HUB_ID.fullmatch(model) is None:
        raise ConfigError(
            f"--model {model}: there is no such directory; give a checkpoint directory, a Hugging Face id "
            f"(organisation/name) or {DEMO}"
        )
    return _download(model, files), model


def _demo_checkpoint() -> Path:
    found = importlib.util.find_spec("ops.demo_model")
    if found is not None and found.origin is not None:
        checkpoint = Path(found.origin).parent / "checkpoint"
        if checkpoint.is_dir():
            return checkpoint
    raise ConfigError(f"--model {DEMO}: this installation does not hold the demo checkpoint")


def _download(hub_id: str, files: Sequence[str]) -> Path:
    # Imported here: a scheduler, which has no model, runs without this package.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"--model {hub_id}: no such directory here, and the Hugging Face hub did not give it: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
