"""What uneven service times cost a scheduler that knows every arrival, but no time before it is over.

A batch of b rows takes f * l(b), with f uniform in 1 - e to 1 + e and drawn anew for each batch. A
scheduler that knows all arrivals, and only the distribution of f, does best to maximize the mean:

    V[j](t) = max(V[j+1](t), max over b of E[in time of j+1..j+b at c + V[j+b](c)])
    c = max(t, a[j+b]) + f * l(b)

is the number of requests in time after the first j, if the instance is free at t: the next one is
given up, or the next b run together as soon as the last of them is there. Nothing is learned while
one waits, so nothing else need be decided. No scheduler that keeps the order does better on average,
because all of them know less.

Order. Batches are contiguous here. Of two requests that are there, to run the younger first can be
better only where the older is late if the batch takes long, and still in time after it if not. That
needs 2 e l(b) > (1 - e) l(1), which no batch that fits 25 ms reaches. Where some do, the scheduler
that is `told` the next batch's f before it forms it bounds what such an order may gain: it never
puts in what would be late, so the older request may always go first, and it is better than all
that are not told.

V falls continuously in t, because f has a density. It is tabulated in `CELLS` to a target, with lines
between, and `told` has `DRAWS` values of f. Four times as many of both move a share by 0.1 to 0.3
points. With hardly any noise both lose as many as the exact optimum does. V is a mean over all
factors, while the grid plays one run: carried out with drawn factors, the plan loses 1 to 3 % more
requests than V says on average, within the error of that average.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import grid
import numpy as np
import world
from numpy.typing import NDArray

CELLS = 64
DRAWS = 4
NEAR = 0.01
"""How close to what may be lost a search for a rate ends, in parts of it."""
MOST_STEPS = 10
"""A search that has not ended by then stays where it is."""

_Floats = NDArray[np.float64]


class Foresight:
    """One run of arrivals on one device, and the tables of V, one row for each j."""

    def __init__(self, at_ns: Sequence[int], profile: world.Profile, noise: float) -> None:
        self._count = len(at_ns)
        # One more, behind which nothing is served: its row stays zero.
        self._arrivals = np.asarray([*at_ns, at_ns[-1]], np.float64)
        self._due = self._arrivals[:-1] + profile.target_ns
        self._due_sums = np.concatenate(([0.0], np.cumsum(self._due)))
        curve = np.asarray(profile.curve[1:], np.float64)
        curve = np.minimum.accumulate(curve[::-1])[::-1]
        self._curve = curve[(1 - noise) * curve < profile.target_ns]
        self._noise = noise
        self._step = profile.target_ns / CELLS
        # A batch that may be in time ends no later than this after its first request came.
        longest = 1 + 2 * noise / (1 - noise)
        self._offsets = np.arange(int(CELLS * longest) + 3) * self._step
        shape = (len(self._arrivals), len(self._offsets))
        self._value: _Floats = np.zeros(shape)
        self._area: _Floats = np.zeros(shape)

    def lost(self) -> float:
        """Requests late or given up at best, on average, where no factor is known."""
        return self._fill(self._unknowing)

    def lost_if_told(self) -> float:
        """The same where the next batch's factor is known before the batch is formed."""
        self._each = np.zeros((DRAWS, self._value.shape[1]))
        return self._fill(self._told)

    def _fill(self, row: Callable[[int, _Floats, _Floats, _Floats], _Floats]) -> float:
        """From the last request to the first; `row` makes V[j] at all moments."""
        for j in reversed(range(self._count)):
            arrivals = self._arrivals[j : min(j + len(self._curve), self._count)]
            curve = self._curve[: len(arrivals)]
            fitting = max(1, int(np.sum(arrivals + (1 - self._noise) * curve < self._due[j])))
            moments = self._arrivals[j] + self._offsets
            starts = np.maximum(moments, arrivals[:fitting, None])
            value = row(j, moments, starts, curve[:fitting, None])
            self._value[j] = value
            self._area[j, 1:] = np.cumsum((value[1:] + value[:-1]) * (self._step / 2))
        return self._count - float(self._value[0, 0])

    def _unknowing(self, j: int, moments: _Floats, starts: _Floats, curve: _Floats) -> _Floats:
        first, last = starts + (1 - self._noise) * curve, starts + (1 + self._noise) * curve
        then = j + 1 + np.arange(len(curve))[:, None]
        late = np.zeros(first.shape)
        unsure = last > self._due[j]
        late[unsure] = self._late_area(j, np.broadcast_to(then, first.shape)[unsure], last[unsure])
        future = self._area_until(then, last) - self._area_until(then, first)
        worth = then - j + (future - late) / (last - first)
        worth[first >= self._due[j]] = -np.inf
        return np.maximum(self._between(self._value[j + 1], j + 1, moments), worth.max(axis=0))

    def _told(self, j: int, moments: _Floats, starts: _Floats, curve: _Floats) -> _Floats:
        then = j + 1 + np.arange(len(curve))[:, None]
        for draw in range(DRAWS):
            factor = 1 + self._noise * ((2 * draw + 1) / DRAWS - 1)
            ends = starts + factor * curve
            place, part = self._place(then, ends)
            here = self._value[then, place]
            worth = then - j + here + part * (self._value[then, place + 1] - here)
            worth[ends > self._due[j]] = -np.inf
            skipped = self._between(self._each[draw], j + 1, moments)
            self._each[draw] = np.maximum(skipped, worth.max(axis=0))
        mean: _Floats = self._each.mean(axis=0)
        return mean

    def _late_area(self, j: int, then: NDArray[np.int64], until: _Floats) -> _Floats:
        """How many of j+1..then are late at a moment, summed over all moments until this."""
        late = np.clip(np.searchsorted(self._due, until), j, then)
        area: _Floats = (late - j) * until - (self._due_sums[late] - self._due_sums[j])
        return area

    def _place(self, then: NDArray[np.int64], moments: _Floats) -> tuple[Any, _Floats]:
        """Where moments lie in the rows `then`: the cell, and the part of it that is over."""
        cells = np.maximum((moments - self._arrivals[then]) / self._step, 0.0)
        place = np.minimum(cells.astype(np.int64), len(self._offsets) - 2)
        return place, cells - place

    def _area_until(self, then: NDArray[np.int64], moments: _Floats) -> _Floats:
        """V of the rows `then`, summed from the arrival of their first request to the moment."""
        place, part = self._place(then, moments)
        here = self._value[then, place]
        slope = self._value[then, place + 1] - here
        area = self._area[then, place] + self._step * part * (here + part * slope / 2)
        # Before that arrival the instance can only wait for it.
        before: _Floats = np.minimum(moments - self._arrivals[then], 0.0) * self._value[then, 0]
        return area + before

    def _between(self, row: _Floats, j: int, moments: _Floats) -> _Floats:
        """A row of the request j at other moments."""
        found: _Floats = np.interp(moments - self._arrivals[j], self._offsets, row)
        return found


