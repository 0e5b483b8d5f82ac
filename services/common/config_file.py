"""One TOML file and the flags become one frozen config dataclass, with a note of where each value came from."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from engine.errors import ConfigError
from services.common.settings import settings_of

SERVICE_TABLES = ("tokenizer", "scheduler", "worker")
SHARED_TABLES = {"tls": ("cert", "key", "ca"), "telemetry": ("otlp", "log_format", "metrics_host")}

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, slots=True)
class LoadedConfig(Generic[ConfigT]):
    """The effective config, and per field name `default`, `flag` or `file PATH`."""

    value: ConfigT
    origins: dict[str, str]


def load_config(
    config_class: type[ConfigT], table: str, file: Path | None, flags: Mapping[str, object]
) -> LoadedConfig[ConfigT]:
    """Flags win over the file, the file over the defaults. `flags` holds only those that were given.

    Every table of the file is checked for known names, the other services' keys are left to them. Raises ConfigError
    for an unreadable file, an unknown table or key (naming the nearest allowed ones), a value of the wrong type, and
    a required setting that nobody gave.
    """
    settings = settings_of(config_class)
    tables = _read(file) if file is not None else {}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(settings, "default")
    by_key = {(setting.table or table, setting.key): setting for setting in settings.values()}
    for name in (table, *SHARED_TABLES):
        for key, value in tables.get(name, {}).items():
            known = by_key.get((name, key))
            if known is None:
                raise _unknown(f"{file}: unknown key {key!r} in [{name}]", key, [k for t, k in by_key if t == name])
            values[known.name] = known.convert(value, f"{file}: [{name}] {key}")
            origins[known.name] = f"file {file}"
    for name, value in flags.items():
        values[name] = settings[name].convert(value, settings[name].flag)
        origins[name] = "flag"
    for known in settings.values():
        if known.is_required and known.name not in values:
            raise ConfigError(f"no {known.name}: give {known.flag}, or {known.key} in [{table}] of the config file")
    return LoadedConfig(config_class(**values), origins)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a TOML file: it is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    allowed = [*SERVICE_TABLES, *SHARED_TABLES]
    for name, value in content.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: {name!r} stands outside a table; put it under one of {_brackets(allowed)}")
        if name not in allowed:
            raise _unknown(f"{file}: unknown table [{name}]", name, allowed)
    for name, keys in SHARED_TABLES.items():
        for key in content.get(name, {}):
            if key not in keys:
                raise _unknown(f"{file}: unknown key {key!r} in [{name}]", key, list(keys))
    return content


def _unknown(what: str, name: str, allowed: list[str]) -> ConfigError:
    nearest = difflib.get_close_matches(name, allowed, n=3, cutoff=0.5)
    if nearest:
        return ConfigError(f"{what}; did you mean {' or '.join(nearest)}?")
    return ConfigError(f"{what}; allowed are {', '.join(sorted(allowed))}")


def _brackets(names: list[str]) -> str:
    return ", ".join(f"[{name}]" for name in names)
