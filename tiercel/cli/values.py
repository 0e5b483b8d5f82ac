"""Values on the command line that click has no type for."""

import math
import re

import click

_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class ByteSize(click.ParamType[int]):
    """SIZE: a number of bytes, or a number with KiB, MiB, GiB or TiB."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or match[2].lower() not in _UNITS:
            self.fail(
                f"{value!r} is not a size; give bytes (1048576) or a number with KiB, MiB, GiB or TiB (512MiB)",
                param,
                ctx,
            )
        return int(float(match[1]) * _UNITS[match[2].lower()])


class Target(click.ParamType[str]):
    """Where a front door listens."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, _, port = str(value).rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
            self.fail(f"{value!r} is not an address; give host and port, such as 127.0.0.1:50051", param, ctx)
        return str(value)


class TokenIds(click.ParamType[list[int]]):
    """Token ids with commas between them."""

    name = "1,2,3"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        ids = []
        for part in str(value).split(","):
            text = part.strip()
            if not text.isdecimal() or int(text) >= 1 << 32:
                self.fail(
                    f"{part!r} is not a token id; give whole numbers from 0 with commas between, such as 1,2,3",
                    param,
                    ctx,
                )
            ids.append(int(text))
        return ids


class BoundedFloat(click.ParamType[float]):
    """A finite number within bounds. `click.FloatRange` lets NaN pass."""

    name = "NUMBER"

    def __init__(self, minimum: float, maximum: float = math.inf, above_minimum: bool = False) -> None:
        self._minimum = minimum
        self._maximum = maximum
        self._above_minimum = above_minimum

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a number", param, ctx)
        too_low = number <= self._minimum if self._above_minimum else number < self._minimum
        if not math.isfinite(number) or too_low or number > self._maximum:
            self.fail(f"{value} is not allowed; give a number {self._range()}", param, ctx)
        return number

    def _range(self) -> str:
        low = f"above {self._minimum:g}" if self._above_minimum else f"of at least {self._minimum:g}"
        return low if self._maximum == math.inf else f"{low} and at most {self._maximum:g}"


def shown_bytes(num_bytes: int) -> str:
    """`1.5 GiB`, for people."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
