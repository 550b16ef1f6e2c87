"""A plot of runs: how latency is distributed, and how goodput and busy time depend on load.

Needs matplotlib, which comes with the extra `plot`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND
from batcher.errors import InputError
from batcher.simulation.compare.experiment import Cell
from batcher.simulation.compare.report import Summary, latencies_ms
from batcher.simulation.engine.deployment import Deployment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS: Final = 1000
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Colors that people with any color vision tell apart (Okabe and Ito, 2008)."""
LEFT_OUT: Final = "without what the server itself, its callers and the network take for a request"
"""Said on plots of rates: no real server reaches them."""
MARKERS: Final = "osv^DPX"
"""One for each color, for print in black and white."""


@dataclass(frozen=True, slots=True)
class Plotted:
    """One policy at one rate."""

    summary: Summary
    latencies_ms: NDArray[np.float64]


def image_path(path: Path) -> Path:
    """`path`, if a plot can be written there; otherwise raises `InputError`, before anything runs."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase  # noqa: PLC0415 - an extra
    except ImportError:
        raise InputError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib, or leave out --plot"
        ) from None
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        raise InputError(f"--plot: got {path}; allowed: a file that ends in .{', .'.join(known)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot: got {path}; allowed: a file in a folder that exists")
    return path


def draw_cells(
    cells: Sequence[Cell],
    summaries: Sequence[Summary],
    deployment: Deployment,
    title: str,
    path: Path,
) -> None:
    """Write the plot of cells and their summaries, with the target if all models have the same."""
    targets = {model.settings.target_ns for model in deployment.models}
    target_ns = targets.pop() if len(targets) == 1 else None
    plotted = [
        Plotted(summary, latencies_ms(cell.runs))
        for cell, summary in zip(cells, summaries, strict=True)
    ]
    draw(plotted, None if target_ns is None else target_ns / MILLISECOND, title, path)


def draw(cells: Sequence[Plotted], target_ms: float | None, title: str, path: Path) -> None:
    """Write the plot.

    The distribution of latencies is that of the highest rate. With several rates, goodput and busy
    time follow next to it. Raises `InputError` when the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    policies = list(dict.fromkeys(cell.summary.policy for cell in cells))
    loads = {cell.summary.load for cell in cells}
    several = len(cells) > len(policies) and len(loads) > 1
    styles = {
        policy: {"color": color, "marker": marker}
        for policy, color, marker in zip(policies, cycle(COLORS), cycle(MARKERS), strict=False)
    }
    figure: Figure = Figure(figsize=(15 if several else 7, 4.6), layout="constrained", dpi=120)
    panels = figure.subplots(1, 3 if several else 1, squeeze=False)[0]
    figure.suptitle(title)
    _latency(panels[0], cells[-len(policies) :], target_ms, styles, with_load=several)
    if several:
        _goodput(panels[1], cells, styles)
        _busy(panels[2], cells, styles)
    for panel in panels:
        panel.grid(visible=True, alpha=0.25)
        panel.legend(fontsize="small", frameon=False)
    save(figure, path)


