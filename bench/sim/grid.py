"""The grid: the highest rate with 99 % on time, as a share of the exact optimum, all on the same arrivals."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import world

from batcher.simulation.compare.optimum import drops_needed
from batcher.simulation.policies.named import parse_policy

ON_TIME = 0.99
BASELINES = (
    "greedy",
    "fixed:5ms",
    "lazy-drop",
    "nexus",
    "defer",
    "full-clear",
    "roll-out",
    "bento",
)
BAR_GAIN = 1.0
"""Points that the mean and the worst cell must be above the best single baseline's."""
BAR_CELL = -1.0
"""Points that no cell may be further below the best baseline in that cell."""
BAR_NOISE = -2.0
"""Points that the mean with noise, or cold, may be below the mean without."""
EVEN = "even"
"""The default policy with even service times and a warm start, beside a grid without them."""
KEPT = world.RESULTS / "sim-grid.json"

LOWEST, HIGHEST = 0.01, 1.2
"""The range in which the optimum's rate is searched, as shares of the profile's rate."""
OPTIMUM_STEPS = 3
"""Steps that this search has more than the policies', because its range is wider."""


def cell(task: tuple[str, str, int, dict[str, Any]]) -> dict[str, Any]:
    """One cell under one seed: the optimum's rate, and each entry's share of it."""
    name, process, seed, options = task
    profile = world.PROFILES[name]
    unit = world.unit_arrivals(process, seed, options["requests"])
    allowed = int((1 - ON_TIME) * len(unit))
    curve, target_ns = profile.curve, profile.target_ns

    def optimum(rate: float) -> bool:
        needed = drops_needed(world.at_rate(unit, rate), curve, target_ns, allowed)
        return needed is not None

    steps = options["steps"] + OPTIMUM_STEPS
    best = world.highest(LOWEST * profile.rate, HIGHEST * profile.rate, steps, optimum)
    shares = {}
    for label, (policy, noise, cold) in options["entries"].items():
        served = world.Served(profile, parse_policy(policy), cold=cold)

        def holds(rate: float, served: world.Served = served, noise: float = noise) -> bool:
            stream = world.Stream(world.at_rate(unit, rate))
            played = world.play([stream], {"m": served}, noise=noise, seed=seed)
            return bool(played.in_time(0, target_ns).mean() >= ON_TIME)

        rate = world.highest(0.1 * best, 1.02 * best, options["steps"], holds)
        shares[label] = 100 * rate / best
    return {"profile": name, "process": process, "seed": seed, "optimum": best, "shares": shares}


def run(options: argparse.Namespace, advance: Any) -> dict[str, Any]:
    """All cells; means over seeds. With noise or cold, what that costs the default policy."""
    uneven = bool(options.noise or options.cold)
    entries = {"adaptive": ("adaptive", options.noise, options.cold)}
    kept = _kept(options) if uneven else None
    if uneven:
        if kept is None:
            entries[EVEN] = ("adaptive", 0.0, False)
    else:
        entries |= {policy: (policy, 0.0, False) for policy in BASELINES}
    common = {"requests": options.requests, "steps": options.steps, "entries": entries}
    cells = list(itertools.product(options.profiles, options.processes))
    tasks = [(*each, seed, common) for each in cells for seed in range(options.seeds)]
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(cell, tasks):
            results.append(result)
            advance(len(tasks))
    summary = summarize(results, list(entries))
    if uneven:
        if kept is not None:
            for label, shares in summary["cells"].items():
                shares[EVEN] = kept[label]["adaptive"]
        summary["cost"] = _cost(summary["cells"])
    return summary


def _kept(options: argparse.Namespace) -> dict[str, dict[str, float]] | None:
    """The cells of the grid that is kept, if it was played like this one, but even and warm."""
    if not KEPT.exists():
        return None
    grid = json.loads(KEPT.read_text())
    wanted = world.settings(options) | {"noise": 0.0, "cold": False}
    labels = {_label(*each) for each in itertools.product(options.profiles, options.processes)}
    found: dict[str, dict[str, float]] = grid["cells"]
    return found if grid["settings"] == wanted and labels <= found.keys() else None


def _cost(cells: dict[str, dict[str, float]]) -> dict[str, Any]:
    """How far the mean is below that of even service times and a warm start, on the same arrivals."""
    mean = statistics.fmean(shares["adaptive"] for shares in cells.values())
    even = statistics.fmean(shares[EVEN] for shares in cells.values())
    worst = min(shares["adaptive"] - shares[EVEN] for shares in cells.values())
    return {
        "mean": mean,
        f"mean_{EVEN}": even,
        "difference": mean - even,
        "largest_difference_of_a_cell": worst,
        "ok": mean - even >= BAR_NOISE,
    }


def _label(profile: str, process: str) -> str:
    return f"{profile} {process}"


def summarize(results: list[dict[str, Any]], policies: list[str]) -> dict[str, Any]:
    """Means over seeds by cell, then the comparison that is judged."""
    cells: dict[str, dict[str, float]] = {}
    spread: dict[str, float] = {}
    for key, group in itertools.groupby(results, key=lambda r: (r["profile"], r["process"])):
        members = list(group)
        label = _label(*key)
        cells[label] = {p: statistics.fmean(m["shares"][p] for m in members) for p in policies}
        rates = [m["optimum"] for m in members]
        spread[label] = 100 * (max(rates) - min(rates)) / statistics.fmean(rates)
    mean = {p: statistics.fmean(c[p] for c in cells.values()) for p in policies}
    worst = {p: min(c[p] for c in cells.values()) for p in policies}
    summary: dict[str, Any] = {
        "cells": cells,
        "mean": mean,
        "worst": worst,
        "optimum_spread_percent": spread,
    }
    baselines = [p for p in policies if p not in ("adaptive", EVEN)]
    if baselines:
        gaps = {k: c["adaptive"] - max(c[p] for p in baselines) for k, c in cells.items()}
        summary["gap_to_best_baseline_of_the_cell"] = gaps
        summary["checks"] = {
            "mean above the best baseline's": mean["adaptive"]
            >= max(mean[p] for p in baselines) + BAR_GAIN,
            "worst above the best baseline's": worst["adaptive"]
            >= max(worst[p] for p in baselines) + BAR_GAIN,
            "no cell far below its best baseline": min(gaps.values()) >= BAR_CELL,
        }
    return summary
