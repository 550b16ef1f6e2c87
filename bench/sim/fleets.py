"""Fleets in virtual time: how fast they are simulated, and whether k replicas serve k times as much as one."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import world

from batcher.clock import SECOND
from batcher.config.policies import default_limit_ns
from batcher.core.settings import Adaptive, ModelSettings
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.simulation import simulate
from batcher.simulation.fleet import (
    FleetSettings,
    Scrape,
    Scripted,
    Signal,
    parse_balancer,
    requests_at,
    simulate_fleet,
)
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Workload

REPLICAS: Final = (1, 6, 30)
BALANCERS: Final = ("round_robin", "least_request", "orca")

SPEED: Final = 0.6
"""The bar: a fleet is simulated at no less than this part of the speed of a single server, at equal load of each."""

SERVES: Final = 0.95
"""The bar: each of several replicas serves at least this part of what one alone does, with 99 % in time."""


def fleets(options: argparse.Namespace) -> dict[str, Any]:
    """Simulated requests a second of one core's time beside a single simulation, and the load that fleets carry."""
    profile = world.PROFILES["linear50"]
    policy = Adaptive(limit_ns=default_limit_ns(profile.target_ns))
    settings = ModelSettings(len(profile.curve) - 1, policy, target_ns=profile.target_ns)
    model = SimulatedModel("m", settings, profile.curve, warmup_sizes=world.WARMUP)
    deployment = Deployment((model,), {})

    def load(share: float, replicas: int, seed: int, process: str = "poisson") -> Workload:
        unit = world.unit_arrivals(process, seed, options.requests)
        return requests_at(world.at_rate(unit, share * profile.rate * replicas), "m")

    def rate(run: Callable[[], object]) -> float:
        found = []
        # The first run warms up.
        for _ in range(options.seeds + 1):
            began_s = time.process_time()
            run()
            found.append(options.requests / (time.process_time() - began_s))
        return statistics.median(found[1:])

    found: dict[str, Any] = {"load average before": os.getloadavg()[0]}
    single = rate(lambda: simulate(deployment, parse_policy("configured"), load(0.8, 1, 0)))
    found["one server alone"] = {"requests_per_second": single}
    for replicas in REPLICAS:
        for name in BALANCERS:
            fleet = FleetSettings(deployment, replicas=replicas, balancer=parse_balancer(name))
            requests = load(0.8, replicas, 0)
            each = rate(lambda fleet=fleet, requests=requests: simulate_fleet(fleet, requests))
            row = {"requests_per_second": each, "of_one_alone": each / single}
            if name == "round_robin":
                row["ok"] = each / single >= SPEED
            found[f"{replicas} replicas, {name}"] = row
    fleet = FleetSettings(deployment, replicas=6, scrape=Scrape(SECOND, SECOND // 2))
    requests = load(0.8, 6, 0)
    script = Scripted((), SECOND, tuple(Signal))
    each = rate(lambda: simulate_fleet(fleet, requests, script))
    found["6 replicas, all signals each second"] = {
        "requests_per_second": each,
        "of_one_alone": each / single,
    }
    for name in BALANCERS:
        alone = 0.0
        for replicas in (1, 3, 6):
            fleet = FleetSettings(deployment, replicas=replicas, balancer=parse_balancer(name))

            def holds(share: float, fleet: FleetSettings = fleet) -> bool:
                on_time = [
                    simulate_fleet(fleet, load(share, fleet.replicas, seed)).on_time.mean()
                    for seed in (1, 2)
                ]
                return statistics.fmean(on_time) >= 0.99

            share = world.highest(0.4, 1.2, options.steps, holds)
            alone = alone or share
            found[f"{name}: highest load of each of {replicas}"] = {
                "of_capacity": share,
                "of_one_alone": share / alone,
                "ok": share / alone >= SERVES,
            }
    return found