def draw_rates(
    summaries: Sequence[Summary],
    target_ns: int,
    rate: float,
    headroom: float,
    title: str,
    path: Path,
) -> None:
    """Write the plot of one policy's latency and of what it answers in time, over the rate.

    Marked are the target, the rate that was asked for, and that rate plus headroom. Raises `InputError`
    when the file cannot be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - an extra

    figure: Figure = Figure(figsize=(11, 4.8), layout="constrained", dpi=120)
    latency, shares = figure.subplots(1, 2)
    figure.suptitle(f"{title}\n{LEFT_OUT}", fontsize="medium")
    rates = [each.rate for each in summaries]
    for quantile, color, marker in (("p99", COLORS[1], "o"), ("p50", COLORS[0], "s")):
        ms = [getattr(each.counts, f"{quantile}_ms") or np.nan for each in summaries]
        latency.plot(rates, ms, label=quantile, color=color, marker=marker, ms=4)
    target_ms = target_ns / MILLISECOND
    latency.axhline(target_ms, color="gray", linestyle="--", linewidth=1, label="target")
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    latency.yaxis.set_major_formatter("{x:g}")
    latency.yaxis.set_minor_formatter(NullFormatter())
    latency.set_ylabel("latency, ms")
    latency.set_title("latency of what is answered", fontsize="medium")
    for label, color, marker, count in (
        ("in time", COLORS[2], "o", "on_time"),
        ("late", COLORS[5], "s", "late"),
        ("not answered", COLORS[1], "v", "dropped"),
    ):
        part = [100 * getattr(each.counts, count) / each.counts.requests for each in summaries]
        shares.plot(rates, part, label=label, color=color, marker=marker, ms=4)
    shares.set_ylim(-2, 102)
    shares.set_ylabel("share of requests, %")
    shares.set_title("what becomes of requests", fontsize="medium")
    for panel in (latency, shares):
        panel.axvline(rate, color=COLORS[6], linestyle=":", linewidth=1.2, label="rate")
        if headroom:
            more = rate * (1 + headroom)
            label = f"rate plus {headroom:.0%}"
            panel.axvline(more, color=COLORS[3], linestyle=":", linewidth=1.2, label=label)
        panel.set_xlim(left=0)
        panel.set_xlabel("offered, requests/s")
        panel.grid(visible=True, alpha=0.25)
        panel.legend(fontsize="small", frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure. Raises `InputError` when the file cannot be written."""
    try:
        figure.savefig(path)
    except OSError as error:
        raise InputError(f"--plot: {path}: cannot be written: {error.strerror}") from None


def _latency(
    panel: Axes,
    cells: Sequence[Plotted],
    target_ms: float | None,
    styles: dict[str, dict[str, Any]],
    *,
    with_load: bool,
) -> None:
    """The share of all requests answered within each latency; it stays below 1 by what was dropped."""
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415 - an extra

    for cell in cells:
        answered = np.sort(cell.latencies_ms)
        if not len(answered):
            continue
        shares = np.arange(1, len(answered) + 1) / cell.summary.counts.requests
        picked = np.unique(np.linspace(0, len(answered) - 1, _MOST_POINTS).astype(int))
        style = styles[cell.summary.policy] | {"marker": ""}
        panel.step(
            answered[picked], shares[picked], where="post", label=cell.summary.policy, **style
        )
    if target_ms is not None:
        panel.axvline(target_ms, color="gray", linestyle="--", linewidth=1, label="target")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("latency, ms")
    panel.set_ylabel("share of requests answered by then")
    load = f" at {cells[0].summary.load:.0%} of capacity" if with_load else ""
    panel.set_title(f"latency{load}", fontsize="medium")


def _goodput(panel: Axes, cells: Sequence[Plotted], styles: dict[str, dict[str, Any]]) -> None:
    for policy, style in styles.items():
        mine = [cell.summary for cell in cells if cell.summary.policy == policy]
        panel.plot(
            [100 * s.load for s in mine], [s.goodput for s in mine], label=policy, ms=4, **style
        )
    first = next(iter(styles))
    best = [
        (100 * s.load, s.optimum_goodput)
        for s in (cell.summary for cell in cells if cell.summary.policy == first)
        if s.optimum_goodput is not None
    ]
    if best:
        panel.plot(*zip(*best, strict=True), color="gray", linestyle=":", label="optimum")
    panel.set_ylim(bottom=0)
    panel.set_xlabel("load, % of capacity")
    panel.set_ylabel("answered on time, requests/s")
    panel.set_title("goodput", fontsize="medium")


def _busy(panel: Axes, cells: Sequence[Plotted], styles: dict[str, dict[str, Any]]) -> None:
    for policy, style in styles.items():
        mine = [cell.summary for cell in cells if cell.summary.policy == policy]
        panel.plot(
            [100 * s.load for s in mine],
            [100 * s.busy_fraction for s in mine],
            label=policy,
            ms=4,
            **style,
        )
    panel.set_ylim(0, 103)
    panel.set_xlabel("load, % of capacity")
    panel.set_ylabel("device busy, %")
    panel.set_title("busy time", fontsize="medium")
