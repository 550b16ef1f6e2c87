"""What of the choice of a signal holds with other balancers, under KEDA, and on replicas that are fast."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import world
from autoscale import Scene, scenes

from batcher.autoscaling import HpaSettings, KedaSettings
from batcher.clock import SECOND
from batcher.simulation.autoscale.points import point_of
from batcher.simulation.autoscale.sweep import Sweep, play
from batcher.simulation.fleet import LeastRequest, Orca, RoundRobin, Signal, Span, StartUp
from batcher.simulation.fleet.balancers import Balancer
from batcher.simulation.traffic.day import Day

MOST: Final = 60
BALANCERS: Final[dict[str, Balancer]] = {
    "round_robin": RoundRobin(),
    "least_request": LeastRequest(),
    "orca": Orca(),
}


@dataclass(frozen=True)
class Variant:
    """A fleet, and what it is scaled on."""

    label: str
    sweep: Sweep
    tries: tuple[tuple[Signal, float], ...]


def variants(folder: str) -> Iterator[Variant]:
    """One change each: first who chooses replicas, then KEDA, then the replicas."""
    bursty = scenes(folder)[0]
    ratio, processor = Signal.DESIRED_RATIO, Signal.CPU
    both = ((ratio, 0.67), (processor, 0.65 * bursty.unit(processor)))
    sweep = bursty.sweep(hpa=HpaSettings(1, MOST))
    for name, balancer in BALANCERS.items():
        fleet = replace(sweep.fleet, balancer=balancer)
        yield Variant(f"{bursty.label}, {name}", replace(sweep, fleet=fleet), both)
    keda = KedaSettings(0, MOST)
    label = f"{bursty.label}, least_request, KEDA from 0"
    yield Variant(label, replace(sweep, keda=keda), both[:1])
    yield fast()


def fast() -> Variant:
    """21 ms a batch of 32, 1,500 requests a second each: a day in four minutes, the window down as much shorter."""
    day = Day(PEAK, 240.0)
    scene = Scene("fast replicas, a day in four minutes", 5.0, 0.5, 32, 50, day)
    down = replace(HpaSettings().scale_down, stabilization_ns=60 * SECOND)
    sweep = scene.sweep(hpa=HpaSettings(1, MOST, scale_down=down))
    start_up = StartUp(image=Span(20 * SECOND), load=Span(8 * SECOND), warm_up=Span(2 * SECOND))
    fleet = replace(sweep.fleet, start_up=start_up)
    part = scene.unit(Signal.QUEUE_REQUESTS)
    tries = (
        (Signal.DESIRED_RATIO, 0.8),
        (Signal.DESIRED_RATIO, 0.5),
        (Signal.DUTY_CYCLE, 0.8),
        (Signal.QUEUE_REQUESTS, 0.4 * part),
    )
    return Variant(scene.label, replace(sweep, fleet=fleet, start=START), tries)


PEAK: Final = 4000.0
"""Requests a second at noon: three replicas' worth, and six or more in a burst."""

START: Final = 2
"""Replicas at the start of the short day."""


def autoscale_others(options: argparse.Namespace) -> dict[str, Any]:
    """One run of each variant and set-point; nothing is required of them. What is played is written at once."""
    output = options.output or world.RESULTS / "sim-autoscale_others.json"
    found: dict[str, Any] = {}
    for variant in variants(options.traces):
        load = variant.sweep.load(0)
        rows = found.setdefault(variant.label, {})
        for signal, set_point in variant.tries:
            point = point_of(signal, set_point, play(variant.sweep, signal, set_point, 0, load))
            rows[f"{signal.value} at {set_point:.4g}"] = {
                **asdict(point),
                "on_time_fraction": point.on_time_fraction,
            }
            print(
                f"{variant.label:55} {signal.value:15} {set_point:7.4g} {100 * point.on_time_fraction:7.3f} %"
                f" {point.replica_hours:7.2f} h  peak {point.peak_replicas:3.0f}  flaps {point.flaps:3.0f}",
                flush=True,
            )
            output.write_text(json.dumps({"settings": world.settings(options), **found}, indent=2))
    return found
