"""Pipelining: the highest rate in time where batches are copied in beside others, and one after the other."""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
import world

from batcher.clock import MICROSECOND
from batcher.config import parse_config
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.scenario import Costs, deployment_of
from batcher.simulation.engine.simulation import OUTCOMES, Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Traffic, Workload

ON_TIME = 0.99
GAP_NS = 400 * MICROSECOND
"""The way of a batch to its instance and back, as `bench/load prefetch` measures it."""
LOAD = 0.8
"""The load at which the share in time is kept, of what the device can serve."""

DEVICES: dict[str, tuple[dict[str, str], str]] = {
    "copy 2 ms, 3 ms + 0.2 ms a row, target 50 ms": (
        {"copy": "2ms", "base": "3ms", "per_row": "0.2ms"},
        "50ms",
    ),
    "the same, target 20 ms": ({"copy": "2ms", "base": "3ms", "per_row": "0.2ms"}, "20ms"),
    "copy 0.1 ms a row, 3 ms + 0.2 ms a row, target 50 ms": (
        {"copy_per_row": "0.1ms", "base": "3ms", "per_row": "0.2ms"},
        "50ms",
    ),
    "copy 1 ms, 5 ms + 0.05 ms a row, target 20 ms": (
        {"copy": "1ms", "base": "5ms", "per_row": "0.05ms"},
        "20ms",
    ),
    "copy 2 ms, 1 ms + 0.5 ms a row, give or take 10 %, target 30 ms": (
        {"copy": "2ms", "base": "1ms", "per_row": "0.5ms", "jitter": "0.1"},
        "30ms",
    ),
    "copy 10 ms, 3 ms + 0.2 ms a row, target 50 ms": (
        {"copy": "10ms", "base": "3ms", "per_row": "0.2ms"},
        "50ms",
    ),
}
"""Options of `emulated`, and the target."""

TRAFFIC = Traffic(Mix.of(("m", 1.0)))


def _deployment(options: dict[str, str], target: str, *, pipelining: bool) -> Deployment:
    typed: dict[str, Any] = dict(options)
    if "jitter" in typed:
        typed["jitter"] = float(typed["jitter"])
    model = {
        "name": "m",
        "executor": "emulated",
        "options": typed,
        "pipelining": pipelining,
        "batching": {"max_batch_size": 32, "target_p99": target},
    }
    return deployment_of(parse_config(json.dumps({"models": [model]})), Mix.of(("m", 1.0)), Costs())


def _in_time(deployment: Deployment, rate: float, seed: int, requests: int) -> float:
    draw = np.random.default_rng(seed)
    at_ns = (np.cumsum(draw.exponential(1 / rate, requests)) * 1e9).astype(np.int64)
    workload = Workload.of(at_ns, TRAFFIC, draw)
    conditions = Conditions(seed=seed, batch_gap_ns=GAP_NS)
    run = simulate(deployment, parse_policy("adaptive"), workload, conditions)
    target_ns = deployment.models[0].settings.target_ns
    answered = run.outcome == OUTCOMES.index("ok")
    return float((answered & (run.settled_ns - at_ns <= target_ns)).mean())


def pipelining(options: argparse.Namespace) -> dict[str, Any]:
    """Highest rates and shares in time, with pipelining and without, on the same arrivals."""
    found: dict[str, Any] = {}
    for label, (device, target) in DEVICES.items():
        both = {
            name: _deployment(device, target, pipelining=name == "pipelined")
            for name in ("pipelined", "in_turn")
        }
        can = both["pipelined"].capacity(TRAFFIC)
        row: dict[str, Any] = {"device_rate": can}
        for name, deployment in both.items():
            highest, in_time = [], []
            for seed in range(options.seeds):

                def holds(
                    rate: float, deployment: Deployment = deployment, seed: int = seed
                ) -> bool:
                    return _in_time(deployment, rate, seed, options.requests) >= ON_TIME

                highest.append(world.highest(0.2 * can, 1.05 * can, options.steps, holds))
                in_time.append(_in_time(deployment, LOAD * can, seed, options.requests))
            row[f"highest_{name}"] = statistics.fmean(highest)
            row[f"in_time_{name}"] = statistics.fmean(in_time)
        row["ok"] = (
            row["highest_pipelined"] > row["highest_in_turn"]
            and row["in_time_pipelined"] >= row["in_time_in_turn"]
        )
        found[label] = row
    return found
