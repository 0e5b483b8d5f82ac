"""SIZE, as flags and TOML write it: a number of bytes, or a number with a binary unit such as `512MiB`."""

import re
from typing import NewType

from engine.errors import ConfigError

ByteSize = NewType("ByteSize", int)
"""A number of bytes. The type of a config field marks it as a SIZE."""

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def parse_byte_size(text: str) -> ByteSize:
    """Read `4096`, `512MiB` or `1.5GiB`. Decimal units (MB, GB) are refused, since people mean both things by them."""
    match = _PATTERN.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ConfigError(
            f"{text!r} is not a size; write bytes (1048576) or a number with KiB, MiB, GiB or TiB (512MiB)"
        )
    return ByteSize(int(float(match[1]) * _UNITS[match[2].lower()]))


def format_byte_size(size: int) -> str:
    """`512MiB` rather than `536870912`, where the size is a whole number of a unit."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        scale = _UNITS[unit.lower()]
        if size >= scale and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)
