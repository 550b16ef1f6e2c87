"""A stream of requests that share batches, beside a caller whose requests all differ."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import world

from batcher.clock import MILLISECOND
from batcher.simulation.policies.named import parse_policy

SECONDS = 10

APART = (0.5, 1.0, 2.0, 4.0, 9.0)
"""The load of the other caller as a share of the device, in batches of one row."""

CROWD, MOST_REFUSED = 2.0, 0.03
"""From this load on, at most this share of a stream that uses a third of the device may be refused. At
less load few requests of the other caller wait at once, and each has a claim of its own."""


def groups(options: argparse.Namespace) -> dict[str, Any]:
    """What requests in groups of their own cost a stream of requests in one group."""
    profile = world.PROFILES["linear50"]
    adaptive = world.Served(profile, world.ADAPTIVE)
    models = {
        "adaptive": adaptive,
        "adaptive, no target": replace(adaptive, aims=False),
        "fixed": world.Served(profile, parse_policy("fixed:5ms")),
    }
    return {
        f"{name}, a stream at {part:.0%}, {apart:g} x the device in groups of one": _beside(
            served, part, apart, options
        )
        for name, served in models.items()
        for part in (0.35, 0.7)
        for apart in APART
    }


def _beside(
    served: world.Served, part: float, apart: float, options: argparse.Namespace
) -> dict[str, Any]:
    profile = served.profile
    alone, beside = [], []
    for seed in range(options.seeds):
        stream = world.Stream(world.poisson(part * profile.rate, SECONDS, seed))
        rate = apart * 1e9 / profile.curve[1]
        others = world.Stream(world.poisson(rate, SECONDS, seed + 50), apart=True)
        alone.append(world.play([stream], {"m": served}))
        beside.append(world.play([stream, others], {"m": served}))
    refused = [_refused(played, 0) for played in beside]
    p99_ms = [_p99_ms(played) for played in beside]
    figures: dict[str, Any] = {
        "refused": statistics.fmean(refused),
        "refused_alone": statistics.fmean([_refused(played, 0) for played in alone]),
        "p99_ms": statistics.fmean(p99_ms),
        "p99_alone_ms": statistics.fmean([_p99_ms(played) for played in alone]),
        "others_refused": statistics.fmean([_refused(played, 1) for played in beside]),
    }
    if part < 0.5 and apart >= CROWD:
        figures["ok"] = figures["refused"] <= figures["refused_alone"] + MOST_REFUSED
    return figures


def _refused(played: world.Played, stream: int) -> float:
    return float((played.answered[stream] < 0).mean())


def _p99_ms(played: world.Played) -> float:
    done, came = played.answered[0], played.arrived[0]
    return float(np.percentile((done - came)[done >= 0], 99)) / MILLISECOND
