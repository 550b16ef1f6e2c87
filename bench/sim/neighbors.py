"""Tenants, priorities, and models that share a device: one that sends much must not cost the others."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.config.policies import default_limit_ns
from batcher.core.settings import QueueLimits

SECONDS = 20

URGENT = world.Profile(
    "urgent", world.linear(2 * MILLISECOND, MILLISECOND // 5, 32), 50 * MILLISECOND
)
PARTS = (0.15, 0.3, 0.4)
"""The load of the urgent model as a share of the device, in full batches."""


def neighbors(options: argparse.Namespace) -> dict[str, Any]:
    """Tenants, priorities, and models that share a device."""
    profile = world.PROFILES["linear50"]
    return {
        **_tenants(options, profile),
        **_levels(options, profile),
        **_limits(options, profile),
        **_models(options, profile),
        **_without_target(options, profile),
    }


def _tenants(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """Four tenants within their share, beside one that sends five times its own."""
    share = profile.rate / 5
    found: dict[str, Any] = {}
    tenants = QueueLimits(tenants=(*((name, 1.0) for name in "abcd"), ("default", 1.0)))
    for part in (0.8, 0.9):
        on_time = []
        for seed in range(options.seeds):
            streams = [
                world.Stream(world.poisson(part * share, SECONDS, 10 * seed + place), tenant=name)
                for place, name in enumerate("abcd")
            ]
            streams.append(
                world.Stream(world.poisson(5 * share, SECONDS, 10 * seed + 9), tenant="flood")
            )
            served = world.Served(profile, world.ADAPTIVE, tenants)
            played = world.play(streams, {"m": served})
            on_time += [played.in_time(place, profile.target_ns).mean() for place in range(4)]
        found[f"one tenant floods, four ask for {part} of their share"] = {
            "on_time_mean": statistics.fmean(on_time),
            "on_time_least": min(on_time),
            "ok": statistics.fmean(on_time) >= 0.99,
        }
    return found


def _levels(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """The most urgent level, beside more of the lowest than can be served."""
    found: dict[str, Any] = {}
    for part in (0.3, 0.6):
        on_time = []
        for seed in range(options.seeds):
            streams = _two_levels(profile, part, seed)
            played = world.play(streams, {"m": world.Served(profile, world.ADAPTIVE)})
            on_time.append(played.in_time(0, profile.target_ns).mean())
        fraction = statistics.fmean(on_time)
        found[f"top level at {part}, lowest at 1.5"] = {"on_time": fraction, "ok": fraction >= 0.99}
    return found


def _two_levels(profile: world.Profile, part: float, seed: int) -> list[world.Stream]:
    return [
        world.Stream(world.poisson(part * profile.rate, SECONDS, seed), priority=1),
        world.Stream(world.poisson(1.5 * profile.rate, SECONDS, seed + 50), priority=3),
    ]


def _limits(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """Beside the most urgent level, late requests are answered or refused by their limit."""
    found: dict[str, Any] = {}
    default_ns = default_limit_ns(profile.target_ns) or 0
    for policy, limit_ns in (
        (world.ADAPTIVE, default_ns),
        (world.REFUSES_LATE, profile.target_ns),
    ):
        on_time, longest_ns, answered = [], 0, []
        for seed in range(options.seeds):
            streams = _two_levels(profile, 0.6, seed)
            played = world.play(streams, {"m": world.Served(profile, policy)})
            on_time.append(played.in_time(0, profile.target_ns).mean())
            waits_ns = np.concatenate(played.ended) - np.concatenate(played.arrived)
            longest_ns = max(longest_ns, int(waits_ns.max()))
            answered.append(float((played.answered[1] >= 0).mean()))
        fraction = statistics.fmean(on_time)
        label = f"{policy.name}: top level at 0.6, lowest at 1.5, limit {limit_ns / SECOND:g} s"
        found[label] = {
            "on_time": fraction,
            "longest_wait_s": longest_ns / SECOND,
            "lowest_answered": statistics.fmean(answered),
            "ok": fraction >= 0.99 and longest_ns <= limit_ns + world.TOLERANCE_NS,
        }
    return found


def _bound_ns(limits: QueueLimits) -> int:
    """No request waits for longer."""
    return (limits.priority_levels + 1) * limits.promote_after_ns


def _models(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """An urgent model, beside one with a load of 1.5 times the device."""
    patient = world.Profile("patient", profile.curve, 200 * MILLISECOND)
    hopeless = world.Profile("hopeless", profile.curve, MILLISECOND)
    others = {
        "with a target": world.Served(patient, world.ADAPTIVE, device="gpu"),
        "without a target": world.Served(patient, world.ADAPTIVE, device="gpu", aims=False),
        "with a target that one row cannot meet": world.Served(
            hopeless, world.ADAPTIVE, device="gpu"
        ),
    }
    cells = [(400 / URGENT.rate, "with a target")]
    cells += [(part, label) for label in others for part in PARTS]
    found: dict[str, Any] = {}
    for part, label in cells:
        on_time = []
        for seed in range(options.seeds):
            streams = [
                world.Stream(world.poisson(part * URGENT.rate, SECONDS, seed), model="urgent"),
                world.Stream(
                    world.poisson(1.5 * patient.rate, SECONDS, seed + 50), model="patient"
                ),
            ]
            models = {
                "urgent": world.Served(URGENT, world.ADAPTIVE, device="gpu"),
                "patient": others[label],
            }
            played = world.play(streams, models, device_limit=1)
            on_time.append(played.in_time(0, URGENT.target_ns).mean())
        fraction = statistics.fmean(on_time)
        found[f"an urgent model at {part:.0%} of a device that one {label} fills"] = {
            "on_time": fraction,
            "on_time_least": min(on_time),
            "ok": fraction >= 0.99,
        }
    return found


def _without_target(options: argparse.Namespace, profile: world.Profile) -> dict[str, Any]:
    """A model without a target, beside one with a target that is overloaded.

    It may be slow, but not starve: whatever the moment, some request of it is answered within the bound
    of `promote_after`.
    """
    limits = QueueLimits()
    bound_s = _bound_ns(limits) / SECOND
    longest_s, answered = 0.0, []
    for seed in range(options.seeds):
        streams = [
            world.Stream(world.poisson(0.1 * profile.rate, SECONDS, seed), model="batch"),
            world.Stream(world.poisson(1.5 * profile.rate, SECONDS, seed + 50), model="busy"),
        ]
        models = {
            "batch": world.Served(profile, world.ADAPTIVE, limits, device="gpu", aims=False),
            "busy": world.Served(profile, world.ADAPTIVE, device="gpu"),
        }
        played = world.play(streams, models, device_limit=1)
        done = np.sort(played.answered[0][played.answered[0] >= 0])
        asked = played.arrived[0]
        # Only while the neighbor asks: later all requests are served.
        moments = [asked[0], *done[done < asked[-1]], asked[-1]]
        longest_s = max(longest_s, float(np.diff(moments).max()) / SECOND)
        answered.append(float((played.answered[0] >= 0).mean()))
    label = f"a model without a target at 10% beside one that fills the device, bound {bound_s:g} s"
    return {
        label: {
            "answered": statistics.fmean(answered),
            "longest_without_an_answer_s": longest_s,
            "ok": longest_s <= bound_s,
        }
    }
