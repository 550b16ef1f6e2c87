"""Figures of two checkouts side by side: what a change of policy wins and costs where nothing should change."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import figures

from batcher.clock import SECOND

MEAN_POINTS: Final = 0.4
CELL_POINTS: Final = 1.5
"""Points of the optimum's rate that the grid's mean, and its worst cell, may lose."""

GOODPUT: Final = 0.97
"""Share of its goodput in overload that must be left."""

LOOP_RATE, LOOP_P99 = 0.97, 1.1
"""Share of a closed loop's throughput that must be left, and how much longer its p99 may be."""

BUSY: Final = {"load 0.1": 0.50, "load 0.3": 0.68, "load 0.5": 0.78, "load 0.7": 0.85}
"""How busy the device may be at each load; `utilization` has the same bars."""

IN_TIME: Final = 0.999
AGAIN_IN_TIME: Final = 0.99


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this scene alone."""
    parser.add_argument(
        "--before",
        type=Path,
        help="another checkout to compare with, or what `figures.py` wrote of it",
    )


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Every figure before and after, with its bar."""
    if options.before is None:
        sys.exit("--before: the folder of another checkout, or a file that figures.py wrote")
    after = _figures_of(Path(__file__).resolve().parents[2], options)
    before = _figures_of(options.before.resolve(), options)
    return {label: row for section in SECTIONS for label, row in section(before, after)}


def _figures_of(source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `figures.py` says of a checkout, played in a process of its own."""
    if source.is_file():
        kept: dict[str, Any] = json.loads(source.read_text())
        return kept
    script = str(Path(figures.__file__).resolve())
    command = [sys.executable, script, str(source / "bench")]
    command += ["--requests", str(options.requests), "--seeds", str(options.seeds)]
    path = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


Rows = Iterator[tuple[str, dict[str, Any]]]


def _grid(before: dict[str, Any], after: dict[str, Any]) -> Rows:
    for cell, share in before["grid"].items():
        now = after["grid"][cell]
        yield f"grid, {cell}", _row(share, now, ok=now >= share - CELL_POINTS)
    means = [statistics.fmean(each["grid"].values()) for each in (before, after)]
    yield "grid, mean", _row(*means, ok=means[1] >= means[0] - MEAN_POINTS)
    worst = [min(each["grid"].values()) for each in (before, after)]
    yield "grid, worst cell", _row(*worst, ok=worst[1] >= worst[0] - CELL_POINTS)


def _goodput(before: dict[str, Any], after: dict[str, Any]) -> Rows:
    for label, share in before["goodput"].items():
        now = after["goodput"][label]
        yield f"goodput, {label}", _row(share, now, ok=now >= GOODPUT * share)


def _loops(before: dict[str, Any], after: dict[str, Any]) -> Rows:
    for label, row in before["loops"].items():
        now = after["loops"][label]
        good = now["throughput"] >= LOOP_RATE * row["throughput"]
        yield f"throughput, {label}", _row(row["throughput"], now["throughput"], ok=good)
        good = now["p99"] <= LOOP_P99 * row["p99"]
        yield f"p99, {label}", _row(row["p99"], now["p99"], ok=good)


def _utilization(before: dict[str, Any], after: dict[str, Any]) -> Rows:
    for label, row in before["utilization"].items():
        now = after["utilization"][label]
        good = round(now["busy"], 3) <= BUSY[label] and now["in_time"] >= IN_TIME
        yield f"busy, {label}", _row(row["busy"], now["busy"], ok=good)


def _recovery(before: dict[str, Any], after: dict[str, Any]) -> Rows:
    for label, row in before["recovery"].items():
        now = after["recovery"][label]
        limits = 2 * figures.limit_ns(figures.world.PROFILES[label.split()[0]]) / SECOND
        good = now["again_s"] <= limits and now["in_time"] >= AGAIN_IN_TIME
        yield f"s until on time, {label}", _row(row["again_s"], now["again_s"], ok=good)


def _row(before: float, after: float, *, ok: bool) -> dict[str, Any]:
    return {"before": before, "after": after, "difference": after - before, "ok": ok}


SECTIONS: Final = (_grid, _goodput, _loops, _utilization, _recovery)
