"""Stalls of the machine, several times a second: noise must not have requests refused."""

from __future__ import annotations

import argparse
import statistics
from typing import Any, Final

import figures
import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.simulation.engine.stalls import Stalls
from batcher.simulation.policies.named import parse_policy

PARTS: Final = ("loop", "dispatch", "reply", "device")
LENGTHS_MS: Final = (5, 20, 50, 200)
LOADS: Final = (0.2, 0.5, 0.75, 0.9)
TIMES: Final = 3
"""How often in a second each part stalls."""

MOST_REFUSED: Final = 0.01
"""More than what must be refused; that is none where the load and the stalls leave time."""

BUSY_MS: Final = 12
"""On a machine whose cores others use, a part stands still for about so long and goes on for as long."""

BUSY_LOADS: Final = (0.2, 0.4)
BUSY_REFUSED: Final = 0.005

MOST_TAKEN: Final = 0.8
"""Judged is where the load and the stalled share together take at most this of the time."""


def stalls(options: argparse.Namespace) -> dict[str, Any]:
    """Stalls of the loop, the dispatch, the reply and the device, alone and together, by load.

    `refused`: without an answer by the limit. `first_come`: the same for first come, first served, which
    refuses none. `not_in_time`: refused, or answered after the target. On a `busy machine` the loop, the
    dispatch and the reply stand still for half of the time each, as they do where others use the cores.
    """
    rows = {
        f"{length_ms} ms, {name}, load {load:.0%}": _row(length_ms, parts, load, options)
        for length_ms in LENGTHS_MS
        for name, parts in (*((part, (part,)) for part in PARTS), ("all", PARTS))
        for load in LOADS
    }
    for load in BUSY_LOADS:
        row = _row(BUSY_MS, PARTS[:3], load, options, busy=True)
        row["ok"] = row["refused"] <= BUSY_REFUSED
        rows[f"busy machine, load {load:.0%}"] = row
    return rows


def _row(
    length_ms: int,
    parts: tuple[str, ...],
    load: float,
    options: argparse.Namespace,
    *,
    busy: bool = False,
) -> dict[str, Any]:
    profile = world.PROFILES["linear50"]
    limit_ns = figures.limit_ns(profile)
    refused, late, beyond, p99_ms, share = [], [], [], [], 0.0
    for seed in range(options.seeds):
        seconds = options.requests / (load * profile.rate)
        draw = half_of_the_time if busy else spells_of
        spells = {part: draw(seconds, length_ms, 10 * seed + PARTS.index(part)) for part in parts}
        share = _covered(spells, seconds)
        stream = world.Stream(world.poisson(load * profile.rate, seconds, seed))
        for policy in (figures.ADAPTIVE, parse_policy("greedy")):
            served = world.Served(profile, policy)
            played = world.play([stream], {"m": served}, stalls=Stalls(**spells))
            done, came = played.answered[0], played.arrived[0]
            if policy is figures.ADAPTIVE:
                refused.append(float(((done < 0) | (done > came + limit_ns)).mean()))
                late.append(float(1 - played.in_time(0, profile.target_ns).mean()))
                waited_ns = (done - came)[done >= 0]
                p99_ms.append(float(np.percentile(waited_ns, 99)) / MILLISECOND)
            else:
                beyond.append(float(((done - came) > limit_ns).mean()))
    row: dict[str, Any] = {
        "refused": statistics.fmean(refused),
        "first_come": statistics.fmean(beyond),
        "not_in_time": statistics.fmean(late),
        "p99_ms": statistics.fmean(p99_ms),
        "stalled": share,
    }
    if load + share <= MOST_TAKEN and not busy:
        most = 0.0 if load < 0.5 else MOST_REFUSED
        row["ok"] = max(refused) <= most
    return row


def spells_of(seconds: float, length_ms: int, seed: int) -> list[tuple[int, int]]:
    """A spell at a random moment of each third of a second."""
    draw = np.random.default_rng([seed, 31])
    every_ns, length_ns = SECOND // TIMES, length_ms * MILLISECOND
    starts = [
        place * every_ns + int(draw.integers(every_ns - length_ns))
        for place in range(int((seconds + 5) * TIMES))
    ]
    return [(start_ns, start_ns + length_ns) for start_ns in starts]


def half_of_the_time(seconds: float, length_ms: int, seed: int) -> list[tuple[int, int]]:
    """Spells and the time between them, both exponential with that mean."""
    draw = np.random.default_rng([seed, 37])
    found, now_ns = [], 0
    while now_ns < (seconds + 5) * SECOND:
        start_ns = now_ns + 1 + int(draw.exponential(length_ms * MILLISECOND))
        now_ns = start_ns + 1 + int(draw.exponential(length_ms * MILLISECOND))
        found.append((start_ns, now_ns))
    return found


def _covered(spells: dict[str, list[tuple[int, int]]], seconds: float) -> float:
    """The share of time in which at least one part stalls."""
    until_ns = covered_ns = 0
    for start_ns, end_ns in sorted(spell for each in spells.values() for spell in each):
        covered_ns += max(0, end_ns - max(start_ns, until_ns))
        until_ns = max(until_ns, end_ns)
    return covered_ns / ((seconds + 5) * SECOND)