def _crossing(excess: Callable[[float], float], before: float, rate: float) -> float:
    """Where a rising function of the rate is zero, by secants: it is smooth, and so few are needed."""
    was, now = excess(before), excess(rate)
    for _ in range(MOST_STEPS):
        if abs(now) <= NEAR:
            break
        before, rate = rate, rate - now * (rate - before) / (now - was)
        was, now = now, excess(rate)
    return rate


FORESEEING = {"foreseeing": Foresight.lost, "foreseeing, told": Foresight.lost_if_told}
"""Schedulers that know every arrival, and how many requests each loses."""


def cell(task: tuple[str, str, int, dict[str, Any]]) -> dict[str, Any]:
    """One cell of the grid under one seed, and the shares of the schedulers that know every arrival."""
    name, process, seed, options = task
    found = grid.cell(task)
    profile = world.PROFILES[name]
    unit = world.unit_arrivals(process, seed, options["requests"])
    allowed = (1 - grid.ON_TIME) * len(unit)
    best = found["optimum"]

    def share(lost: Callable[[Foresight], float]) -> float:
        def excess(rate: float) -> float:
            foresight = Foresight(world.at_rate(unit, rate), profile, options["noise"])
            return float(np.log(max(lost(foresight), 1.0) / allowed))

        return 100 * _crossing(excess, 0.96 * best, best) / best

    found["shares"] |= {label: share(lost) for label, lost in FORESEEING.items()}
    return found


def unknowable(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of the optimum's rate with even times, and what each is short of without noise."""
    common = {
        "requests": options.requests,
        "steps": options.steps,
        "noise": options.noise,
        "entries": {
            "adaptive": ("adaptive", options.noise, options.cold),
            grid.EVEN: ("adaptive", 0.0, False),
        },
    }
    cells = itertools.product(options.profiles, options.processes)
    tasks = [(*each, seed, common) for each in cells for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(cell, tasks))
    found = grid.summarize(results, ["adaptive", grid.EVEN, *FORESEEING])
    by_seed = [
        _cost(
            grid.summarize([r for r in results if r["seed"] == seed], list(found["mean"]))["mean"]
        )
        for seed in range(options.seeds)
    ]
    return {
        "cells": {label: shares | _cost(shares) for label, shares in found["cells"].items()},
        "mean": found["mean"],
        "cost": _cost(found["mean"]),
        "least": {name: min(each[name] for each in by_seed) for name in by_seed[0]},
        "most": {name: max(each[name] for each in by_seed) for name in by_seed[0]},
    }


def _cost(shares: dict[str, float]) -> dict[str, float]:
    """What noise costs each; without noise one that knows every arrival is the optimum."""
    cost = {f"cost, {name}": 100 - shares[name] for name in FORESEEING}
    return {"cost, adaptive": shares[grid.EVEN] - shares["adaptive"]} | cost
