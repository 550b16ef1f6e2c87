"""Policies side by side: the same arrivals, mixes and noise for each, over several seeds and rates.

An `Experiment` says what is compared; `cells` runs it. A cell is one policy at one rate: the runs of
all its seeds, pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Final, TypeAlias

import numpy as np

from batcher.clock import SECOND
from batcher.errors import InputError
from batcher.simulation.compare.optimum import on_time_optimum
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.simulation import ClosedLoop, Conditions, Run, generator, simulate
from batcher.simulation.policies.named import NamedPolicy
from batcher.simulation.traffic.arrivals import (
    MOST_REQUESTS,
    Closed,
    Process,
    Recorded,
    Times,
    arrival_times,
)
from batcher.simulation.traffic.day import Day
from batcher.simulation.traffic.workload import Traffic, Workload

DEFAULT_REQUESTS: Final = 30_000
"""Requests of a run for which neither a number nor a duration is given."""

NO_CONDITIONS: Final = Conditions()

RunProgress: TypeAlias = Callable[[str, int], None]
"""Called with what runs, and how many of its requests have arrived since the last call."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is simulated, under which policies, at which rates.

    `rates` holds requests a second; None keeps the rate of the arrivals.
    """

    deployment: Deployment
    traffic: Traffic
    arrivals: Process | Closed
    policies: tuple[NamedPolicy, ...]
    rates: tuple[float | None, ...] = (None,)
    seeds: tuple[int, ...] = (0,)
    requests: int | None = None
    """At most so many requests a run; None: as many as `duration_ns` or the trace has."""
    duration_ns: int | None = None
    conditions: Conditions = NO_CONDITIONS

    def __post_init__(self) -> None:
        arrivals = self.arrivals
        if isinstance(arrivals, Closed):
            if self.rates != (None,):
                raise InputError("--rate and --load: callers in a closed loop set their own rate")
        elif None in self.rates and not (arrivals.rate or isinstance(arrivals, Recorded)):
            raise InputError(
                "--arrivals: got no rate; write poisson:800 for 800 requests a second, or give"
                " --rate, or --load with a share of capacity"
            )
        if self.requests is not None and self.requests > MOST_REQUESTS:
            raise InputError(f"--requests: got {self.requests}; allowed: at most {MOST_REQUESTS}")
        devices = dict.fromkeys(model.device for model in self.deployment.models)
        for slowdown in self.conditions.slowdowns:
            if slowdown.device is not None and slowdown.device not in devices:
                allowed = ", ".join(devices)
                raise InputError(
                    f"--slowdown: got the device {slowdown.device!r}; allowed: {allowed}"
                )

    def expected(self) -> int:
        """Requests of all runs together, about."""
        runs = len(self.policies) * len(self.seeds)
        return runs * sum(self._most_requests(rate) for rate in self.rates)

    def load(self, rate: float | None, seed: int) -> Workload | ClosedLoop:
        """The requests of one run. Raises `InputError` when there is none."""
        mixes = generator(seed, "traffic")
        if isinstance(self.arrivals, Closed):
            nothing: Times = np.zeros(self._most_requests(None), np.int64)
            workload = Workload.of(nothing, self.traffic, mixes)
            closed = self.arrivals
            return ClosedLoop(closed.callers, workload, closed.think_ns, self.duration_ns)
        at_ns = self._arrival_times(self.arrivals, rate, seed)
        if not len(at_ns):
            raise InputError("no request arrives; choose a longer --duration")
        return Workload.of(at_ns, self.traffic, mixes)

    def _arrival_times(self, process: Process, rate: float | None, seed: int) -> Times:
        if rate is not None:
            process = process.at_rate(rate)
        count = self._most_requests(rate)
        while True:
            at_ns = arrival_times(
                process, generator(seed, "arrivals"), requests=count, duration_ns=self.duration_ns
            )
            cut_short = self.requests is None and self.duration_ns is not None
            if not cut_short or len(at_ns) < count or isinstance(process, Recorded):
                return at_ns
            count = self._checked(2 * count)

    def _most_requests(self, rate: float | None) -> int:
        """How many requests to draw: as many as are asked for, or as the duration should need."""
        arrivals = self.arrivals
        if self.requests is not None:
            return self.requests
        if isinstance(arrivals, Recorded):
            return len(arrivals.recorded_s)
        if isinstance(arrivals, Day) and self.duration_ns is None:
            day = arrivals if rate is None else arrivals.at_rate(rate)
            return self._checked(day.most_requests())
        if self.duration_ns is None:
            return DEFAULT_REQUESTS
        if isinstance(arrivals, Closed):
            # No caller is answered more often than that; one that is refused at once may ask more often.
            rate = 2 * self.deployment.capacity(self.traffic)
        elif rate is None:
            rate = arrivals.rate
        mean = rate * self.duration_ns / SECOND
        return self._checked(ceil(mean + 10 * sqrt(mean) + 100))

    @staticmethod
    def _checked(count: int) -> int:
        if count > MOST_REQUESTS:
            raise InputError(
                f"--duration: {count} requests would arrive; allowed: at most {MOST_REQUESTS}"
            )
        return count


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy at one rate: a run for each seed, and the optimum of each where there is one."""

    rate: float | None
    runs: tuple[Run, ...]
    optimum: tuple[int, ...] | None = None
    """Requests that the best schedule would serve on time, by seed."""


def cells(experiment: Experiment, report: RunProgress, *, optimum: bool = True) -> Iterator[Cell]:
    """Run everything, rate by rate; each policy's cell is yielded when its runs are over."""
    bounded = optimum and optimum_missing(experiment) is None
    for rate in experiment.rates:
        loads = [experiment.load(rate, seed) for seed in experiment.seeds]
        best: tuple[int, ...] | None = None
        if bounded:
            report("optimum", 0)
            best = tuple(_optimum(experiment.deployment, load) for load in loads)
        for policy in experiment.policies:
            runs = _runs(experiment, policy, loads, report)
            yield Cell(rate, tuple(runs), best)


def _runs(
    experiment: Experiment,
    policy: NamedPolicy,
    loads: Sequence[Workload | ClosedLoop],
    report: RunProgress,
) -> Iterator[Run]:
    for seed, load in zip(experiment.seeds, loads, strict=True):
        through = 0

        def progress(arrived: int) -> None:
            nonlocal through
            report(policy.name, arrived - through)
            through = arrived

        conditions = replace(experiment.conditions, seed=seed)
        yield simulate(experiment.deployment, policy, load, conditions, progress)


def optimum_missing(experiment: Experiment) -> str | None:
    """Why there is no optimum to compare with; None where there is one."""
    deployment = experiment.deployment
    if isinstance(experiment.arrivals, Closed):
        return "in a closed loop the arrivals depend on the policy"
    if len(deployment.models) > 1:
        return f"there are {len(deployment.models)} models"
    if deployment.models[0].settings.target_ns is None:
        return f"model {deployment.models[0].name!r} has no target_p99"
    slots = sum(deployment.device_slots().values())
    if slots > 1:
        return f"{slots} batches run at once"
    if experiment.traffic.rows.values != (1,):
        return "requests have more than one row"
    return None


def _optimum(deployment: Deployment, load: Workload | ClosedLoop) -> int:
    model = deployment.models[0]
    target_ns = model.settings.target_ns
    assert isinstance(load, Workload)  # noqa: S101 - `optimum_missing` checked both
    assert target_ns is not None  # noqa: S101
    return on_time_optimum(load.at_ns, model.curve, target_ns)
