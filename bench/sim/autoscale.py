"""Which signal a fleet should be scaled on: fronts of on-time fraction against replica-hours."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import world

from batcher.autoscaling import HpaSettings
from batcher.clock import MILLISECOND, SECOND
from batcher.config import parse_config
from batcher.simulation.autoscale.front import (
    FRACTIONS,
    by_signal,
    extra_hours,
    front,
    hours_at,
    set_point_at,
)
from batcher.simulation.autoscale.plot import Panel, draw_fronts
from batcher.simulation.autoscale.points import Point, full_cpu, point_of, pooled
from batcher.simulation.autoscale.sweep import Sweep, play
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.engine.service_time import Noise
from batcher.simulation.fleet import (
    FleetSettings,
    LeastRequest,
    Processor,
    Scrape,
    Signal,
    Span,
    StartUp,
)
from batcher.simulation.traffic.arrivals import Process
from batcher.simulation.traffic.day import Day
from batcher.simulation.traffic.multiplied import Multiplied
from batcher.simulation.traffic.traces import read_trace
from batcher.simulation.traffic.workload import Mix, Traffic

WITHIN: Final = 0.02
"""The bar: `desired_ratio` needs at most so many more replica-hours than the best signal at the same on-time fraction."""

FIRST: Final[Mapping[Signal, tuple[float, ...]]] = {
    Signal.DESIRED_RATIO: (0.2, 0.5, 0.9, 1.4),
    Signal.DUTY_CYCLE: (0.2, 0.5, 0.8, 0.96),
    Signal.CPU: (0.2, 0.5, 0.8, 0.96),
    Signal.NVML_UTILIZATION: (0.2, 0.5, 0.8, 0.96),
    Signal.QUEUE_REQUESTS: (0.02, 0.1, 0.4, 1.5),
    Signal.OLDEST_AGE: (0.15, 0.3, 0.5, 0.8),
    Signal.WORK_SECONDS: (0.02, 0.08, 0.25, 0.6),
}
"""Set-points that are tried first: parts of 1, of full processor time, of a full batch, of the target."""

MOST_POINTS: Final = 6
"""Set-points of a signal. More are put between two that hold one of the fractions between them."""

LOOKED_AT: Final = (
    *(each / 200 for each in range(120, 199)),
    0.992,
    0.995,
    0.996,
    0.998,
    0.999,
    0.9995,
    0.9998,
)
"""The on-time fractions at which `behind` looks for a signal that is cheaper: each half percent, closer near the end."""

NEAR: Final = 1.2
"""Two points whose replica-hours differ by less are near enough to interpolate between."""

ENOUGH: Final = 0.998
"""With so many on time nothing is learned from more replicas."""

TITLE: Final = (
    "replicas that serve 5 requests/s (0.8 s a batch of 4, target 2 s) and start in 40 s; the HPA's defaults, "
    "1 to 60 replicas"
)

AVERAGE_NS: Final = 15 * SECOND
PROCESSOR: Final = Processor(batch_share=0.3)
"""A processor launches and feeds what runs on the device for 0.3 of the time: without any, `cpu` says nothing."""


@dataclass(frozen=True)
class Scene:
    """A deployment with some arrivals."""

    label: str
    base_ms: float
    row_ms: float
    rows: int
    target_ms: int
    arrivals: Process
    duration_ns: int | None = None
    seeds: int = 1
    """At least so many: of a day a few bursts decide, which are drawn."""
    most_points: int = MOST_POINTS

    def deployment(self) -> Deployment:
        """What one replica serves."""
        config = parse_config(
            f"""models:
  - name: m
    executor: emulated
    options: {{base: {self.base_ms}ms, per_row: {self.row_ms}ms}}
    batching: {{max_batch_size: {self.rows}, target_p99: {self.target_ms}ms}}
