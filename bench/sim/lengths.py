"""Requests of mixed length: buckets, their number, and what filling up from other buckets is worth."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import world
from numpy.typing import NDArray

from batcher.clock import MILLISECOND
from batcher.config.policies import default_limit_ns
from batcher.core.batching import batch_former
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import Event, InstanceUp, ModelConfigured, RequestArrived
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, PaddedAxis
from batcher.simulation import Driver
from batcher.simulation.traffic.buckets import evenly_spaced, propose

LONGEST = 256
MAX_ROWS = 32
TARGET_NS = 50 * MILLISECOND
COUNTS = (2, 4, 8)
DEVICES = {
    "a batch costs": (4.0, 1.0),
    "both cost": (4.0, 4.0),
    "elements cost": (1.0, 20.0),
}
"""Milliseconds of a batch, and microseconds of an element in it: from a GPU that is not full to a
CPU."""


def lengths_of(requests: int, seed: int) -> NDArray[np.int64]:
    """Lengths as sentences have them: most are short, some are ten times as long."""
    draw = np.random.default_rng([seed, 29])
    return np.clip(np.rint(draw.lognormal(3.2, 0.8, requests)), 2, LONGEST).astype(np.int64)


def takes_ns(device: str, length: int, rows: int) -> int:
    """What a batch takes on that device."""
    base_ms, element_us = DEVICES[device]
    return round(base_ms * MILLISECOND + element_us * 1e3 * length * rows)


@contextmanager
def filling(wanted: bool) -> Iterator[None]:
    """Inside, batches are filled up from other buckets, or not."""
    kept = batch_former.fill_up
    if not wanted:
        batch_former.fill_up = lambda _model, _chosen: None
    try:
        yield
    finally:
        batch_former.fill_up = kept


def play(
    device: str, rate: float, requests: int, seed: int, buckets: tuple[int, ...], policy: Any
) -> dict[str, float]:
    """One open-loop run: the share in time, how busy the device is, and how much is padding."""
    lengths = lengths_of(requests, seed).tolist()
    at_ns = world.at_rate(world.unit_arrivals("poisson", seed, requests), rate)
    scheduler = Scheduler()
    busy_ns = own = computed = in_time = 0

    def service(dispatch: Dispatch) -> int:
        nonlocal busy_ns, own, computed
        length = dispatch.bucket[0][0]
        own += sum(lengths[part.id] for part in dispatch.parts)
        computed += length * len(dispatch.parts)
        took_ns = takes_ns(device, length, len(dispatch.parts))
        busy_ns += took_ns
        return took_ns

    def observe(now_ns: int, commands: list[Command]) -> None:
        nonlocal in_time
        for command in commands:
            if type(command) is Settle and command.outcome is Outcome.OK:
                in_time += sum(now_ns <= at_ns[i] + TARGET_NS + 1000 for i in command.ids)

    def arrivals() -> Iterable[tuple[int, Event]]:
        for place, moment in enumerate(at_ns):
            yield moment, RequestArrived(place, "m", 1, 0, ((lengths[place],),), "", moment)

    settings = ModelSettings(
        MAX_ROWS, policy, target_ns=TARGET_NS, padding=(PaddedAxis(0, 1, buckets),)
    )
    profiles = tuple(
        (((length,),), tuple((rows, takes_ns(device, length, rows)) for rows in world.WARMUP))
        for length in buckets
    )
    driver = Driver(scheduler, service, observe=observe)
    driver.step(
        [ModelConfigured("m", settings), InstanceUp("m#0", 1, "m", "d", 1, (), profiles)], 0
    )
    driver.run(arrivals())
    return {
        "on_time": in_time / requests,
        "busy": busy_ns / max(scheduler.now_ns, 1),
        "padding": 1 - own / computed,
    }


def highest_rate(
    options: argparse.Namespace, device: str, buckets: tuple[int, ...], policy: Any
) -> dict[str, float]:
    """The highest rate with 99 % in time (each answered within the target), and its figures."""
    found: dict[str, float] = {}

    def holds(rate: float) -> bool:
        runs = [
            play(device, rate, options.requests, seed, buckets, policy)
            for seed in range(options.seeds)
        ]
        mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        held = mean["on_time"] >= 0.99
        if held:
            found.update({"rate": rate, **mean})
        return held

    world.highest(20.0, 20_000.0, options.steps + 4, holds)
    return found


def lengths(options: argparse.Namespace) -> dict[str, Any]:
    """Buckets of each kind, in the best number: the highest rate with 99 % inside 50 ms."""
    counts = Counter(lengths_of(100_000, 1000).tolist())
    proposed = [propose(counts, count, longest=LONGEST)[-1].lengths for count in COUNTS]
    even = [evenly_spaced(counts, count, longest=LONGEST).lengths for count in COUNTS]
    found: dict[str, Any] = {}
    for device in DEVICES:
        for policy in (Adaptive(limit_ns=default_limit_ns(TARGET_NS)), FixedWindow(0)):
            for name, choices, filled in (
                ("one bucket", [(LONGEST,)], False),
                ("evenly spaced, no fill", even, False),
                ("evenly spaced", even, True),
                ("proposed, no fill", proposed, False),
                ("proposed", proposed, True),
            ):
                with filling(filled):
                    tried = [
                        highest_rate(options, device, buckets, policy) | {"buckets": len(buckets)}
                        for buckets in choices
                    ]
                best = max(tried, key=lambda figures: figures.get("rate", 0.0))
                found[f"{device}, {type(policy).__name__}, {name}"] = best
    return found
