"""A plot of what each signal costs: replica-hours over the requests that are not on time.

Needs matplotlib, which comes with the extra `plot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batcher.simulation.autoscale.front import by_signal, front
from batcher.simulation.autoscale.points import Point
from batcher.simulation.compare.plot import COLORS, MARKERS, save
from batcher.simulation.fleet import Signal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SHOWN: Final = 0.5
"""Points with more than this part of the requests late or unanswered are not drawn: no one runs a fleet so."""

LEAST_SHOWN: Final = 1e-4
"""Points with less than this part late or unanswered are drawn at the upper edge."""


SHOWN: Final = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, LEAST_SHOWN)
"""The parts late or unanswered that the axis names: the fractions that signals are compared at are among them."""

READING: Final = (
    "a point: one set-point; a line: those of a signal that none of its own beats; faint: the others; "
    "better: further up and left"
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One deployment with some arrivals."""

    title: str
    points: Sequence[Point]


def draw_fronts(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Writes a picture with a panel each: the front of each signal as a line, its other points faint beside.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    wide = min(len(panels), 3)
    high = ceil(len(panels) / wide)
    size = (max(7.0, 5.6 * wide), 4.6 * high + 0.4)
    figure: Figure = Figure(figsize=size, layout="constrained", dpi=120)
    grid = figure.subplots(high, wide, squeeze=False)
    figure.suptitle(f"{title}\n{READING}", fontsize="medium")
    axes = list(grid.flat)
    for panel, axis in zip(panels, axes, strict=False):
        _draw(panel, axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize="small", frameon=False)
    save(figure, path)


def _draw(panel: Panel, axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: PLC0415 - an extra

    styles = dict(zip(Signal, zip(COLORS, MARKERS, strict=False), strict=False))
    for signal, points in by_signal(panel.points).items():
        color, marker = styles[signal]
        shown = [point for point in points if 1 - point.on_time_fraction <= MOST_SHOWN]
        best = [point for point in front(points) if point in shown]
        axis.scatter(*_places(shown), s=10, color=color, alpha=0.35, marker=marker)
        axis.plot(*_places(best), color=color, marker=marker, ms=4, lw=1.2, label=signal.value)
    axis.set_yscale("log")
    axis.set_ylim(MOST_SHOWN, LEAST_SHOWN * 0.9)
    axis.set_yticks(SHOWN)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda missed, _: _percent(missed)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(left=0.0)
    axis.set_xlabel("replica-hours of the whole run, starts and drains included")
    axis.set_ylabel("answered within the target, % of all requests")
    axis.set_title(panel.title, fontsize="medium")
    axis.grid(visible=True, alpha=0.25)


def _percent(missed: float) -> str:
    least = "≥ " if missed <= LEAST_SHOWN else ""
    return f"{least}{100 * (1 - missed):.4g}"


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    missed = [max(1 - point.on_time_fraction, LEAST_SHOWN) for point in points]
    return [point.replica_hours for point in points], missed
