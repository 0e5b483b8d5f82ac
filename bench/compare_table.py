"""The figures of a comparison: columns, medians and ranges, and how we stand to the fastest peer of each column.

Peers whose weights take a byte are no rivals of ours in bf16, but all are of ours in int8.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.records import Round

Results = dict[tuple[str, str], list[Round]]
"""By name of the peer and of the workload, a round after the other."""


@dataclass(frozen=True, slots=True)
class Column:
    workload: str
    value: Callable[[Round], float]
    form: str
    more_is_better: bool


COLUMNS = {
    "W1 output tok/s": Column("W1", lambda r: r.output_tokens_per_s, "{:.0f}", True),
    "W2 TPOT ms": Column("W2", lambda r: (r.tpot_s or 0.0) * 1e3, "{:.1f}", False),
    "W2 TTFT ms": Column("W2", lambda r: r.ttft_s * 1e3, "{:.0f}", False),
    "W3 2048 tok/s": Column("W3", lambda r: r.prefill_tokens_per_s, "{:.0f}", True),
    "W3 4096 tok/s": Column("W3 4096", lambda r: r.prefill_tokens_per_s, "{:.0f}", True),
    "W4 first TTFT ms": Column("W4", lambda r: r.first_ttft_s * 1e3, "{:.0f}", False),
    "W4 rest TTFT ms": Column("W4", lambda r: (r.rest_ttft_s or 0.0) * 1e3, "{:.0f}", False),
}


def values_of(results: Results, name: str, title: str) -> list[float]:
    """A column's value in each round; none where the peer does not run the workload."""
    column = COLUMNS[title]
    return [column.value(outcome) for outcome in results.get((name, column.workload), [])]


@dataclass(frozen=True, slots=True)
class Standing:
    """Ours beside the fastest peer's: how many times as fast we are."""

    ratio: float
    peer: str


def standing(results: Results, ours: str, others: Sequence[str], title: str) -> Standing | None:
    """By medians. None where either side has no figure."""
    mine = values_of(results, ours, title)
    medians = {name: statistics.median(values) for name in others if (values := values_of(results, name, title))}
    if not mine or not medians:
        return None
    if COLUMNS[title].more_is_better:
        best = max(medians, key=medians.__getitem__)
        return Standing(statistics.median(mine) / medians[best], best)
    best = min(medians, key=medians.__getitem__)
    return Standing(medians[best] / statistics.median(mine), best)


def is_ours(name: str) -> bool:
    return name.startswith("tiercel")


def has_byte_weights(name: str) -> bool:
    return name.endswith(("int8", "q8_0"))


def rivals(ours: str, names: Sequence[str]) -> list[str]:
    """Whom we are held against: with weights of a byte everyone, else whoever keeps those of the checkpoint too."""
    others = [name for name in names if not is_ours(name)]
    return others if has_byte_weights(ours) else [name for name in others if not has_byte_weights(name)]


def show(console: Console, heading: str, names: Sequence[str], titles: Sequence[str], results: Results) -> None:
    table = Table("", title=heading)
    for title in titles:
        table.add_column(title, justify="right")
    for name in names:
        table.add_row(name, *(_cell(values_of(results, name, title), COLUMNS[title].form) for title in titles))
    table.add_section()
    for name in names:
        if is_ours(name) and rivals(name, names):
            stands = [standing(results, name, rivals(name, names), title) for title in titles]
            table.add_row(
                f"{name}: times as fast", *(f"×{each.ratio:.2f} {each.peer}" if each else "" for each in stands)
            )
    Console(width=max(console.width, 40 + 22 * len(titles))).print(table)


def _cell(values: list[float], form: str) -> str:
    if not values:
        return ""
    spread = f" ({form.format(min(values))}-{form.format(max(values))})" if len(values) > 1 else ""
    return form.format(statistics.median(values)) + spread


def as_object(results: Results) -> dict[str, object]:
    """JSON: the values of every round by peer and column, and the standing of ours to all others."""
    names = list(dict.fromkeys(name for name, _ in results))
    return {
        "peers": {
            name: {title: values for title in COLUMNS if (values := values_of(results, name, title))} for name in names
        },
        "times_as_fast": {
            name: {
                title: {"ratio": stands.ratio, "peer": stands.peer}
                for title in COLUMNS
                if (stands := standing(results, name, rivals(name, names), title)) is not None
            }
            for name in names
            if is_ours(name)
        },
    }
