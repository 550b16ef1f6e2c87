"""Figures that must survive a change of policy, as JSON: `compare` takes them of two checkouts.

It uses nothing but what other versions have as well: `world` of the checkout that is measured, the
configuration's defaults, and the simulator.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

BENCH = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder `bench` of the checkout that is measured: of this one if none is named.
    MEASURED = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else BENCH
    sys.path[:0] = [str(MEASURED / "sim"), str(MEASURED)]

import numpy as np  # noqa: E402
import world  # noqa: E402

from batcher.clock import MILLISECOND, SECOND  # noqa: E402
from batcher.config import BatchingConfig  # noqa: E402
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits  # noqa: E402
from batcher.simulation.compare.optimum import drops_needed, on_time_optimum  # noqa: E402
from batcher.simulation.engine.deployment import Deployment, SimulatedModel  # noqa: E402
from batcher.simulation.engine.simulation import ClosedLoop, Conditions, simulate  # noqa: E402
from batcher.simulation.policies.named import NamedPolicy, parse_policy  # noqa: E402
from batcher.simulation.traffic.workload import Mix, Traffic, Workload  # noqa: E402

ON_TIME: Final = 0.99
LEAST_SHARE: Final = 0.6
"""Where the search for a cell's rate begins, as a share of the optimum's; lower if that fails."""

STEPS: Final = 8
"""Steps of that search: as fine as 0.2 %."""

CALLERS: Final = (
    *((callers, 0, 0) for callers in (1, 4, 16)),
    *((callers, 0, 90) for callers in (2, 8, 24)),
    *((callers, think_ms, 40) for callers in (4, 16) for think_ms in (0, 20)),
)
"""Closed loops: callers, milliseconds that they think, microseconds between two answers."""

LOADS: Final = (0.1, 0.3, 0.5, 0.7)
OVERLOAD_S: Final = 5
"""Seconds that an overload, or a slow device, lasts."""

WINDOW_NS: Final = 100 * MILLISECOND
"""Requests are on time again from the first such window on after which no window has less than
`AGAIN` of them in time."""

AGAIN: Final = 0.95


def _as_configured(settings: ModelSettings) -> ModelSettings:
    """Under `policy: adaptive` with what a configuration has by default for this target."""
    target_ns = settings.target_ns
    batching = {"policy": "adaptive", "max_batch_size": settings.max_batch_size}
    if target_ns is not None:
        batching["target_p99"] = f"{target_ns}ns" if target_ns % 1000 else f"{target_ns // 1000}us"
    wanted = BatchingConfig.model_validate(batching).policy_settings()
    return replace(settings, policy=wanted)


ADAPTIVE: Final = NamedPolicy("adaptive", _as_configured)
"""The policy with the defaults of the version that is measured."""


def grid(options: argparse.Namespace) -> dict[str, float]:
    """The highest rate with 99 % in time as a share of the optimum's, in percent, by cell."""
    found = {}
    for name, profile in world.PROFILES.items():
        for process in world.PROCESSES:
            shares = [
                _share(profile, process, seed, options.requests) for seed in range(options.seeds)
            ]
            found[f"{name} {process}"] = statistics.fmean(shares)
    return found


def _share(profile: world.Profile, process: str, seed: int, requests: int) -> float:
    unit = world.unit_arrivals(process, seed, requests)
    allowed = int((1 - ON_TIME) * requests)

    def optimum(rate: float) -> bool:
        at_ns = world.at_rate(unit, rate)
        return drops_needed(at_ns, profile.curve, profile.target_ns, allowed) is not None

    def holds(rate: float) -> bool:
        stream = world.Stream(world.at_rate(unit, rate))
        played = world.play([stream], {"m": world.Served(profile, ADAPTIVE)})
        return bool(played.in_time(0, profile.target_ns).mean() >= ON_TIME)

    best = world.highest(0.01 * profile.rate, 1.2 * profile.rate, STEPS + 3, optimum)
    least = LEAST_SHARE * best
    low, high = (least, 1.02 * best) if holds(least) else (0.1 * best, least)
    return 100 * world.highest(low, high, STEPS, holds) / best


def goodput(options: argparse.Namespace) -> dict[str, float]:
    """Answers in time as a share of the optimum's, at 1.5 x and 3 x what can be served."""
    found = {}
    for name, profile in world.PROFILES.items():
        for factor in (1.5, 3.0):
            shares = []
            for seed in range(options.seeds):
                rate = factor * profile.rate
                at_ns = world.poisson(rate, 5 * options.requests / rate, seed)
                played = world.play([world.Stream(at_ns)], {"m": world.Served(profile, ADAPTIVE)})
                best = on_time_optimum(at_ns, profile.curve, profile.target_ns)
                shares.append(played.in_time(0, profile.target_ns).sum() / best)
            found[f"{name} at {factor} x"] = statistics.fmean(shares)
    return found


