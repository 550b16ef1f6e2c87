"""What the scenes that a part of the core was made for lose without it.

Heuristics are switched off one by one; constants are set to 0.7 and 1.4 times their values. A loss is
in points of requests (`in time %`, `answered %`), in points of the device's time (`busy %`), in
milliseconds or in executions, whatever the figure; below 0 it is a gain.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import world
from ablation_heuristics import HEURISTICS
from ablation_parts import Part, constants, patched, scaled_constants
from ablation_scenes import HIGHER, SCENES, Figures
from rich.console import Console
from rich.progress import track
from rich.table import Table

from batcher.core.model import Model
from batcher.journal.fingerprint import scheduler_fingerprint

SEEDS: Final = (7001, 7002, 7003)
"""Arrivals that nothing was chosen on: no other scene plays them."""

WINS: Final = 0.3
"""A heuristic stays if some figure loses more than so much without it, on average over the seeds."""

SHOWN: Final = 0.05
"""Smaller losses are not kept."""

Losses: TypeAlias = dict[str, float]


def _raise(_model: Model, error: Exception) -> None:
    """A policy that raises would go on as a greedy one, and its figures be those of that."""
    raise error


def _mean(scenes: Iterable[str]) -> Figures:
    """Every figure of these scenes, on average over the seeds."""
    found: Figures = {}
    for scene in scenes:
        with patched(Model, "policy_raised", _raise):
            played = [SCENES[scene](seed) for seed in SEEDS]
        # A figure that not every seed has (the time of what was answered) is the mean of the others.
        for label in {label: None for figures in played for label in figures}:
            values = [figures[label] for figures in played if label in figures]
            found[f"{scene}: {label}"] = float(np.mean(values))
    return found


def losses(usual: Figures, changed: Figures) -> Losses:
    """How much worse each figure is, where that shows; the worst first."""
    found = {
        label: (value - changed.get(label, 0.0)) * (1 if _more_is_better(label) else -1)
        for label, value in usual.items()
    }
    shown = {label: round(loss, 3) for label, loss in found.items() if abs(loss) >= SHOWN}
    return dict(sorted(shown.items(), key=lambda each: -each[1]))


def _more_is_better(label: str) -> bool:
    return label.partition(": ")[2].startswith(HIGHER)


def parts(only: str = "") -> list[Part]:
    """Heuristics, then constants; those with `only` in their names."""
    every = [*HEURISTICS, *scaled_constants(constants())]
    return [part for part in every if only in part.name]


def run(options: argparse.Namespace) -> int:
    """Play what is not in the file yet, write after each part, print the table."""
    path = options.output or world.RESULTS / "sim-ablation.json"
    kept = _kept(path)
    usual: dict[str, Figures] = {}
    wanted = parts(options.only or "")
    for part in track([part for part in wanted if part.name not in kept["losses"]], "parts"):
        for scene in part.scenes:
            if scene not in usual:
                usual[scene] = _mean([scene])
        with part.without():
            changed = _mean(part.scenes)
        before = {label: value for scene in part.scenes for label, value in usual[scene].items()}
        kept["losses"][part.name] = losses(before, changed)
        path.write_text(json.dumps(kept, indent=1) + "\n")
    Console().print(table({part.name: kept["losses"][part.name] for part in wanted}))
    return 0


def _kept(path: Path) -> dict[str, Any]:
    """What the file has of the code of now; nothing where it is of other code."""
    scheduler = scheduler_fingerprint()
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["scheduler"] == scheduler and kept["seeds"] == list(SEEDS):
            return kept
    return {"scheduler": scheduler, "seeds": list(SEEDS), "losses": {}}


def table(found: dict[str, Losses]) -> Table:
    """For each part its largest loss in points, what else it loses most of, and its largest gain."""
    shown = Table("part", "points", "in", "most of all", "largest gain")
    for name, lost in found.items():
        of_points = {label: loss for label, loss in lost.items() if "%" in label}
        others = {label: loss for label, loss in lost.items() if "%" not in label}
        gains = sorted((loss, label) for label, loss in of_points.items() if loss < 0)
        shown.add_row(
            name,
            *_largest(of_points),
            " ".join(_largest(others)),
            f"{-gains[0][0]:.2f} {gains[0][1]}" if gains else "",
        )
    return shown


def _largest(lost: Losses) -> Sequence[str]:
    label = max(lost, key=lambda each: lost[each], default=None)
    if label is None or lost[label] <= 0:
        return ("", "")
    return (f"[bold]{lost[label]:.2f}[/]" if lost[label] >= WINS else f"{lost[label]:.2f}", label)