"""
        )
        return deployment_of(config, Mix.of(("m", 1.0)), Costs(noise=Noise("uniform", 0.05)))

    def sweep(self, average_ns: int = AVERAGE_NS, hpa: HpaSettings | None = None) -> Sweep:
        """The fleet under the HPA's defaults; replicas take about 40 s to start and are read every 5 s."""
        spread = Noise("uniform", 0.3)
        fleet = FleetSettings(
            self.deployment(),
            start_up=StartUp(
                image=Span(20 * SECOND, spread),
                load=Span(15 * SECOND, spread),
                warm_up=Span(5 * SECOND),
            ),
            balancer=LeastRequest(),
            # Rates over as long as gauges are averaged: with 30 s `cpu` and `duty_cycle` would be late by more.
            scrape=Scrape(5 * SECOND, SECOND // 2, AVERAGE_NS),
            processor=PROCESSOR,
        )
        return Sweep(
            fleet,
            Traffic(Mix.of(("m", 1.0))),
            self.arrivals,
            {},
            hpa or HpaSettings(1, 60),
            average_ns=average_ns,
            duration_ns=self.duration_ns,
        )

    def unit(self, signal: Signal) -> float:
        """What a part of 1 is in the signal's own unit."""
        if signal is Signal.CPU:
            return full_cpu(self.deployment(), Traffic(Mix.of(("m", 1.0))), PROCESSOR)
        if signal is Signal.QUEUE_REQUESTS:
            return self.rows
        if signal in (Signal.OLDEST_AGE, Signal.WORK_SECONDS):
            return self.target_ms * MILLISECOND / SECOND
        return 1.0


NAMES: Final = {"conv": "conversation"}
"""What the traces' files call shorter."""


def scenes(folder: str) -> list[Scene]:
    """Both traces and the day, on slow replicas."""
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        sys.exit(f"--traces: no CSV files in {folder}")
    slow = (400.0, 100.0, 4, 2000)
    """0.8 s a full batch: 5 requests a second."""
    found = []
    for path in paths:
        name = path.stem.rpartition("_")[2]
        times = 3 if name == "code" else 2
        recorded = Multiplied(read_trace(path), times)
        label = f"{NAMES.get(name, name)} trace, an hour, {times} requests for each recorded one"
        most = 8 if name == "code" else MOST_POINTS  # Its fronts are flat and cross.
        found.append(Scene(label, *slow, recorded, most_points=most))
    return [
        *found,
        Scene(
            "synthetic day of half an hour, mean of two seeds", *slow, Day(20.0, 1800.0), seeds=2
        ),
    ]


def sweep_signal(scene: Scene, signal: Signal, seeds: int) -> list[Point]:
    """Points of one signal: the first ones, then more where the fractions lie."""
    unit = scene.unit(signal)
    sweep = scene.sweep()
    loads = [sweep.load(seed) for seed in range(max(seeds, scene.seeds))]

    def point(set_point: float) -> Point:
        return pooled(
            [
                point_of(signal, set_point, play(sweep, signal, set_point, seed, load))
                for seed, load in enumerate(loads)
            ]
        )

    found: list[Point] = []
    for part in reversed(FIRST[signal]):
        found.append(point(part * unit))
        if found[-1].on_time_fraction >= ENOUGH:
            break
    while len(found) < scene.most_points:
        found.sort(key=lambda each: each.set_point)
        gap = next(_gaps(found), None)
        if gap is None:
            break
        found.append(point((gap[0].set_point * gap[1].set_point) ** 0.5))
    return sorted(found, key=lambda each: each.set_point)


def _gaps(found: list[Point]) -> Iterator[tuple[Point, Point]]:
    """Neighboring set-points that hold a fraction between them and are far apart, the farthest first."""
    gaps = [
        (high, low)
        for high, low in pairwise(found)
        if max(high.replica_hours, low.replica_hours)
        > NEAR * min(high.replica_hours, low.replica_hours)
        and any(
            min(high.on_time_fraction, low.on_time_fraction)
            <= fraction
            <= max(high.on_time_fraction, low.on_time_fraction)
            for fraction in FRACTIONS
        )
    ]
    yield from sorted(gaps, key=lambda gap: -gap[0].replica_hours / gap[1].replica_hours)


def _task(task: tuple[Scene, Signal, int]) -> list[Point]:
    return sweep_signal(*task)


def autoscale(options: argparse.Namespace) -> dict[str, Any]:
    """Every signal in every scene, what it costs beside the best one, and the picture.

    This takes ten minutes of processor time: what is played is kept at once, and not played again by the same code.
    """
    chosen = scenes(options.traces)
    output = options.output or world.RESULTS / "sim-autoscale.json"
    kept = _kept(output, options)
    tasks = [(scene, signal) for signal in FIRST for scene in chosen]
    missing = [task for task in tasks if (task[0].label, task[1]) not in kept]
    with ProcessPoolExecutor(options.jobs) as pool:
        played = pool.map(_task, [(*task, options.seeds) for task in missing])
        for (scene, signal), points in zip(missing, played, strict=True):
            kept[scene.label, signal] = points
            _say(scene, signal, points)
            found = _rows(chosen, kept)
            output.write_text(json.dumps({"settings": world.settings(options), **found}, indent=2))
    panels = [Panel(scene.label, _of(scene, kept)) for scene in chosen]
    draw_fronts(panels, TITLE, options.plot)
    return _rows(chosen, kept)


Kept = dict[tuple[str, Signal], list[Point]]


def _kept(output: Path, options: argparse.Namespace) -> Kept:
    """What the file has of the same code and seeds."""
    if not output.exists():
        return {}
    before = json.loads(output.read_text())
    if before.pop("settings") != json.loads(json.dumps(world.settings(options))):
        return {}
    return {
        (label, Signal(name)): [
            Point(Signal(name), **{key: each[key] for key in each if key != "on_time_fraction"})
            for each in points
        ]
        for label, row in before.items()
        for name, points in row["points"].items()
    }


def _of(scene: Scene, kept: Kept) -> list[Point]:
    return [each for signal in FIRST for each in kept.get((scene.label, signal), [])]


def _rows(chosen: list[Scene], kept: Kept) -> dict[str, Any]:
    return {scene.label: _row(points) for scene in chosen if (points := _of(scene, kept))}


def _say(scene: Scene, signal: Signal, points: list[Point]) -> None:
    """Prints the points of one signal, as this takes long."""
    for each in points:
        print(
            f"{scene.label:30} {signal.value:17} {each.set_point:8.4g} {100 * each.on_time_fraction:7.2f} %"
            f" {each.replica_hours:7.2f} h  peak {each.peak_replicas:3.0f}  flaps {each.flaps:3.0f}",
            flush=True,
        )


def _behind(points: list[Point]) -> list[dict[str, Any]]:
    """Where the front of `desired_ratio` needs more than the bar allows, and than which signal, at `LOOKED_AT`.

    Without `extra` it has not so many on time at all. Below its cheapest point nothing is said of it.
    """
    fronts = {signal: front(mine) for signal, mine in by_signal(points).items()}
    ours = fronts.get(Signal.DESIRED_RATIO, [])
    found = []
    for fraction in LOOKED_AT:
        mine = hours_at(ours, fraction)
        hours = {signal: hours_at(each, fraction) for signal, each in fronts.items()}
        known = [(each, signal) for signal, each in hours.items() if each is not None]
        if not known or not ours or fraction < ours[0].on_time_fraction:
            continue
        least, best = min(known)
        if mine is None or mine > (1 + WITHIN) * least:
            extra = None if mine is None else mine / least - 1.0
            found.append({"fraction": fraction, "signal": best.value, "extra": extra})
    return found


def _row(points: list[Point]) -> dict[str, Any]:
    extras = extra_hours(points)
    ours = extras.get(Signal.DESIRED_RATIO, {})
    known = [extra for extra in ours.values() if extra is not None]
    behind = [at for at, extra in ours.items() if extra is None]
    # What no signal reaches says nothing; what another one reaches is one that ours does not.
    unreached = [at for at in behind if any(extras[other][at] is not None for other in extras)]
    fronts = {signal: front(mine) for signal, mine in by_signal(points).items()}
    return {
        **{f"desired_ratio, {100 * at:g} %": extra for at, extra in ours.items()},
        "extra": {
            signal.value: {f"{fraction:g}": extra for fraction, extra in mine.items()}
            for signal, mine in extras.items()
        },
        "behind": _behind(points),
        "set_points": {
            signal.value: {f"{fraction:g}": set_point_at(mine, fraction) for fraction in FRACTIONS}
            for signal, mine in fronts.items()
        },
        "replica_hours": {
            signal.value: {f"{fraction:g}": hours_at(mine, fraction) for fraction in FRACTIONS}
            for signal, mine in fronts.items()
        },
        "points": {
            signal.value: [
                {
                    **{key: value for key, value in asdict(each).items() if key != "signal"},
                    "on_time_fraction": each.on_time_fraction,
                }
                for each in mine
            ]
            for signal, mine in by_signal(points).items()
        },
        "ok": bool(known) and max(known) <= WITHIN and not unreached,
    }
