"""Many requests at once, alone and beside a steady stream: what a queue is for."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import Any, Final

import figures
import numpy as np
import world
from numpy.typing import NDArray

from batcher.clock import MILLISECOND, SECOND
from batcher.core.settings import QueueLimits
from batcher.simulation.engine.service_time import linear
from batcher.simulation.policies.named import parse_policy

SIZES: Final = (10, 30, 100, 300, 1000)
LOADS: Final = (0.0, 0.5, 0.8)
DEADLINES: Final = (None, 2 * SECOND)
TARGET_NS: Final = 50 * MILLISECOND
DEVICES: Final = tuple(
    world.Profile(
        f"5 + {per_row_us / 1000:g} ms", linear(5 * MILLISECOND, per_row_us * 1000, 32), TARGET_NS
    )
    for per_row_us in (500, 1000)
)
FIRST_COME: Final = parse_policy("greedy")
"""First come, first served: whatever waits when the instance is free, in order, none refused."""

LONGEST: Final = 1.3
"""How much longer than first come, first served the longest wait may be."""

AGAIN: Final = 1.5
"""Within so many times the burst's own work the steady stream must be on time again. Only the share of
the device that the stream leaves can work a burst off, so the bar is this work by that share."""

BURST_NS: Final = SECOND
"""When the burst comes."""

NEAR, COMPANY = 21, 4
"""Late in company is a request where so many of those around it are late: a stream at 80 % load has a late
request now and then without any burst."""

QUEUE: Final = QueueLimits(max_requests=8192)
"""Room for every burst, so that no bound of the queue is what is measured."""


@dataclass(frozen=True)
class _Case:
    profile: world.Profile
    size: int
    load: float
    deadline_ns: int | None

    @property
    def work_ns(self) -> int:
        """What the burst takes in full batches."""
        most = len(self.profile.curve) - 1
        full, rest = divmod(self.size, most)
        return full * self.profile.curve[most] + self.profile.curve[rest]

    @property
    def limit_ns(self) -> int:
        """The longest useful wait."""
        limit_ns = figures.limit_ns(self.profile)
        return limit_ns if self.deadline_ns is None else min(limit_ns, self.deadline_ns)

    @property
    def label(self) -> str:
        deadline = "no deadline" if self.deadline_ns is None else f"{self.deadline_ns // SECOND} s"
        return f"{self.profile.name}, {self.size} at {self.load:.0%}, {deadline}"


def bursts(options: argparse.Namespace) -> dict[str, Any]:
    """Bursts of 10 to 1,000 requests beside a steady stream, compared with first come, first served.

    `refused`: requests without an answer by their limit that first come, first served answers by it.
    `wait`: the longest wait as a multiple of its longest. `again`: when the stream was on time again, as
    a multiple of the burst's work. `late`: the share of the stream that was late while the burst and
    the stream took the whole device.
    """
    cases = [
        _Case(profile, size, load, deadline_ns)
        for profile in DEVICES
        for deadline_ns in DEADLINES
        for load in LOADS
        for size in SIZES
    ]
    return {case.label: _row(case, options.seeds) for case in cases}


def _row(case: _Case, seeds: int) -> dict[str, Any]:
    rows = [_played(case, seed) for seed in range(seeds)]
    refused = sum(row["refused"] for row in rows)
    wait = max(row["wait"] for row in rows)
    again = max(row["again"] for row in rows)
    least = 1 / (1 - case.load)
    return {
        "refused": refused,
        "wait": wait,
        "again": again,
        f"{AGAIN:g} of the work": again <= AGAIN,
        "late": statistics.fmean(row["late"] for row in rows),
        "late_first_come": statistics.fmean(row["late_first_come"] for row in rows),
        "ok": refused == 0 and wait <= LONGEST and again <= AGAIN * least,
    }


def _played(case: _Case, seed: int) -> dict[str, float]:
    """One burst under both policies. `wait` and `again` are ratios, `late` a share of the stream."""
    seconds = (BURST_NS + 3 * case.work_ns / (1 - case.load)) / SECOND + 1
    rate = case.load * case.profile.rate
    steady = world.poisson(rate, seconds, seed) if rate else []
    found: dict[str, world.Played] = {}
    for name, policy, deadline_ns in (
        ("adaptive", figures.ADAPTIVE, case.deadline_ns),
        ("first come", FIRST_COME, None),
    ):
        streams = [
            world.Stream(steady, deadline_ns=deadline_ns),
            world.Stream([BURST_NS] * case.size, deadline_ns=deadline_ns),
        ]
        found[name] = world.play(streams, {"m": world.Served(case.profile, policy, QUEUE)})
    ours, theirs = found["adaptive"], found["first come"]
    waited, usual = _waited(ours), _waited(theirs)
    fits = (usual >= 0) & (usual <= case.limit_ns)
    came = ours.arrived[0]
    meanwhile = (came >= BURST_NS) & (came < BURST_NS + case.work_ns / (1 - case.load))
    late = ~ours.in_time(0, TARGET_NS)
    again_ns = _again_ns(came, late)
    late_first_come = ~theirs.in_time(0, TARGET_NS)[meanwhile]
    return {
        "refused": int((fits & ((waited < 0) | (waited > case.limit_ns))).sum()),
        "wait": float(waited.max() / usual[fits].max()),
        "again": again_ns / case.work_ns,
        "late": float(late[meanwhile].mean()) if meanwhile.any() else 0.0,
        "late_first_come": float(late_first_come.mean()) if meanwhile.any() else 0.0,
    }


def _again_ns(came_ns: NDArray[np.int64], late: NDArray[np.bool_]) -> int:
    """Nanoseconds from the burst until the last request of the stream that was late in company."""
    if not late.any():
        return 0
    near = np.convolve(late, np.ones(NEAR, np.int64), "same")
    last = np.flatnonzero(late & (near >= COMPANY) & (came_ns >= BURST_NS))
    return int(came_ns[last[-1]]) - BURST_NS if len(last) else 0


def _waited(played: world.Played) -> NDArray[np.int64]:
    """Nanoseconds until each request was answered, -1 where it was not."""
    done, came = np.concatenate(played.answered), np.concatenate(played.arrived)
    return np.where(done < 0, -1, done - came)
