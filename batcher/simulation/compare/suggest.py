"""Which target, batch size, buckets and limit suit measured service times and a load.

The production scheduler answers, in virtual time, under the very settings that are suggested:

1. `max_batch_size`: of the measured sizes, from the smallest on, each is taken that serves at least
   `Goal.gain` more rows a second than the one taken before.
2. `target_p99`: the shortest of round times at which at least `Goal.in_time` of the requests are
   answered in time, at the rate plus `Goal.headroom`.
3. Buckets, where the model is padded and lengths are known: those with the shortest such target, of
   the configured ones and of the best 1 to 8; the fewest of equal ones.
4. `limit`: the default that goes with the target, or the callers' deadline if they have one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, expm1, log, log2, sqrt
from statistics import median
from typing import Any, Final

import numpy as np

from batcher.clock import MICROSECOND, MILLISECOND, SECOND
from batcher.config import Config, ModelConfig, format_duration
from batcher.config.batching import BatchingConfig
from batcher.config.policies import default_limit_ns
from batcher.core.settings import PaddedAxis
from batcher.simulation.compare.experiment import NO_CONDITIONS, Experiment, cells
from batcher.simulation.compare.report import Summary, summarize
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.profile import ModelProfile, SizeProfile, medians_ns
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.engine.service_time import Curve, Noise, from_table
from batcher.simulation.engine.simulation import Conditions
from batcher.simulation.policies.named import CONFIGURED, parse_policy
from batcher.simulation.traffic.arrivals import Process, Recorded
from batcher.simulation.traffic.buckets import propose
from batcher.simulation.traffic.workload import Mix, Traffic

ROUND: Final = (10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
"""Round times in each power of ten: a person would not ask for finer steps, which are 20 to 33 %."""

MOST_FULL_BATCHES: Final = 50
"""The longest target that is tried, in full batches: what waits longer than that waits in a backlog that
does not end, and no target helps. 30 % off ends the search one round time earlier or later."""

RUN_IN_TARGETS: Final = 5
"""A run lasts at least so many targets, or it could not tell a burst, which ends within a target, from
a load that is too high. 30 % off changes how long the longest targets take to try."""

SWEEP: Final = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Rates that are tried where none is given, as shares of capacity; with 20 % of headroom the last is
96 % of capacity."""

CURVE: Final = tuple(step / 10 for step in range(1, 14))
"""Rates of the curve of latency, as shares of capacity: from nearly idle to an overload of 30 %."""

P90: Final = 1.2816
"""The 90 % quantile of the normal distribution, in standard deviations. The quantile is low enough that
one slow batch of the 20 that are measured does not decide it."""

MOST_BUCKETS: Final = 8
"""The most buckets that are proposed, as by `batcher buckets`."""

ONE_ROW: Final = Mix((1,), (1.0,))

