"""What a setting is: one field of a service's frozen config dataclass, with its help, bounds and place in the file.

`config_file.py` reads these from TOML and `command.py` turns them into flags, so that a setting is written once.
"""

import dataclasses
import enum
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from services.common.byte_size import ByteSize, parse_byte_size

_METADATA_KEY = "tiercel.setting"


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config dataclass. `kind` is the field's type without `None`; `tuple` means a list of strings."""

    name: str
    help: str
    kind: Any
    default: Any
    table: str | None
    """TOML table, where it is not the service's own."""
    key: str
    """Key within the table."""
    minimum: float | None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    def convert(self, value: object, origin: str) -> Any:
        """`value` (from TOML, or the text of a flag) as this setting's type, or a ConfigError that names `origin`."""
        converted = self._convert(value)
        if converted is None:
            raise ConfigError(f"{origin} must be {self.describe_kind()}, not {value!r}")
        if self.minimum is not None and converted < self.minimum:
            raise ConfigError(f"{origin} must be at least {self.minimum:g}, not {value!r}")
        return converted

    def _convert(self, value: object) -> Any:
        kind = self.kind
        if kind is ByteSize:
            if isinstance(value, str):
                return parse_byte_size(value)
            return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
        if kind is tuple:
            if isinstance(value, str):
                return tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                return tuple(value)
            return None
        if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
            return kind(value) if isinstance(value, str) and value in list(kind) else None
        if kind is bool:
            return value if isinstance(value, bool) else None
        if kind in (int, float):
            return self._convert_number(value)
        if kind is Path:
            return Path(value).expanduser() if isinstance(value, str | Path) and str(value) else None
        return value if isinstance(value, str) else None

    def _convert_number(self, value: object) -> int | float | None:
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            try:
                return int(value) if self.kind is int else float(value)
            except ValueError:
                return None
        if self.kind is float and isinstance(value, int | float):
            return float(value)
        return value if isinstance(value, int) else None

    def describe_kind(self) -> str:
        kind = self.kind
        if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
            return "one of " + ", ".join(kind)
        names = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a string",
            Path: "a path",
            tuple: "a list of strings",
            ByteSize: "a size such as 512MiB or 4GiB",
        }
        return names[kind]


def setting(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    minimum: float | None = None,
    table: str | None = None,
    key: str | None = None,
) -> Any:
    """A dataclass field with what `Setting` needs to know of it. Without a default the setting is required."""
    metadata = {_METADATA_KEY: {"help": help, "minimum": minimum, "table": table, "key": key}}
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(config_class: type) -> dict[str, Setting]:
    """The settings of a config dataclass by field name, in order."""
    hints = typing.get_type_hints(config_class)
    settings = {}
    for field in dataclasses.fields(config_class):
        extra = field.metadata[_METADATA_KEY]
        settings[field.name] = Setting(
            name=field.name,
            help=extra["help"],
            kind=_bare_kind(hints[field.name]),
            default=field.default,
            table=extra["table"],
            key=extra["key"] or field.name,
            minimum=extra["minimum"],
        )
    return settings


def _bare_kind(hint: Any) -> Any:
    """`int` for `int | None`, `tuple` for `tuple[str, ...]`."""
    # `NewType | None` is a typing.Union, `int | None` a types.UnionType.
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return tuple if typing.get_origin(hint) is tuple else hint
