"""Every signal with every set-point on the same fleet and the same arrivals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

import numpy as np

from batcher.autoscaling import HpaSettings, KedaSettings
from batcher.clock import SECOND
from batcher.errors import InputError
from batcher.simulation.autoscale.controller import Autoscaler, Scaling
from batcher.simulation.autoscale.points import Point, point_of, pooled
from batcher.simulation.engine.simulation import generator
from batcher.simulation.fleet import FleetRun, FleetSettings, Signal, simulate_fleet
from batcher.simulation.traffic.arrivals import (
    MOST_REQUESTS,
    Process,
    Recorded,
    Times,
    arrival_times,
)
from batcher.simulation.traffic.day import Day
from batcher.simulation.traffic.multiplied import Multiplied
from batcher.simulation.traffic.workload import Traffic, Workload

START_NS: Final = 300 * SECOND
"""The fleet starts with what the first five minutes need: the time of the HPA's default window."""

START_LOAD: Final = 0.6
"""The part of its capacity that each of those replicas would carry."""

RunProgress = Callable[[str, int], None]
"""Called with what runs, and how many of its requests have arrived since the last call."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is tried on what.

    `set_points` has those of each signal. Of `fleet` the number of replicas at the start is not used where `start` is
    None: then the first minutes decide. `requests` and `duration_ns` end a run, else the arrivals do.
    """

    fleet: FleetSettings
    traffic: Traffic
    arrivals: Process
    set_points: Mapping[Signal, Sequence[float]]
    hpa: HpaSettings
    keda: KedaSettings | None = None
    average_ns: int = 0
    seeds: tuple[int, ...] = (0,)
    requests: int | None = None
    duration_ns: int | None = None
    start: int | None = None

    def load(self, seed: int) -> Workload:
        """Returns the requests of one run.

        Raises:
            InputError: there is none.
        """
        at_ns = self._moments(seed)
        if not len(at_ns):
            raise InputError("no request arrives; choose a longer --duration")
        return Workload.of(at_ns, self.traffic, generator(seed, "traffic"))

    def _moments(self, seed: int) -> Times:
        """The arrivals. Processes without an end are drawn until `duration_ns` is over, or `requests` are there."""
        process, duration_ns, count = self.arrivals, self.duration_ns, self.requests
        if isinstance(process, Day) and count is None and duration_ns is None:
            count = process.most_requests()
            if count > MOST_REQUESTS:
                raise InputError(
                    f"--arrivals: {count} requests would arrive in this day; allowed: at most {MOST_REQUESTS}"
                )
        endless = count is None and not isinstance(process, Recorded | Multiplied | Day)
        if endless and duration_ns is not None:
            count = int(process.rate * duration_ns / SECOND) + 100
            if count > MOST_REQUESTS:
                raise InputError(
                    f"--duration: {count} requests would arrive; allowed: at most {MOST_REQUESTS}"
                )
        while True:
            at_ns = arrival_times(
                process,
                generator(seed, "arrivals"),
                requests=count or MOST_REQUESTS,
                duration_ns=duration_ns,
            )
            if not endless or count is None or len(at_ns) < count or count >= MOST_REQUESTS:
                return at_ns
            count = min(2 * count, MOST_REQUESTS)

    def start_size(self, load: Workload) -> int:
        """Returns how many replicas there are at the start."""
        low, high = self.bounds
        if self.start is not None:
            return self.start
        span_ns = min(START_NS, int(load.at_ns[-1])) or 1
        first = int(np.searchsorted(load.at_ns, span_ns, side="right"))
        rate = first * SECOND / span_ns
        capacity = self.fleet.deployment.capacity(self.traffic)
        return min(max(ceil(rate / (START_LOAD * capacity)), low, 1), high)

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most replicas."""
        if self.keda is None:
            return self.hpa.min_replicas, self.hpa.max_replicas
        return self.keda.min_replicas, self.keda.max_replicas


def play(
    sweep: Sweep,
    signal: Signal,
    set_point: float,
    seed: int,
    load: Workload | None = None,
    progress: Callable[[int], None] | None = None,
) -> FleetRun:
    """Returns one run. Equal arguments give equal runs."""
    load = sweep.load(seed) if load is None else load
    scaling = Scaling(
        signal, set_point, sweep.hpa, sweep.keda, sweep.average_ns, sweep.fleet.scrape.interval_ns
    )
    conditions = replace(sweep.fleet.conditions, seed=seed)
    fleet = replace(sweep.fleet, conditions=conditions, replicas=sweep.start_size(load))
    return simulate_fleet(fleet, load, Autoscaler(scaling), progress=progress)


def points(sweep: Sweep, report: RunProgress, loads: Sequence[Workload]) -> Iterator[Point]:
    """Runs everything on the loads of the seeds; a point is yielded when its runs are over."""
    for signal, set_points in sweep.set_points.items():
        for set_point in set_points:
            runs = []
            what = f"{signal} {set_point:.3g}"
            for seed, load in zip(sweep.seeds, loads, strict=True):
                through = 0

                def progress(arrived: int, what: str = what) -> None:
                    nonlocal through
                    report(what, arrived - through)
                    through = arrived

                run = play(sweep, signal, set_point, seed, load, progress)
                progress(len(load))
                runs.append(point_of(signal, set_point, run))
            yield pooled(runs)
