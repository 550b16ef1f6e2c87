"""What a serving team asks of a scheduler besides its capacity, one scene each."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import autoscale
import autoscale_others
import bursts
import compare
import faults
import fleets
import generations
import grid
import groups
import lengths
import loops
import lost
import memory
import neighbors
import numpy as np
import pipelining
import recovery
import scale
import sizes
import stalls
import unknowable
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.config import BatchingConfig, parse_config
from batcher.core.settings import QueueLimits
from batcher.simulation.compare.experiment import Experiment, cells
from batcher.simulation.compare.optimum import on_time_optimum
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.engine.simulation import ClosedLoop, Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.arrivals import Closed, Poisson
from batcher.simulation.traffic.traces import read_trace
from batcher.simulation.traffic.workload import Mix, Traffic, Workload


def _least(name: str, by_seed: Sequence[float], bar: float) -> dict[str, Any]:
    """A share's mean over the seeds, which the bar is for, and beside it that of the worst seed."""
    mean = statistics.fmean(by_seed)
    return {name: mean, f"{name}_least": min(by_seed), "ok": mean >= bar}


def overload(options: argparse.Namespace) -> dict[str, Any]:
    """Goodput at 1.5 x and 3 x what can be served, and the time after it."""
    found: dict[str, Any] = {}
    for name, profile in world.PROFILES.items():
        for factor in (1.5, 3.0):
            shares = []
            for seed in range(options.seeds):
                seconds = options.requests / (factor * profile.rate)
                at_ns = world.poisson(factor * profile.rate, seconds, seed)
                served = world.Served(profile, world.ADAPTIVE)
                played = world.play([world.Stream(at_ns)], {"m": served})
                best = on_time_optimum(at_ns, profile.curve, profile.target_ns)
                shares.append(played.in_time(0, profile.target_ns).sum() / best)
            found[f"{name} at {factor} x"] = _least("goodput_of_optimum", shares, 0.95)
    profile = world.PROFILES["linear50"]
    after_ns = 4 * SECOND + 2 * profile.target_ns
    for policy in (world.ADAPTIVE, world.REFUSES_LATE):
        for factor in (1.5, 3.0):
            fractions = []
            for seed in range(options.seeds):
                at_ns = sorted(
                    world.poisson(0.8 * profile.rate, 2, seed)
                    + world.poisson(factor * profile.rate, 2, seed + 100, 2)
                    + world.poisson(0.75 * profile.rate, 6, seed + 200, 4)
                )
                played = world.play([world.Stream(at_ns)], {"m": world.Served(profile, policy)})
                came = played.arrived[0]
                window = (came >= after_ns) & (came < after_ns + 5 * SECOND)
                fractions.append(played.in_time(0, profile.target_ns)[window].mean())
            found[f"after {factor} x, {policy.name}"] = _least("on_time", fractions, 0.99)
        recovered = []
        for seed in range(options.seeds):
            at_ns = world.poisson(0.75 * profile.rate, 12, seed)
            slow = (4 * SECOND, 6 * SECOND, 12.0)
            served = world.Served(profile, policy)
            played = world.play([world.Stream(at_ns)], {"m": served}, slow=slow)
            came = played.arrived[0]
            window = (came >= 8 * SECOND) & (came < 10 * SECOND)
            recovered.append(played.in_time(0, profile.target_ns)[window].mean())
        label = f"2 s after a device was 12 x slower, {policy.name}"
        found[label] = _least("on_time", recovered, 0.98)
    return found | _two_shapes(options, profile)


