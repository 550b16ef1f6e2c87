"""A device that runs batches of certain sizes only: what it is worth that the planner knows them."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import world
from numpy.typing import NDArray

from batcher.clock import MILLISECOND
from batcher.simulation.engine.service_time import linear, stepped

SIZES: Final = (1, 2, 4, 8, 16, 32)
FULL_NS: Final = 40 * MILLISECOND
"""What a batch of 32 rows takes on each device."""

BASES: Final = (20, 5, 1)
"""The time of a batch that its rows do not change, in times of one row: from a GPU that is hardly used
by a row to one that computes all the time."""

TARGETS: Final = (0.8, 1.5, 3.0)
"""Targets, in times of a full batch."""

WAVE: Final = 1000.0
"""Requests of one wave of arrivals, between half and one and a half times the mean rate."""

LONG_ROWS: Final = 3
"""Rows of each second request in the shape `1 and 3 rows`."""

LOWEST, HIGHEST = 0.01, 1.1
"""The range in which rates are searched, as shares of the device's."""

EXTRA_STEPS: Final = 2
"""Steps that this search has more than others, because its range is wider."""

NEARBY: Final = (0.7, 1.4)
"""Where rates are searched again, in parts of the rate that was found with the first seeds."""

DECIDING_SEEDS: Final = range(100, 140)
"""Seeds that decide about a cell where the first ones find less, and that chose no cell. With 40, the
error of the mean gain is 0.1 to 0.3 points. With 2 it is around 0.5."""

ON_TIME: Final = 0.99


@dataclass(frozen=True)
class Cell:
    """One device, target, kind of arrivals and load shape."""

    base: int
    target: float
    process: str
    shape: str

    @property
    def label(self) -> str:
        """Its name in the result."""
        return f"base {self.base} rows, target {self.target:g}, {self.process}, {self.shape}"

    @property
    def profile(self) -> world.Profile:
        """The device, whose batches are filled up to the next size."""
        row_ns = FULL_NS // (self.base + SIZES[-1])
        curve = stepped(linear(self.base * row_ns, row_ns, SIZES[-1]), SIZES)
        return world.Profile(self.label, curve, round(self.target * FULL_NS))


def _waves(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same arrivals, at a rate that rises and falls."""
    at = np.linspace(0.0, float(unit[-1]) + WAVE, 100_000)
    turn = 2.0 * np.pi / WAVE
    arrived = at + 0.5 / turn * (1.0 - np.cos(turn * at))
    return np.asarray(np.interp(unit, arrived, at), np.float64)


def _streams(cell: Cell, unit: NDArray[np.float64], rate: float) -> list[world.Stream]:
    """The requests, at so many rows a second."""
    if cell.shape == "waves":
        unit = _waves(unit)
    if cell.shape != "1 and 3 rows":
        return [world.Stream(world.at_rate(unit, rate))]
    moments = world.at_rate(unit, 2 * rate / (1 + LONG_ROWS))
    return [world.Stream(moments[::2]), world.Stream(moments[1::2], rows=LONG_ROWS)]


SHAPES: Final = ("steady", "waves", "1 and 3 rows")


def _highest(
    cell: Cell,
    sizes: tuple[int, ...],
    seed: int,
    options: dict[str, int],
    between: tuple[float, float] = (LOWEST, HIGHEST),
) -> float:
    """The highest rate at which 99 % are on time, as percent of what the device can serve."""
    profile = cell.profile
    unit = world.unit_arrivals(cell.process, seed, options["requests"])
    served = world.Served(profile, world.ADAPTIVE, batch_sizes=sizes)

    def holds(rate: float) -> bool:
        streams = _streams(cell, unit, rate)
        played = world.play(streams, {"m": served}, seed=seed)
        on_time = [played.in_time(place, profile.target_ns) for place in range(len(streams))]
        return bool(np.concatenate(on_time).mean() >= ON_TIME)

    steps = options["steps"] + EXTRA_STEPS
    return 100 * world.highest(*between, steps, lambda share: holds(share * profile.rate))


def _rates(
    cell: Cell,
    seeds: range,
    options: dict[str, int],
    between: tuple[float, float] = (LOWEST, HIGHEST),
) -> tuple[list[float], list[float]]:
    """The rates of the planner that knows the sizes and of the other one, by seed."""
    knows, guesses = (
        [_highest(cell, sizes, seed, options, between) for seed in seeds] for sizes in (SIZES, ())
    )
    return knows, guesses


def _cell(task: tuple[Cell, dict[str, int]]) -> dict[str, Any]:
    cell, options = task
    first = _rates(cell, range(options["seeds"]), options)
    knows, guesses = map(statistics.fmean, first)
    if knows >= guesses:
        return {"knows": knows, "does_not": guesses, "ok": True}
    low, high = (part * guesses / 100 for part in NEARBY)
    return decided(*_rates(cell, DECIDING_SEEDS, options, (low, high)))


def decided(knows: Sequence[float], guesses: Sequence[float]) -> dict[str, Any]:
    """Both rates by seed, as what is kept: their means, the mean gain of a seed, and its standard error."""
    gains = [100 * (one / other - 1) for one, other in zip(knows, guesses, strict=True)]
    gain = statistics.fmean(gains)
    return {
        "knows": statistics.fmean(knows),
        "does_not": statistics.fmean(guesses),
        "ok": gain >= 0,
        "seeds": len(gains),
        "gain_percent": gain,
        "error_percent": statistics.stdev(gains) / len(gains) ** 0.5,
    }


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    """The highest rate of a planner that knows the sizes, and of one that does not, in every cell.

    In percent of the most that the device can serve within the target. The second learns what each
    number of rows takes, as it sees them. A cell in which the first finds
    less is played again with `DECIDING_SEEDS`, which decide. `cells_with_less` counts those where it
    serves less then as well, by however little.
    """
    cells = list(
        itertools.starmap(Cell, itertools.product(BASES, TARGETS, world.PROCESSES, SHAPES))
    )
    common = {name: getattr(options, name) for name in ("requests", "steps", "seeds")}
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(_cell, [(cell, common) for cell in cells]))
    found: dict[str, Any] = {cell.label: row for cell, row in zip(cells, rows, strict=True)}
    gains = [row["knows"] / row["does_not"] - 1 for row in rows]
    found["all cells"] = {
        "mean_gain_percent": 100 * statistics.fmean(gains),
        "least_gain_percent": 100 * min(gains),
        "most_gain_percent": 100 * max(gains),
        "cells_with_less": sum(not row["ok"] for row in rows),
        "cells_played_again": sum("seeds" in row for row in rows),
    }
    return found
