"""The scale signal: `desired_ratio` beside what is offered over the highest rate with 99 % in time."""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.core.scheduler import Scheduler
from batcher.core.settings import PaddedAxis, QueueLimits
from batcher.simulation.engine.service_time import linear, stepped

FULL_NS: Final = 40 * MILLISECOND
"""What the largest batch takes on each device."""

LOADS: Final = (0.3, 0.6, 0.9, 1.2, 2.0, 3.0)
"""What is offered, in parts of the highest rate with 99 % in time."""

ON_TIME: Final = 0.99
WITHIN: Final = 0.1
"""The bar: `desired_ratio` is on average so near to what is offered over what can be served in time."""

BURSTY_WITHIN: Final = 0.25
"""The bar where arrivals come in bursts: runs of the same rate differ by as much in what can be served in time."""

BURST: Final = 0.2
"""What a burst of half a second's work may add to a value of 0.5."""

FIRST_S: Final = 6.0
"""Seconds before the first value that counts."""
SECONDS: Final = 20.0
LEARNED: Final = 30_000
"""Requests in which it is learned in what bursts they come, where they do."""

SAMPLE_NS: Final = SECOND // 2
STEP_S: Final = 5.0
"""A step shows in full so long after it."""


@dataclass(frozen=True)
class Kind:
    """Requests of one kind: their part of all, and what they ask."""

    part: float
    model: str = "m"
    length: int = 0
    rows: int = 1
    priority: int = 0


@dataclass(frozen=True)
class Cell:
    """Models on one device or several, and who asks them."""

    label: str
    models: dict[str, world.Served]
    kinds: tuple[Kind, ...] = (Kind(1.0),)
    process: str = "poisson"
    limit: int | None = None
    noise: float = 0.0

    @property
    def most(self) -> float:
        """A rate that is above what can be served, in requests a second."""
        return sum(
            each.instances
            * each.profile.rate
            * (each.lengths[-1] / each.lengths[0] if each.lengths else 1)
            for each in self.models.values()
        )

    def streams(self, moments: Sequence[int], seed: int) -> list[world.Stream]:
        """The requests, each of a kind that is drawn."""
        draw = np.random.default_rng([seed, 3])
        chosen = draw.choice(len(self.kinds), len(moments), p=[kind.part for kind in self.kinds])
        return [
            world.Stream(
                [at_ns for at_ns, which in zip(moments, chosen, strict=True) if which == place],
                kind.model,
                priority=kind.priority,
                shapes=((kind.length,),) if kind.length else (),
                rows=kind.rows,
            )
            for place, kind in enumerate(self.kinds)
        ]

    def play(
        self,
        moments: Sequence[int],
        seed: int,
        watch: Callable[[Scheduler, int], None] | None = None,
    ) -> world.Played:
        """Run the scheduler."""
        streams = self.streams(moments, seed)
        return world.play(
            streams, self.models, seed=seed, device_limit=self.limit, noise=self.noise, watch=watch
        )

    def holds(self, moments: Sequence[int], seed: int) -> bool:
        """Whether 99 % of every model's requests are in time."""
        played = self.play(moments, seed)
        for name, served in self.models.items():
            found = [
                played.in_time(place, served.profile.target_ns)
                for place, kind in enumerate(self.kinds)
                if kind.model == name
            ]
            if np.concatenate(found).mean() < ON_TIME:
                return False
        return True


def _served(base: int, most: int, target: float, **more: Any) -> world.Served:
    row_ns = FULL_NS // (base + most)
    curve = linear(base * row_ns, row_ns, most)
    if sizes := more.get("batch_sizes"):
        curve = stepped(curve, sizes)
    profile = world.Profile("", curve, round(target * FULL_NS))
    return world.Served(profile, world.ADAPTIVE, device="d", **more)


SIZES: Final = (1, 2, 4, 8, 16, 32)
LENGTHS: Final = (32, 64, 128)
DEVICES: Final = ((20, 32), (5, 32), (1, 32), (5, 8))
TARGETS: Final = (1.2, 2.0, 3.0)


def cells() -> list[Cell]:
    """All of them."""
    found = [
        Cell(
            f"base {base} rows, at most {most}, target {target:g}, {process}",
            {"m": _served(base, most, target)},
            process=process,
        )
        for (base, most), target, process in itertools.product(DEVICES, TARGETS, world.PROCESSES)
        if (base, most, target) != (5, 8, 1.2) or process != "gamma"
    ]
    one = _served(5, 32, 2.0)
    lengths = (PaddedAxis(0, 1, LENGTHS),)
    by_length = tuple(Kind(1 / 3, length=length) for length in LENGTHS)
    both = (Kind(0.5, "a"), Kind(0.5, "b"))
    uneven = (Kind(0.8, "a"), Kind(0.2, "b"))
    return [
        *found,
        Cell("sizes 1 to 32, target 2", {"m": _served(5, 32, 2.0, batch_sizes=SIZES)}),
        *[
            Cell(
                f"sizes 8 and 32, target {target:g}",
                {"m": _served(5, 32, target, batch_sizes=(8, 32))},
            )
            for target in (1.6, 2.0, 2.2, 3.0)
        ],
        Cell("three lengths, target 2", {"m": _served(5, 32, 2.0, padding=lengths)}, by_length),
        Cell("three lengths, target 4", {"m": _served(5, 32, 4.0, padding=lengths)}, by_length),
        Cell("two models, target 2", {"a": one, "b": one}, both, limit=1),
        Cell("two models, target 4", dict.fromkeys("ab", _served(5, 32, 4.0)), both, limit=1),
        Cell(
            "two models, targets 2 and 6",
            {"a": _served(5, 32, 2.0), "b": _served(20, 32, 6.0)},
            uneven,
            limit=1,
        ),
        Cell("two devices", {"m": replace(one, instances=2, device="")}),
        Cell("two slots of one device", {"m": replace(one, instances=2)}, limit=2),
        Cell(
            "three priorities",
            {"m": replace(one, limits=QueueLimits())},
            tuple(Kind(1 / 3, priority=level) for level in (1, 2, 3)),
        ),
        Cell("1 and 3 rows", {"m": one}, (Kind(0.5), Kind(0.5, rows=3))),
        Cell("uneven times", {"m": one}, noise=0.2),
        Cell("a queue of 64", {"m": replace(one, limits=QueueLimits(max_requests=64))}),
    ]