def _two_shapes(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """The same slow spell, with requests of two shapes that share no batch: each must recover."""
    on_time: dict[str, list[float]] = {"first": [], "second": []}
    for seed in range(options.seeds):
        streams = [
            world.Stream(world.poisson(100, 12, 10 * seed + place), shapes=((place + 1,),))
            for place in range(len(on_time))
        ]
        slow = (4 * SECOND, 6 * SECOND, 12.0)
        served = world.Served(profile, world.ADAPTIVE)
        played = world.play(streams, {"m": served}, slow=slow)
        for place, shares in enumerate(on_time.values()):
            came = played.arrived[place]
            window = (came >= 8 * SECOND) & (came < 10 * SECOND)
            shares.append(played.in_time(place, profile.target_ns)[window].mean())
    label = f"2 s after a device was 12 x slower, {world.ADAPTIVE.name}, the {{}} of two shapes"
    return {label.format(name): _least("on_time", each, 0.98) for name, each in on_time.items()}


def closed(options: argparse.Namespace) -> dict[str, Any]:
    """Callers that wait for their answers: windows must not slow them down."""
    profile = world.PROFILES["linear50"]
    found: dict[str, Any] = {}
    cases = [(callers, 0, 0) for callers in (1, 2, 4, 8, 16)]
    # Answers that leave one after the other, and callers that think, come back one by one.
    cases += [(callers, 0, 90) for callers in (2, 3, 4, 5, 6, 7, 8, 12, 16, 24)]
    cases += [(callers, think_ms, 40) for callers in (4, 16) for think_ms in (0, 20, 40)]
    for callers, think_ms, reply_us in cases:
        measured = {}
        for name in ("adaptive", "greedy"):
            batching = BatchingConfig(max_batch_size=32, target_p99="50ms")
            settings = world.ModelSettings(
                32, batching.policy_settings(), QueueLimits(), profile.target_ns
            )
            model = SimulatedModel("m", settings, profile.curve, warmup_sizes=world.WARMUP)
            traffic = Traffic(Mix(("m",), (1.0,)))
            draw = np.random.default_rng(0)
            times = np.zeros(options.requests // 2, np.int64)
            work = Workload.of(times, traffic, draw)
            loop = ClosedLoop(Closed(callers).callers, work, think_ns=think_ms * MILLISECOND)
            conditions = Conditions(reply_ns=reply_us * 1000)
            run = simulate(Deployment((model,), {}), parse_policy(name), loop, conditions)
            took_ns = run.settled_ns - run.workload.at_ns
            measured[name] = (
                len(took_ns) * SECOND / run.ended_ns,
                float(np.percentile(took_ns, 99)) / MILLISECOND,
            )
        throughput = measured["adaptive"][0] / measured["greedy"][0]
        p99 = measured["adaptive"][1] / measured["greedy"][1]
        label = f"{callers} callers"
        if reply_us:
            label += f" that think for {think_ms} ms, an answer every {reply_us} us"
        found[label] = {
            "throughput_ratio": throughput,
            "p99_ratio": p99,
            "ok": throughput >= 0.97 and p99 <= 1.1,
        }
    return found


def utilization(options: argparse.Namespace) -> dict[str, Any]:
    """Busy time must follow the load."""
    profile = world.PROFILES["linear100"]
    found: dict[str, Any] = {}
    for load, bar in ((0.1, 0.50), (0.3, 0.68), (0.5, 0.78), (0.7, 0.85)):
        row: dict[str, Any] = {}
        for name in ("adaptive", "greedy"):
            busy, on_time = [], []
            for seed in range(options.seeds):
                unit = world.unit_arrivals("poisson", seed, options.requests)
                stream = world.Stream(world.at_rate(unit, load * profile.rate))
                served = world.Served(profile, parse_policy(name))
                played = world.play([stream], {"m": served})
                busy.append(played.busy_ns / played.ended_ns)
                on_time.append(played.in_time(0, profile.target_ns).mean())
            row[f"busy_{name}"] = statistics.fmean(busy)
            row[f"on_time_{name}"] = statistics.fmean(on_time)
        row["ok"] = round(row["busy_adaptive"], 3) <= bar and row["on_time_adaptive"] >= 0.999
        found[f"{load:.0%} of capacity, at most {bar}"] = row
    return found


def instances(options: argparse.Namespace) -> dict[str, Any]:
    """Four instances, 25 ms: the highest rate with 99 % on time."""
    profile = world.PROFILES["linear25"]
    found: dict[str, Any] = {}
    for process in ("poisson", "gamma"):
        rates: dict[str, float] = {}
        for name in ("adaptive", "greedy", "lazy-drop", "defer"):
            per_seed = []
            for seed in range(options.seeds):
                unit = world.unit_arrivals(process, seed, options.requests)
                served = world.Served(profile, parse_policy(name), instances=4)

                def holds(rate: float, unit: Any = unit, served: world.Served = served) -> bool:
                    stream = world.Stream(world.at_rate(unit, rate))
                    played = world.play([stream], {"m": served})
                    return bool(played.in_time(0, profile.target_ns).mean() >= 0.99)

                # As fine as half a percent: the range is wide, for policies that fail under bursts.
                low, high = 0.04 * profile.rate, 4.4 * profile.rate
                per_seed.append(world.highest(low, high, options.steps + 2, holds))
            rates[name] = statistics.fmean(per_seed)
        best = max(rate for name, rate in rates.items() if name != "adaptive")
        found[process] = {**rates, "ok": rates["adaptive"] > best}
    return found


def traces(options: argparse.Namespace) -> dict[str, Any]:
    """Recorded arrivals at 80 % of capacity: every policy beside the optimum, and how many are answered."""
    found: dict[str, Any] = {}
    names = ("adaptive", *grid.BASELINES)
    paths = sorted(Path(options.traces).glob("*.csv"))
    if not paths:
        sys.exit(f"--traces: no CSV files in {options.traces}")
    for path in paths:
        recorded = read_trace(path)
        unit = np.asarray(recorded.recorded_s[: options.requests]) * 1.0
        unit *= (len(unit) - 1) / unit[-1]
        for profile_name, profile in world.PROFILES.items():
            unit_at = world.at_rate(unit / 1.0, 0.8 * profile.rate)
            row: dict[str, Any] = {}
            for name in names:
                served = world.Served(profile, parse_policy(name))
                played = world.play([world.Stream(unit_at)], {"m": served})
                row[name] = 100 * played.in_time(0, profile.target_ns).mean()
            for policy in (world.ADAPTIVE, world.REFUSES_LATE):
                served = world.Served(profile, policy)
                played = world.play([world.Stream(unit_at)], {"m": served})
                row[policy.name] = 100 * played.in_time(0, profile.target_ns).mean()
                row[f"answered, {policy.name}"] = 100 * (played.answered[0] >= 0).mean()
            best = on_time_optimum(unit_at, profile.curve, profile.target_ns)
            row["optimum"] = 100 * best / len(unit_at)
            row["ok"] = bool(row["adaptive"] >= max(row[name] for name in names) - 0.5)
            found[f"{path.stem}, {profile_name}"] = row
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Simulated requests a second of one core's time, as `batcher simulate` plays a configuration."""
    batching = {"max_batch_size": 32, "target_p99": "100ms", "policy": "adaptive"}
    model = {
        "name": "m",
        "executor": "emulated",
        "options": {"base": "5ms", "per_row": "1ms", "columns": 16},
        "batching": batching,
    }
    models = Mix(("m",), (1.0,))
    deployment = deployment_of(parse_config(json.dumps({"models": [model]})), models, Costs())
    traffic = Traffic(models)
    rate = deployment.capacity(traffic)
    found: dict[str, Any] = {"load average before": os.getloadavg()[0]}
    for load, bar in ((0.8, 100_000), (1.5, 30_000)):
        rates = []
        # The first run warms up.
        for seed in (0, *range(options.seeds)):
            experiment = Experiment(
                deployment,
                traffic,
                Poisson(),
                (parse_policy("configured"),),
                rates=(load * rate,),
                seeds=(seed,),
                requests=options.requests,
            )
            began_s = time.process_time()
            for _ in cells(experiment, lambda _name, _count: None, optimum=False):
                pass
            rates.append(options.requests / (time.process_time() - began_s))
        middle = statistics.median(rates[1:])
        found[f"{load} of capacity"] = {"requests_per_second": middle, "ok": middle >= bar}
    return found


SCENES = {
    each.__name__: each
    for each in (
        *(overload, closed, utilization, instances, traces, speed),
        neighbors.neighbors,
        groups.groups,
        *(lengths.lengths, sizes.sizes, pipelining.pipelining, scale.scale),
        *(compare.compare, fleets.fleets),
        *(autoscale.autoscale, autoscale_others.autoscale_others),
        *(bursts.bursts, loops.loops, stalls.stalls, recovery.recovery, generations.reloads),
        unknowable.unknowable,
        *(faults.poison, faults.failing, faults.oversized, memory.memory, lost.lost),
    )
}


def names() -> Sequence[str]:
    """The names of the scenes."""
    return tuple(SCENES)