def loops(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Closed loops beside greedy batching: throughput and p99 as ratios."""
    profile = world.PROFILES["linear50"]
    found = {}
    for callers, think_ms, reply_us in CALLERS:
        rates, p99 = [], []
        for policy in (ADAPTIVE, parse_policy("greedy")):
            settings = ModelSettings(32, Adaptive(), QueueLimits(), profile.target_ns)
            model = SimulatedModel("m", settings, profile.curve, warmup_sizes=world.WARMUP)
            draw = np.random.default_rng(0)
            times = np.zeros(options.requests, np.int64)
            work = Workload.of(times, Traffic(Mix(("m",), (1.0,))), draw)
            loop = ClosedLoop(callers, work, think_ns=think_ms * MILLISECOND)
            conditions = Conditions(reply_ns=reply_us * 1000)
            run = simulate(Deployment((model,), {}), policy, loop, conditions)
            took_ns = run.settled_ns - run.workload.at_ns
            rates.append(len(took_ns) * SECOND / run.ended_ns)
            p99.append(float(np.percentile(took_ns, 99)))
        label = f"{callers} callers, {think_ms} ms, {reply_us} us"
        found[label] = {"throughput": rates[0] / rates[1], "p99": p99[0] / p99[1]}
    return found


def utilization(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The device's busy share and the share in time, by load."""
    profile = world.PROFILES["linear100"]
    found = {}
    for load in LOADS:
        busy, on_time = [], []
        for seed in range(options.seeds):
            unit = world.unit_arrivals("poisson", seed, options.requests)
            stream = world.Stream(world.at_rate(unit, load * profile.rate))
            played = world.play([stream], {"m": world.Served(profile, ADAPTIVE)})
            busy.append(played.busy_ns / played.ended_ns)
            on_time.append(float(played.in_time(0, profile.target_ns).mean()))
        found[f"load {load}"] = {
            "busy": statistics.fmean(busy),
            "in_time": statistics.fmean(on_time),
        }
    return found


def recovery(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds after a bad time until requests are on time again, and their share from two limits on."""
    found = {}
    for name in ("linear50", "vgg100"):
        profile = world.PROFILES[name]
        bad: dict[str, list[tuple[float, float]]] = {"overload": [], "slow device": []}
        for seed in range(options.seeds):
            for kind, figures in bad.items():
                figures.append(_after(profile, kind, seed))
        for kind, figures in bad.items():
            found[f"{name} after {kind}"] = {
                "again_s": max(again_s for again_s, _ in figures),
                "in_time": statistics.fmean(share for _, share in figures),
            }
    return found


def limit_ns(profile: world.Profile) -> int:
    """The longest useful wait by default: ten targets, at least a second."""
    return max(10 * profile.target_ns, SECOND)


def _after(profile: world.Profile, kind: str, seed: int) -> tuple[float, float]:
    """Seconds until on time again, and the share in time of three seconds from two limits on."""
    begins_s, ends_s = 2, 2 + OVERLOAD_S
    settled_s = ends_s + 2 * limit_ns(profile) / SECOND
    at_ns = world.poisson(0.75 * profile.rate, settled_s + 4, seed)
    slow = None
    if kind == "overload":
        more = world.poisson(2.25 * profile.rate, OVERLOAD_S, seed + 100, begins_s)
        at_ns = sorted(at_ns + more)
    else:
        slow = (begins_s * SECOND, ends_s * SECOND, 3.0)
    played = world.play([world.Stream(at_ns)], {"m": world.Served(profile, ADAPTIVE)}, slow=slow)
    came, good = played.arrived[0], played.in_time(0, profile.target_ns)
    later = (came >= settled_s * SECOND) & (came < (settled_s + 3) * SECOND)
    again_ns = again_after(came, good, ends_s * SECOND)
    return again_ns / SECOND, float(good[later].mean())


def again_after(came_ns: Any, good: Any, from_ns: int) -> int:
    """Nanoseconds after `from_ns` from which on every window has `AGAIN` of its requests in time."""
    places = (came_ns - from_ns) // WINDOW_NS
    last = -1
    for place in range(int(places.max()) + 1):
        here = good[places == place]
        if len(here) and here.mean() < AGAIN:
            last = place
    return (last + 1) * WINDOW_NS


FIGURES: Final[dict[str, Callable[[argparse.Namespace], dict[str, Any]]]] = {
    each.__name__: each for each in (grid, goodput, loops, utilization, recovery)
}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of this process's version."""
    return {name: figures(options) for name, figures in FIGURES.items()}


def main() -> None:
    """Write the figures to the standard output."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("bench", help="the folder `bench` of the checkout that is measured")
    given.add_argument("--requests", type=int, default=6000)
    given.add_argument("--seeds", type=int, default=3)
    print(json.dumps(measured(given.parse_args())))


if __name__ == "__main__":
    main()