def _values(cell: Cell, moments: Sequence[int], seed: int) -> list[tuple[float, float | None]]:
    """`desired_ratio` twice a second: (seconds, value)."""
    found: list[tuple[float, float | None]] = []

    def watch(scheduler: Scheduler, now_ns: int) -> None:
        if now_ns >= (len(found) + 1) * SAMPLE_NS:
            at_ns = (len(found) + 1) * SAMPLE_NS
            found.append((at_ns / SECOND, scheduler.observe(now_ns).desired_ratio))

    cell.play(moments, seed, watch)
    last_s = moments[-1] / SECOND
    return [(at_s, value) for at_s, value in found if at_s <= last_s]


def _moments(cell: Cell, rate: float, seconds: float, seed: int) -> list[int]:
    unit = world.unit_arrivals(cell.process, seed, max(100, int(rate * seconds)))
    return world.at_rate(unit, rate)


def _mean(cell: Cell, moments: Sequence[int], seed: int) -> float:
    """The mean of the values in the second half of a run."""
    found = _values(cell, moments, seed)
    values = [value for at_s, value in found if at_s >= max(FIRST_S, found[-1][0] / 2)]
    return statistics.fmean([value for value in values if value is not None])


def _shift(moments: Sequence[int], seconds: float) -> list[int]:
    return [at_ns + round(seconds * SECOND) for at_ns in moments]


def _step_error(cell: Cell, rates: tuple[float, float], seed: int) -> float:
    """How far the value is off five seconds after a step, from its mean long after it."""
    first = _moments(cell, rates[0], 15.0, seed)
    after_s = first[-1] / SECOND
    second = _moments(cell, rates[1], 15.0, seed + 1)
    values = _values(cell, [*first, *_shift(second, after_s)], seed)
    late = [v for at_s, v in values if at_s >= after_s + STEP_S + 5 and v is not None]
    then = next(v for at_s, v in values if at_s >= after_s + STEP_S and v is not None)
    return then / statistics.fmean(late) - 1


def _burst(cell: Cell, rate: float, seed: int) -> float:
    """How much the value rises in a burst of half a second's work, on half of that rate."""
    calm = _moments(cell, 0.5 * rate, 30.0, seed)
    burst_ns = 15 * SECOND
    values = _values(cell, sorted([*calm, *[burst_ns] * int(rate / 2)]), seed)
    before = [v for at_s, v in values if FIRST_S <= at_s < burst_ns / SECOND and v is not None]
    after = [v for at_s, v in values if at_s >= burst_ns / SECOND and v is not None]
    return max(after) - statistics.fmean(before)


def _cell(task: tuple[int, dict[str, int]]) -> dict[str, Any]:
    place, options = task
    cell = cells()[place]
    seeds = range(options["seeds"])
    rates = []
    for seed in seeds:
        unit = world.unit_arrivals(cell.process, seed, options["requests"])

        def holds(rate: float, unit: Any = unit, seed: int = seed) -> bool:
            return cell.holds(world.at_rate(unit, rate), seed)

        rates.append(world.highest(0.05 * cell.most, 1.1 * cell.most, options["steps"], holds))
    rate = statistics.fmean(rates)
    bursty = cell.process != "poisson"
    row: dict[str, Any] = {"rate": rate, "rate_spread": (max(rates) - min(rates)) / rate}
    errors = []
    for load in LOADS:
        seconds = max(SECONDS, LEARNED / (load * rate)) if bursty else SECONDS
        found = [_mean(cell, _moments(cell, load * rate, seconds, seed), seed) for seed in seeds]
        errors.append(statistics.fmean(found) / load - 1)
        row[f"at_{load:g}"] = statistics.fmean(found)
    row["worst_error"] = max(errors, key=abs)
    bar = BURSTY_WITHIN if bursty else WITHIN
    row["ok"] = abs(row["worst_error"]) <= bar
    if not bursty:
        steps = [_step_error(cell, (a * rate, b * rate), 7) for a, b in ((0.3, 2.0), (2.0, 0.3))]
        row["step_up_error"], row["step_down_error"] = steps
        row["burst"] = _burst(cell, rate, 7)
    return row


def scale(options: argparse.Namespace) -> dict[str, Any]:
    """In every cell, the value at six loads, five seconds after a step, and in a burst."""
    every = cells()
    common = {name: getattr(options, name) for name in ("requests", "steps", "seeds")}
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(_cell, [(place, common) for place in range(len(every))]))
    found: dict[str, Any] = {cell.label: row for cell, row in zip(every, rows, strict=True)}
    steady = [row for row in rows if "burst" in row]
    checks = {
        "every cell": all(row["ok"] for row in rows),
        "a step shows within 10 % after 5 s": all(
            max(abs(row["step_up_error"]), abs(row["step_down_error"])) <= WITHIN for row in steady
        ),
        "a burst of half a second's work raises it by less than 0.2": all(
            row["burst"] < BURST for row in steady
        ),
    }
    return found | {"checks": checks}
