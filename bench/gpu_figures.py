"""What is asked of a figure, what was measured, and the machine's ceiling for it."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

_RELATIONS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<": operator.lt}


@dataclass(frozen=True, slots=True)
class Asked:
    """A bound on a figure's share of its ceiling, or, without a ceiling, on its value."""

    relation: str
    """`>=` or `<`."""
    bound: float


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    value: float
    unit: str
    ceiling: float | None = None
    """In the same unit, measured in the same run."""
    share: float | None = None
    """How near the value is to the ceiling, whichever way is better; 1 is at it."""
    asked: Asked | None = None

    @property
    def is_met(self) -> bool | None:
        """None where nothing is asked."""
        if self.asked is None:
            return None
        measured = self.value if self.share is None else self.share
        return _RELATIONS[self.asked.relation](measured, self.asked.bound)


def rate(name: str, value: float, unit: str, ceiling: float, least_share: float | None = None) -> Figure:
    """More is better."""
    asked = None if least_share is None else Asked(">=", least_share)
    return Figure(name, value, unit, ceiling, value / ceiling, asked)


def duration(name: str, value: float, unit: str, floor: float, least_share: float | None = None) -> Figure:
    """Less is better; `floor` is what the ceilings leave."""
    asked = None if least_share is None else Asked(">=", least_share)
    return Figure(name, value, unit, floor, floor / value, asked)


def table_of(figures: list[Figure], title: str) -> Table:
    table = Table(title=title)
    for name in ("figure", "measured", "ceiling", "share", "asked", ""):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.value:,.4g} {figure.unit}",
            "" if figure.ceiling is None else f"{figure.ceiling:,.4g}",
            "" if figure.share is None else f"{figure.share:.0%}",
            _asked_text(figure),
            {None: "", True: "yes", False: "NO"}[figure.is_met],
        )
    return table


def _asked_text(figure: Figure) -> str:
    if figure.asked is None:
        return ""
    bound = f"{figure.asked.bound:g} {figure.unit}" if figure.share is None else f"{figure.asked.bound:.0%}"
    return f"{figure.asked.relation} {bound}"
