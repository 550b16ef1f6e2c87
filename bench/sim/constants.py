"""What changes when a constant of the adaptive policy is 30 % smaller or larger."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

import numpy as np
import world

from batcher.clock import MILLISECOND
from batcher.config.policies import default_limit_ns
from batcher.core.policies import adaptive, arrivals, backlog, waiting
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.simulation import ClosedLoop, Conditions, simulate
from batcher.simulation.traffic.workload import Mix, Traffic, Workload

CONSTANTS: Final[dict[ModuleType, tuple[str, ...]]] = {
    adaptive: ("SOFTNESS", "SHIFT", "MOST_LOAD", "BEST_EFFORT_PART"),
    waiting: ("MERGE_AGE", "WINDOW_AGE", "BURSTINESS_WEIGHT", "PATIENCE"),
    arrivals: (
        *("RATE_TARGETS", "FOLDS", "ACTIVE_TARGETS", "BURST_WEIGHT"),
        *("GAPS", "REPLY_GAP", "GAP_WEIGHT", "RANKED_ROWS"),
    ),
    backlog: ("MOST_REQUESTS", "MOST_EXACT", "FINE"),
}
FACTORS: Final = (0.7, 1.3)
LEAST: Final = 0.05
"""Smaller differences are not reported: percentage points, or milliseconds."""

LINEAR: Final = world.PROFILES["linear50"]


@contextmanager
def _scaled(module: ModuleType, name: str, factor: float) -> Iterator[None]:
    value = getattr(module, name)
    if isinstance(value, tuple):
        scaled: Any = tuple(factor * each for each in value)
    else:
        scaled = type(value)(factor * value)
    setattr(module, name, scaled)
    try:
        yield
    finally:
        setattr(module, name, value)


def _played(seed: int, requests: int) -> dict[str, float]:
    """Every figure of one seed. Shares are in percent of the requests."""
    figures: dict[str, float] = {}
    slow = world.PROFILES["linear100"]
    served = world.Served(slow, world.ADAPTIVE)
    at_ns = world.poisson(0.3 * slow.rate, requests / (0.3 * slow.rate), seed)
    played = world.play([world.Stream(at_ns)], {"m": served})
    figures["busy % at a load of 0.3"] = 100 * played.busy_ns / played.ended_ns
    for label, process, load in (
        ("in time % at 0.95", "poisson", 0.95),
        ("in time % of bursts at 0.8", "gamma", 0.8),
        ("in time % of a modulated stream at 0.8", "mmpp", 0.8),
        ("in time % at 1.5", "poisson", 1.5),
    ):
        at_ns = world.at_rate(world.unit_arrivals(process, seed, requests), load * LINEAR.rate)
        played = world.play([world.Stream(at_ns)], {"m": world.Served(LINEAR, world.ADAPTIVE)})
        figures[label] = 100 * float(played.in_time(0, LINEAR.target_ns).mean())
    at_ns = world.at_rate(world.unit_arrivals("poisson", seed, requests), 2.4 * LINEAR.rate)
    served = world.Served(LINEAR, world.ADAPTIVE, instances=2)
    played = world.play([world.Stream(at_ns)], {"m": served})
    figures["in time % of two instances at 1.2"] = 100 * float(
        played.in_time(0, LINEAR.target_ns).mean()
    )
    streams = [
        world.Stream(
            world.poisson(load * LINEAR.rate, requests / LINEAR.rate, seed + at), priority=at
        )
        for at, load in ((1, 0.4), (3, 0.9))
    ]
    played = world.play(streams, {"m": world.Served(LINEAR, world.ADAPTIVE)})
    figures["in time % of the better class at 1.3"] = 100 * float(
        played.in_time(0, LINEAR.target_ns).mean()
    )
    figures["in time % of the other class"] = 100 * float(
        played.in_time(1, LINEAR.target_ns).mean()
    )
    return figures | _closed_loop(seed, requests // 4)


def _closed_loop(seed: int, requests: int) -> dict[str, float]:
    """Eight callers that send their next request when they have their answer, 90 us apart."""
    policy = Adaptive(limit_ns=default_limit_ns(LINEAR.target_ns))
    settings = ModelSettings(32, policy, QueueLimits(), LINEAR.target_ns)
    model = SimulatedModel("m", settings, LINEAR.curve, warmup_sizes=world.WARMUP)
    draw = np.random.default_rng(seed)
    work = Workload.of(np.zeros(requests, np.int64), Traffic(Mix.of(("m", 1.0))), draw)
    conditions = Conditions(reply_ns=90_000)
    run = simulate(Deployment((model,), {}), world.ADAPTIVE, ClosedLoop(8, work), conditions)
    took_ms = (run.settled_ns - run.workload.at_ns) / MILLISECOND
    return {"mean ms of a closed loop": float(took_ms.mean())}


def _mean(options: argparse.Namespace) -> dict[str, float]:
    played = [_played(seed, options.requests) for seed in range(options.seeds)]
    return {name: float(np.mean([each[name] for each in played])) for name in played[0]}


def constants(options: argparse.Namespace) -> dict[str, Any]:
    """The figures as they are, and for each constant by how much they differ where it is off."""
    usual = _mean(options)
    found: dict[str, Any] = {"as it is": usual}
    for module, names in CONSTANTS.items():
        for name in names:
            for factor in FACTORS:
                with _scaled(module, name, factor):
                    figures = _mean(options)
                changes = {label: figures[label] - usual[label] for label in usual}
                found[f"{name} x {factor}"] = {
                    label: change for label, change in changes.items() if abs(change) >= LEAST
                } or {"less than": LEAST}
    return found
