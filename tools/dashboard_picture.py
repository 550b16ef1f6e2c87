"""Draw what the dashboard shows of a scene as one picture: its panels at their places, with what a real Prometheus answers.

    python tools/dashboard_picture.py overload docs/dashboard.png

Plays scenes of bench/load/monitoring (a minute). Numbers are those at the end of the fault. It is a sketch of what
Grafana draws, to look at the panels' data, sizes and words; Grafana draws it nicer.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

sys.path.insert(0, str(Path(__file__).parents[1] / "bench" / "load"))

from monitoring.dashboard import expression, panels
from monitoring.prometheus import FACTOR
from monitoring.scenes import PLANS, Scene, running

Json = dict[str, Any]
Series = list[tuple[str, Json]]
"""Legend, and the series as Prometheus answers it."""

BACK, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#ff9830")
NAMED = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "transparent": PANEL,
}
UNIT = 0.36
"""Inches of a column of the grid."""


def number(value: float, unit: str) -> str:
    """A value with its unit, about as Grafana writes it."""
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    suffix = unit.removeprefix("suffix:") if unit.startswith("suffix:") else ""
    suffix = {"reqps": " req/s", "watt": " W", "celsius": " °C"}.get(unit, suffix)
    return f"{value:.3g}{suffix}"


def color(name: str) -> str:
    """A color of Grafana as one of matplotlib."""
    return NAMED.get(name, name)


def asked(panel: Json, scene: Scene) -> Series:
    """What its queries answer, in order."""
    found: Series = []
    for target in panel["targets"]:
        expr = expression(target["expr"], scene)
        answer = scene.query(expr) if target["instant"] else scene.range(expr)
        for series in answer:
            metric: Mapping[str, str] = series["metric"]
            legend = re.sub(
                r"\{\{(\w+)\}\}",
                lambda label, metric=metric: metric.get(label[1], ""),
                target["legendFormat"],
            )
            found.append((legend.strip(), series))
    return found


def _matches(matcher: str, legend: str) -> bool:
    return bool(re.search(matcher.strip("/"), legend)) if matcher[0] == "/" else matcher == legend


def properties(panel: Json, legend: str) -> Json:
    """What overrides say of a series."""
    return {
        each["id"]: each["value"]
        for override in panel["fieldConfig"]["overrides"]
        if _matches(override["matcher"]["options"], legend)
        for each in override["properties"]
    }


def step_color(steps: list[Json], value: float) -> str:
    """The color of a threshold."""
    return color([s["color"] for s in steps if s["value"] is None or value >= s["value"]][-1])


def draw_stat(axes: Axes, panel: Json, series: Series) -> None:
    """Numbers on colors."""
    defaults = panel["fieldConfig"]["defaults"]
    size = min(15, 12 * panel["gridPos"]["w"] / len(series) / 3 + 3)
    for place, (legend, each) in enumerate(series):
        own = properties(panel, legend)
        value = float(each["value"][1])
        steps = own.get("thresholds", defaults["thresholds"])["steps"]
        left, width = place / len(series), 1 / len(series)
        axes.add_patch(
            Rectangle((left + 0.01, 0.02), width - 0.02, 0.96, color=step_color(steps, value))
        )
        shown = number(value, own.get("unit", defaults["unit"]))
        axes.text(left + width / 2, 0.5, shown, ha="center", va="center", fontsize=size, color=BACK)
        axes.text(left + width / 2, 0.12, legend, ha="center", fontsize=7, color=BACK)


def draw_bars(axes: Axes, panel: Json, series: Series) -> None:
    """Horizontal bars with numbers."""
    defaults = panel["fieldConfig"]["defaults"]
    values = [float(each["value"][1]) for _, each in series]
    high = max([*values, 1e-9])
    for place, ((legend, _), value) in enumerate(zip(series, values, strict=True)):
        y = 1 - (place + 0.7) / max(len(series), 3)
        shade = step_color(defaults["thresholds"]["steps"], value)
        axes.add_patch(Rectangle((0.5, y), 0.3 * value / high, 0.6 / len(series), color=shade))
        axes.text(0.48, y + 0.05, legend, ha="right", fontsize=7, color=TEXT)
        axes.text(0.83, y + 0.05, number(value, defaults["unit"]), fontsize=8, color=shade)


def draw_table(axes: Axes, _: Json, series: Series) -> None:
    """A line for each series, with its labels."""
    for place, (_, each) in enumerate(series):
        metric = each["metric"]
        words = [
            metric.get(label, "") for label in ("severity", "alertname", "pod", "model", "fleet")
        ]
        shade = {"critical": NAMED["red"], "warning": NAMED["orange"]}.get(words[0], FAINT)
        axes.text(0.02, 0.9 - 0.11 * place, words[0], fontsize=7, color=shade)
        axes.text(
            0.21, 0.9 - 0.11 * place, "  ".join(filter(None, words[1:])), fontsize=7, color=TEXT
        )


def points(each: Json, begin: float) -> tuple[Any, Any]:
    """Minutes of the rules since the begin, and values."""
    found = np.array([(float(at), float(value)) for at, value in each["values"]])
    minutes = (found[:, 0] - begin) * FACTOR / 60
    # A gap is a gap.
    gaps = (
        np.flatnonzero(np.diff(minutes) > 1.5 * np.median(np.diff(minutes))) + 1
        if len(minutes) > 2
        else []
    )
    return np.insert(minutes, gaps, np.nan), np.insert(found[:, 1], gaps, np.nan)


def draw_heatmap(axes: Axes, series: Series, begin: float) -> None:
    """Counts of buckets by time."""
    levels = sorted(series, key=lambda item: float(item[0]))
    minutes = np.unique(np.concatenate([points(each, begin)[0] for _, each in levels]).round(3))
    minutes = minutes[~np.isnan(minutes)]
    below: Any = 0.0
    grid, names = [], []
    for legend, each in levels:
        at, values = points(each, begin)
        counts = np.interp(minutes, at[~np.isnan(at)], values[~np.isnan(at)])
        grid.append(np.clip(counts - below, 0, None))
        names.append(legend)
        below = counts
    used = [place for place, row in enumerate(grid) if row.max() > 0]
    if not used:
        return
    top = max(used) + 1
    axes.pcolormesh(minutes, np.arange(top), np.sqrt(grid[:top]), cmap="Blues_r", shading="nearest")
    axes.set_yticks(range(top), names[:top])


def draw_graph(axes: Axes, panel: Json, series: Series, begin: float) -> None:
    """Lines, or what is stacked."""
    custom = panel["fieldConfig"]["defaults"]["custom"]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    base: dict[float, float] = {}
    for place, (legend, each) in enumerate(series):
        own = properties(panel, legend)
        shade = color(own["color"]["fixedColor"]) if "color" in own else PALETTE[place % 8]
        minutes, values = points(each, begin)
        dashed = "custom.lineStyle" in own
        if custom["stacking"]["mode"] == "normal" and not dashed:
            below = np.array([base.get(round(at, 2), 0.0) for at in minutes])
            values = values + below
            base |= {
                round(at, 2): value
                for at, value in zip(minutes, values, strict=True)
                if value == value  # noqa: PLR0124 - not a gap
            }
            if custom["drawStyle"] == "bars":
                axes.bar(minutes, values - below, bottom=below, color=shade, width=0.7)
            else:
                axes.fill_between(minutes, below, values, color=shade, alpha=0.25, lw=0)
        axes.plot(minutes, values, color=shade, lw=1, ls="--" if dashed else "-", label=legend)
    high = axes.get_ylim()[1]
    if custom["thresholdsStyle"]["mode"] != "off":
        for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
            if (
                step["value"] is not None
                and step["color"] != "transparent"
                and step["value"] < 2 * high
            ):
                axes.axhline(step["value"], color=color(step["color"]), lw=0.8, ls=":")
    axes.set_ylim(0, panel["fieldConfig"]["defaults"].get("max"))
    axes.yaxis.set_major_formatter(lambda value, _: number(value, unit))
    axes.legend(
        loc="upper left", fontsize=5.5, ncols=3, frameon=False, labelcolor=TEXT, borderpad=0.1
    )


def draw(axes: Axes, panel: Json, scene: Scene) -> None:
    """One panel."""
    series = asked(panel, scene)
    graph = panel["type"] in {"timeseries", "heatmap"}
    axes.set_facecolor(PANEL)
    wide = panel["gridPos"]["w"] * 7
    axes.set_title(
        "\n".join(textwrap.wrap(panel["title"], wide)), loc="left", fontsize=7.5, color=TEXT
    )
    axes.tick_params(colors=FAINT, labelsize=6, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if graph:
        axes.set_xlim(0, (scene.at["after"] - scene.at["begin"]) * FACTOR / 60)
        axes.grid(color="#2c3235", lw=0.5)
        for part in ("healthy", "fault"):
            axes.axvline((scene.at[part] - scene.at["begin"]) * FACTOR / 60, color=FAINT, lw=0.5)
    else:
        axes.set_axis_off()
        axes.add_patch(Rectangle((0, 0), 1, 1, color=PANEL, zorder=-1))
    if not series:
        said = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        axes.text(0.5, 0.5, said, ha="center", color=FAINT, transform=axes.transAxes, fontsize=9)
    elif panel["type"] == "heatmap":
        draw_heatmap(axes, series, scene.at["begin"])
    elif graph:
        draw_graph(axes, panel, series, scene.at["begin"])
    else:
        kinds: dict[str, Callable[[Axes, Json, Series], None]] = {
            "stat": draw_stat,
            "bargauge": draw_bars,
            "table": draw_table,
        }
        kinds[panel["type"]](axes, panel, series)


def picture(scene: Scene, path: Path, rows: int) -> None:
    """Write the picture of the first rows of the dashboard."""
    chosen = list(dict.fromkeys(row for row, _ in panels()))[:rows]
    drawn = [(row, panel) for row, panel in panels() if row in chosen]
    # Rows that are collapsed are drawn open.
    y, tops = 0.0, {}
    for row in chosen:
        of_row = [panel["gridPos"] for name, panel in drawn if name == row]
        low = min(place["y"] for place in of_row)
        tops[row] = (y, low)
        y += max(place["y"] + place["h"] for place in of_row) - low + 1.2
    width, height = 24 * UNIT, y * UNIT * 0.8
    figure = plt.figure(figsize=(width, height), facecolor=BACK)
    for row, (top, _) in tops.items():
        figure.text(0.01, 1 - (top + 0.8) / y, row, color=TEXT, fontsize=9, weight="bold")
    for row, panel in drawn:
        place, (top, low) = panel["gridPos"], tops[row]
        upper = top + 1.2 + place["y"] - low
        bounds = (
            (place["x"] + 1.5) / 24
            if panel["type"] in {"timeseries", "heatmap"}
            else (place["x"] + 0.2) / 24,
            1 - (upper + place["h"] - 0.9) / y,
            (place["w"] - 1.8) / 24
            if panel["type"] in {"timeseries", "heatmap"}
            else (place["w"] - 0.4) / 24,
            (place["h"] - 2.0) / y,
        )
        draw(figure.add_axes(bounds), panel, scene)
    figure.savefig(path, dpi=110, facecolor=BACK)
    plt.close(figure)


def main() -> None:
    """Play the scenes, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", choices=PLANS, nargs="+")
    parser.add_argument("path", type=Path, help="the picture; of several scenes, their folder")
    parser.add_argument("--rows", type=int, default=99, help="so many rows from the top")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as scenes:
        scenes.play(*arguments.scene)
        for name in arguments.scene:
            path = arguments.path / f"{name}.png" if arguments.path.is_dir() else arguments.path
            picture(scenes[name], path, arguments.rows)


if __name__ == "__main__":
    main()
