"""The grid: the highest rate with 99 % on time, as a share of the exact optimum, all on the same arrivals."""

from __future__ import annotations

import argparse
import itertools
import statistics
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import world

from batcher.simulation.optimum import drops_needed
from batcher.simulation.policies import parse_policy

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


LOWEST, HIGHEST = 0.01, 1.2
"""Where the optimum's rate is looked for, in parts of the rate of full speed."""
OPTIMUM_STEPS = 3
"""Steps that this search has more than the policies', because its range is wider."""


def _highest(low: float, high: float, steps: int, holds: Any) -> float:
    """The highest rate that holds, by bisection; relative, because rates differ by orders."""
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def cell(task: tuple[str, str, int, dict[str, Any]]) -> dict[str, Any]:
    """One cell under one seed: the optimum's rate, and each policy's share of it."""
    name, process, seed, options = task
    profile = world.PROFILES[name]
    unit = world.unit_arrivals(process, seed, options["requests"])
    allowed = int((1 - ON_TIME) * len(unit))
    curve, target_ns = profile.curve, profile.target_ns

    def optimum(rate: float) -> bool:
        needed = drops_needed(world.at_rate(unit, rate), curve, target_ns, allowed)
        return needed is not None

    steps = options["steps"] + OPTIMUM_STEPS
    best = _highest(LOWEST * profile.rate, HIGHEST * profile.rate, steps, optimum)
    shares = {}
    for policy in options["policies"]:
        served = world.Served(profile, parse_policy(policy), cold=options["cold"])

        def holds(rate: float, served: world.Served = served) -> bool:
            stream = world.Stream(world.at_rate(unit, rate))
            played = world.play([stream], {"m": served}, noise=options["noise"], seed=seed)
            return bool(played.in_time(0, target_ns).mean() >= ON_TIME)

        rate = _highest(0.1 * best, 1.02 * best, options["steps"], holds)
        shares[policy] = 100 * rate / best
    return {"profile": name, "process": process, "seed": seed, "optimum": best, "shares": shares}


def run(options: argparse.Namespace, advance: Any) -> dict[str, Any]:
    """All cells; means over seeds."""
    policies = ["adaptive"] if options.noise or options.cold else ["adaptive", *BASELINES]
    common = {
        "requests": options.requests,
        "steps": options.steps,
        "policies": policies,
        "noise": options.noise,
        "cold": options.cold,
    }
    tasks = [
        (profile, process, seed, common)
        for profile, process in itertools.product(options.profiles, options.processes)
        for seed in range(options.seeds)
    ]
    results = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(cell, tasks):
            results.append(result)
            advance(len(tasks))
    return summarise(results, policies)


def summarise(results: list[dict[str, Any]], policies: list[str]) -> dict[str, Any]:
    """Means over seeds by cell, then the comparison that is judged."""
    cells: dict[str, dict[str, float]] = {}
    spread: dict[str, float] = {}
    for key, group in itertools.groupby(results, key=lambda r: (r["profile"], r["process"])):
        members = list(group)
        label = " ".join(key)
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
    baselines = [p for p in policies if p != "adaptive"]
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