Report = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """What the suggestion has to hold. Shares of one."""

    in_time: float = 0.99
    headroom: float = 0.2
    gain: float = 0.05


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives. `rate` of the arrivals is 0 where none is known."""

    arrivals: Process
    rows: Mix[int] = ONE_ROW
    lengths: Counter[int] | None = None
    """Length -> how many requests had it; None where nothing is known of lengths."""
    deadline_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """One run: the settings, the rate that was offered, and what came of it."""

    size: int
    target_ns: int
    buckets: tuple[int, ...]
    summary: Summary

    @property
    def in_time(self) -> float:
        """The share of all requests that was answered in time."""
        return self.summary.counts.on_time / self.summary.counts.requests


@dataclass(frozen=True, slots=True)
class Found:
    """The shortest target for one rate, or None where no target holds the goal."""

    rate: float
    size: int
    buckets: tuple[int, ...]
    target_ns: int | None
    tried: tuple[Tried, ...]
    """At the rate plus headroom, by target."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A model, its measured times, and the load it is to serve."""

    config: Config
    name: str
    model: ModelConfig
    profile: ModelProfile
    load: Load
    goal: Goal = Goal()
    conditions: Conditions = NO_CONDITIONS
    requests: int = 10_000
    seeds: int = 1
    noise: Noise | None = None
    """None: as the measured times vary."""
    report: Report = field(default=lambda _what, _steps: None)

    @property
    def configured_buckets(self) -> tuple[int, ...]:
        """The buckets of the only padded axis, or of axes with equal ones; else empty."""
        lists = {each.buckets for each in self.model.padding}
        return lists.pop() if len(lists) == 1 and self.profile.buckets else ()

    @property
    def lengths(self) -> Counter[int]:
        """Lengths of the requests that the last bucket holds; each bucket's equally often where unknown."""
        buckets = self.configured_buckets
        known = self.load.lengths or Counter(dict.fromkeys(buckets, 1))
        fitting = Counter({n: seen for n, seen in known.items() if n <= max(buckets, default=0)})
        return fitting or Counter(dict.fromkeys(buckets, 1))

    def batching(self, size: int, target_ns: int) -> dict[str, Any]:
        """The section `batching` of these settings, as the file has it."""
        kept = {}
        if self.model.batching.policy == "adaptive":
            mine = self.model.batching.model_dump(mode="json", exclude_defaults=True)
            kept = {k: mine[k] for k in ("utilization_target", "late_share") if k in mine}
        limit = "deadline"
        if self.load.deadline_ns is None:
            limit = in_units(default_limit_ns(target_ns) or 0)
        return {
            "policy": "adaptive",
            "max_batch_size": size if self.model.batching.max_batch_size else 0,
            "target_p99": in_units(target_ns),
            "limit": limit,
        } | kept

    def deployment(self, size: int, target_ns: int, buckets: tuple[int, ...]) -> Deployment:
        """What is simulated: this model alone, under these settings."""
        changed = self.model.model_copy(
            update={"batching": BatchingConfig.model_validate(self.batching(size, target_ns))}
        )
        key = (self.model.name, self.model.version)
        noise = self.noise or spread_of(self.profile)
        costs = Costs(profiles={key: self.profile}, noise=noise)
        whole = self.config.model_copy(
            update={"models": tuple(changed if m is self.model else m for m in self.config.models)}
        )
        made = deployment_of(whole, Mix.of((self.name, 1.0)), costs)
        (simulated,) = made.models
        sizes = tuple(each for each in sizes_of(self.profile) if each <= size)
        simulated = replace(simulated, warmup_sizes=sizes)
        if buckets:
            curves = {length: curve_at(self.profile, length, size) for length in buckets}
            settings = replace(simulated.settings, padding=(PaddedAxis(0, 1, buckets),))
            mean = _mean_curve(curves, self.lengths)
            simulated = replace(simulated, settings=settings, curve=mean, buckets=curves)
        return replace(made, models=(simulated,))

    def traffic(self, buckets: tuple[int, ...]) -> Traffic:
        """The mixes of the requests."""
        lengths = None
        if buckets:
            lengths = Mix.of(*((length, float(n)) for length, n in sorted(self.lengths.items())))
        return Traffic(Mix.of((self.name, 1.0)), self.load.rows, lengths=lengths)

    def capacity(self, size: int, buckets: tuple[int, ...]) -> float:
        """Requests a second of the devices alone."""
        longest_ns = self._longest_ns(size, buckets)
        return self.deployment(size, longest_ns, buckets).capacity(self.traffic(buckets))

    def expected(self, rate: float | None) -> int:
        """Requests of all runs together, at most."""
        size = max(self.profile.sizes)
        searches = 1
        if not (rate or self.load.arrivals.rate):
            searches = len(SWEEP)
        elif self.configured_buckets and self.load.lengths:
            searches = 1 + MOST_BUCKETS
        each = 1 + ceil(log2(len(self.targets(size, self.configured_buckets))))
        return (searches * each + len(CURVE)) * self.requests * self.seeds

    def run(self, size: int, target_ns: int, buckets: tuple[int, ...], rate: float) -> Tried:
        """Play the load at this rate under these settings."""
        deployment, traffic = self.deployment(size, target_ns, buckets), self.traffic(buckets)
        experiment = Experiment(
            deployment,
            traffic,
            self.load.arrivals,
            (parse_policy(CONFIGURED),),
            (rate,),
            tuple(range(self.conditions.seed, self.conditions.seed + self.seeds)),
            max(self.requests, ceil(RUN_IN_TARGETS * target_ns * rate / SECOND)),
            None,
            replace(self.conditions, deadline_ns=self.load.deadline_ns),
        )
        said = f"{in_units(target_ns)} at {rate:,.0f}/s"
        (cell,) = cells(experiment, lambda _name, n: self.report(said, n), optimum=False)
        return Tried(size, target_ns, buckets, summarize(cell, deployment.capacity(traffic)))

    def _longest_ns(self, size: int, buckets: tuple[int, ...]) -> int:
        last = self.profile.buckets.get(max(buckets)) if buckets else None
        return MOST_FULL_BATCHES * from_table(medians_ns(last or self.profile.sizes), size)[size]

    def targets(self, size: int, buckets: tuple[int, ...], rate: float = 0.0) -> list[int]:
        """The round times that are tried: from what one row takes to a backlog that does not end.

        A trace that is played at `rate` lasts `RUN_IN_TARGETS` of the longest, or one target is left.
        """
        shortest = curve_at(self.profile, min(buckets), 1) if buckets else None
        one_ns = (shortest or from_table(self.profile.medians_ns(), 1))[1]
        longest_ns, arrivals = self._longest_ns(size, buckets), self.load.arrivals
        if rate and isinstance(arrivals, Recorded):
            lasts_ns = round(len(arrivals.recorded_s) / rate * SECOND)
            longest_ns = min(longest_ns, lasts_ns // RUN_IN_TARGETS)
        return round_times(one_ns, longest_ns)


def in_units(duration_ns: int) -> str:
    """A duration as people write it, such as 120ms, where the shortest text would be 0.12s."""
    for unit, name in ((SECOND, "s"), (MILLISECOND, "ms"), (MICROSECOND, "us")):
        if duration_ns >= unit and duration_ns % unit == 0:
            return f"{duration_ns // unit}{name}"
    return format_duration(duration_ns)


def sizes_of(profile: ModelProfile) -> list[int]:
    """The measured batch sizes, ascending."""
    return sorted(profile.sizes)


def row_rates(asked: Asked) -> dict[int, float]:
    """Measured batch size -> rows a second of batches of that size, one after the other."""
    buckets = asked.configured_buckets
    if not buckets:
        return {
            rows: rows * 1e9 / took_ns
            for rows, took_ns in sorted(asked.profile.medians_ns().items())
        }
    curves = {n: curve_at(asked.profile, n, max(asked.profile.sizes)) for n in buckets}
    mean = _mean_curve(curves, asked.lengths)
    return {rows: rows * 1e9 / mean[rows] for rows in sizes_of(asked.profile)}


def largest_that_helps(rates: Mapping[int, float], gain: float) -> int:
    """From the smallest size on, each that serves `gain` more rows a second than the one before it."""
    best, *others = sorted(rates)
    for size in others:
        if rates[size] >= (1.0 + gain) * rates[best]:
            best = size
    return best


def round_times(shortest_ns: int, longest_ns: int) -> list[int]:
    """Round times from the least that is not below `shortest_ns`, to the first that reaches `longest_ns`."""
    found: list[int] = []
    scale = MICROSECOND // 10
    while not found or found[-1] < longest_ns:
        for step in ROUND:
            if step * scale >= shortest_ns and (not found or found[-1] < longest_ns):
                found.append(step * scale)
        scale *= 10
    return found


def shortest_target(asked: Asked, size: int, buckets: tuple[int, ...], rate: float) -> Found:
    """The shortest target that holds the goal at this rate plus headroom.

    It is found by bisection: a longer target is taken to leave no fewer requests in time. None holds
    where more is offered than the devices alone can serve.
    """
    offered = rate * (1.0 + asked.goal.headroom)
    targets = asked.targets(size, buckets, offered)
    tried: dict[int, Tried] = {}

    def holds(place: int) -> bool:
        target_ns = targets[place]
        tried[target_ns] = asked.run(size, target_ns, buckets, offered)
        return tried[target_ns].in_time >= asked.goal.in_time

    low, high = 0, len(targets) - 1
    found = None
    if holds(high) and offered < asked.capacity(size, buckets):
        while low < high:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle + 1
        found = targets[high]
    return Found(rate, size, buckets, found, tuple(tried[each] for each in sorted(tried)))


def best_buckets(asked: Asked, size: int, rate: float) -> list[Found]:
    """The shortest target with the configured buckets and with the best 1 to 8, the best first."""
    configured = asked.configured_buckets
    choices = [configured]
    if configured and asked.load.lengths:
        most = propose(asked.lengths, MOST_BUCKETS, longest=configured[-1])
        choices += [each.lengths for each in most]
    found = [shortest_target(asked, size, each, rate) for each in dict.fromkeys(choices)]
    held = [each for each in found if each.target_ns is not None]
    return sorted(held or found[:1], key=lambda each: (each.target_ns, len(each.buckets)))


def curve(asked: Asked, found: Found, target_ns: int) -> list[Tried]:
    """The suggested settings at rates from nearly idle to an overload."""
    capacity = asked.capacity(found.size, found.buckets)
    return [asked.run(found.size, target_ns, found.buckets, share * capacity) for share in CURVE]


def spread_of(profile: ModelProfile) -> Noise:
    """Random service times that vary as the measured ones: by the median of p90 / p50 over all sizes."""
    every: Iterable[Mapping[int, SizeProfile]] = profile.buckets.values() or (profile.sizes,)
    sigmas = [
        log(max(1.0, size.quantiles["p90"] / size.quantiles["p50"])) / P90
        for sizes in every
        for size in sizes.values()
    ]
    sigma = median(sigmas)
    return Noise("lognormal", sqrt(expm1(sigma * sigma)) if sigma else 0.0)


def curve_at(profile: ModelProfile, length: int, most_rows: int) -> Curve:
    """The service times of a bucket; between two measured buckets they lie on a straight line."""
    measured = sorted(profile.buckets)
    curves = [from_table(medians_ns(profile.buckets[each]), most_rows) for each in measured]
    times = [
        round(float(np.interp(length, measured, [each[rows] for each in curves])))
        for rows in range(1, most_rows + 1)
    ]
    return (0, *times)


def _mean_curve(curves: Mapping[int, Curve], lengths: Counter[int]) -> Curve:
    """The mean of the buckets' curves, by the share of requests in each."""
    ends: Sequence[int] = sorted(curves)
    weights: Counter[int] = Counter()
    for length, seen in lengths.items():
        weights[ends[min(int(np.searchsorted(ends, length)), len(ends) - 1)]] += seen
    rows = np.average(
        [curves[end] for end in ends], axis=0, weights=[weights[end] or 1e-9 for end in ends]
    )
    return tuple(np.rint(rows).astype(np.int64).tolist())
