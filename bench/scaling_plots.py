"""The curves of `bench.scaling` as pictures, PNG and SVG."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

if TYPE_CHECKING:
    from bench.scaling import Point

COLORS = {"bf16": "#1f5fa8", "int8": "#c8591a", "fp16": "#3a7d44", "fp32": "#6d4a8d"}


def draw(points: "Sequence[Point]", folder: Path, shape: str, context_of_many: int) -> None:
    """`throughput-SHAPE` and `context-SHAPE`, each as PNG and SVG."""
    many = [point for point in points if point.context == context_of_many]
    alone = [point for point in points if point.num_running == 1]
    figure, axes = _figure("running sequences", "output tokens/s", [point.num_running for point in many])
    _curves(axes, many, lambda p: p.num_running, lambda p: p.tokens_per_s, lambda p: p.roofline_tokens_per_s)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_title(f"{shape} shape, context of {context_of_many} tokens")
    _save(figure, axes, folder / f"throughput-{shape}")
    figure, axes = _figure("context in tokens", "ms per output token", [point.context for point in alone])
    _curves(axes, alone, lambda p: p.context, lambda p: p.tpot_ms, lambda p: p.roofline_ms)
    axes.set_ylim(bottom=0)
    axes.set_title(f"{shape} shape, one sequence")
    _save(figure, axes, folder / f"context-{shape}")


def _figure(x: str, y: str, ticks: Sequence[int]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(ticks)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _curves(
    axes: Axes,
    points: "Sequence[Point]",
    x: "Callable[[Point], int]",
    values: "Callable[[Point], list[float]]",
    ceiling: "Callable[[Point], float]",
) -> None:
    """A line of medians with the range of the rounds, and the roofline, for each kind of weights."""
    for weights in dict.fromkeys(point.weights for point in points):
        mine = sorted((point for point in points if point.weights == weights), key=x)
        xs, color = [x(point) for point in mine], COLORS.get(weights, "#444444")
        medians = [statistics.median(values(point)) for point in mine]
        axes.fill_between(
            xs,
            [min(values(point)) for point in mine],
            [max(values(point)) for point in mine],
            color=color,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(xs, medians, color=color, marker="o", markersize=4, label=f"{weights} weights")
        axes.plot(xs, [ceiling(point) for point in mine], "--", color=color, linewidth=1, label=f"{weights} roofline")


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False)
    figure.savefig(path.with_suffix(".png"), dpi=150)
    # No date and fixed ids: the same figures give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "tiercel"}):
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
