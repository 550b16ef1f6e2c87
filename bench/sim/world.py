"""Shared by the scheduling benchmarks: profiles, arrivals, searches, a run of the production scheduler."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND, SECOND
from batcher.config.policies import default_limit_ns
from batcher.core.commands import Command, Dispatch, Outcome, Settle
from batcher.core.events import (
    CancelCause,
    DeviceConfigured,
    Event,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    RequestCancelled,
    Shapes,
)
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, ModelSettings, PaddedAxis, QueueLimits
from batcher.journal.fingerprint import scheduler_fingerprint
from batcher.simulation import Driver
from batcher.simulation.engine.service_time import Curve, best_rate, from_table, linear
from batcher.simulation.engine.stalls import StalledDriver, Stalls
from batcher.simulation.policies.named import NamedPolicy, parse_policy
from batcher.simulation.traffic.arrivals import Gamma, Mmpp, Poisson, Process, arrival_times

RESULTS = Path(__file__).resolve().parents[1] / "results"

TOLERANCE_NS = 1_000
"""Answers this much later than their target still count: predictions are floats."""

DISPATCH_NS = 300_000
"""What a batch takes to reach an instance and to be reported, where stalls are played."""

WARMUP = (1, 2, 4, 8, 16, 32)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on beside the scene, to be kept with it."""
    names = ("seeds", "requests", "steps", "noise", "cold")
    return {name: getattr(options, name) for name in names} | {"scheduler": scheduler_fingerprint()}


@dataclass(frozen=True)
class Profile:
    """What a batch takes, and by when a request must be answered."""

    name: str
    curve: Curve
    target_ns: int

    @property
    def rate(self) -> float:
        """Requests a second of one row each, at best, in batches that fit the target."""
        fitting = [took_ns for took_ns in self.curve if took_ns <= self.target_ns]
        return best_rate(tuple(fitting))


def _line(target_ms: int) -> Profile:
    curve = linear(5 * MILLISECOND, MILLISECOND, 32)
    return Profile(f"linear, {target_ms} ms", curve, target_ms * MILLISECOND)


_VGG16_MS = {1: 6.4, 2: 9.0, 4: 14.0, 8: 23.0, 16: 41.5, 24: 60.0, 32: 75.0}
PROFILES = {
    "linear25": _line(25),
    "linear50": _line(50),
    "linear100": _line(100),
    "vgg100": Profile(
        "VGG16 table, 100 ms",
        from_table({size: round(ms * MILLISECOND) for size, ms in _VGG16_MS.items()}, 32),
        100 * MILLISECOND,
    ),
}
PROCESSES: dict[str, Process] = {
    "poisson": Poisson(),
    "mmpp": Mmpp(ratio=4.0, share=0.5, cycle_s=0.4),
    "gamma": Gamma(cv=3.0),
}


def unit_arrivals(process: str, seed: int, requests: int) -> NDArray[np.float64]:
    """Arrivals at a mean rate of one a second, to be squeezed to any rate."""
    draw = np.random.default_rng([seed, *process.encode()])
    if process == "mmpp":
        # Spells are counted in requests, so that they mean the same at every rate.
        times = Mmpp(1.0, 4.0, 0.5, 400.0).seconds(requests, draw)
    else:
        times = PROCESSES[process].at_rate(1.0).seconds(requests, draw)
    return np.asarray(times, np.float64)


def at_rate(unit: NDArray[np.float64], rate: float) -> list[int]:
    """Nanoseconds, at so many requests a second."""
    moments: list[int] = np.rint(unit * (SECOND / rate)).astype(np.int64).tolist()
    return moments


def poisson(rate: float, seconds: float, seed: int, start_s: float = 0.0) -> list[int]:
    """Nanoseconds of Poisson arrivals for so long, from a moment on."""
    draw = np.random.default_rng([seed, 11])
    found = arrival_times(
        Poisson(rate),
        draw,
        requests=int(rate * seconds * 1.3) + 100,
        duration_ns=round(seconds * SECOND),
    )
    moments: list[int] = (found + round(start_s * SECOND)).tolist()
    return moments


def highest(low: float, high: float, steps: int, holds: Callable[[float], bool]) -> float:
    """The highest rate that holds, by bisection; relative, because rates differ by orders."""
    for _ in range(steps):
        middle = (low * high) ** 0.5
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


@dataclass
class Stream:
    """Requests of one kind, at ascending moments."""

    at_ns: Sequence[int]
    model: str = "m"
    tenant: str = ""
    priority: int = 0
    shapes: Shapes = ()
    apart: bool = False
    """Whether none of its requests shares a batch with another."""
    deadline_ns: int | None = None
    """How long its callers wait."""
    rows: int = 1
    """Of each request."""


@dataclass
class Served:
    """One simulated model."""

    profile: Profile
    policy: NamedPolicy
    limits: QueueLimits = field(default_factory=QueueLimits)
    instances: int = 1
    device: str = ""
    cold: bool = False
    aims: bool = True
    """Whether it has its profile's target, or none."""
    batch_sizes: tuple[int, ...] = ()
    """The sizes that its planner knows of."""
    padding: tuple[PaddedAxis, ...] = ()
    """Rows take the part of the profile's time that their padded length is of the longest."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that its rows are padded to; none without padding."""
        return self.padding[0].buckets if self.padding else ()

    def takes_ns(self, rows: int, shapes: Shapes) -> int:
        """What a batch takes."""
        took_ns = self.profile.curve[rows]
        return took_ns * shapes[0][0] // self.lengths[-1] if self.padding else took_ns


@dataclass
class Played:
    """How the requests ended, by stream; times in nanoseconds."""

    arrived: list[NDArray[np.int64]]
    answered: list[NDArray[np.int64]]
    """-1 where a request was refused."""
    ended: list[NDArray[np.int64]]
    """When each request was answered or refused."""
    busy_ns: int
    ended_ns: int

    def in_time(self, stream: int, target_ns: int) -> NDArray[np.bool_]:
        """Whether each request of a stream was answered within the target."""
        done, came = self.answered[stream], self.arrived[stream]
        late: NDArray[np.bool_] = (done < 0) | (done > came + target_ns + TOLERANCE_NS)
        return ~late


ADAPTIVE = parse_policy("adaptive")
"""With the default limit: what is late is served up to it."""

REFUSES_LATE = NamedPolicy(
    "adaptive, limit: target",
    lambda settings: replace(settings, policy=Adaptive(limit_ns=settings.target_ns)),
)
"""What can only be late is refused."""


def play(
    streams: Sequence[Stream],
    models: dict[str, Served],
    *,
    noise: float = 0.0,
    slow: tuple[int, int, float] | None = None,
    device_limit: int | None = None,
    seed: int = 0,
    stalls: Stalls | None = None,
    watch: Callable[[Scheduler, int], None] | None = None,
) -> Played:
    """Run the production scheduler through the streams, under virtual time.

    With `stalls`, instances run on a thread of their own and may have a prefetched batch. `watch` gets the
    scheduler before each step that gave commands is carried out.
    """
    factories = {name: served.policy.factory for name, served in models.items()}
    factory = next(iter(factories.values()))
    scheduler = Scheduler(factory)
    draw = np.random.default_rng([seed, 7])
    busy_ns = 0
    one_row = all(stream.rows == 1 for stream in streams)

    def takes_ns(dispatch: Dispatch) -> int:
        nonlocal busy_ns
        rows = len(dispatch.parts)
        if not one_row:
            rows = sum([part.stop - part.start for part in dispatch.parts])
        took_ns = models[dispatch.model].takes_ns(rows, dispatch.bucket)
        if noise:
            took_ns = round(took_ns * draw.uniform(1 - noise, 1 + noise))
        if slow is not None and slow[0] <= scheduler.now_ns < slow[1]:
            took_ns = round(took_ns * slow[2])
        busy_ns += took_ns
        return took_ns

    order = sorted(
        (at_ns, place, number)
        for place, stream in enumerate(streams)
        for number, at_ns in enumerate(stream.at_ns)
    )
    answered_ns = np.full(len(order), -1, np.int64)
    ended_ns = np.zeros(len(order), np.int64)

    def observe(now_ns: int, commands: list[Command]) -> None:
        if watch is not None:
            watch(scheduler, now_ns)
        for command in commands:
            if type(command) is Settle:
                ids = list(command.ids)
                ended_ns[ids] = now_ns
                if command.outcome is Outcome.OK:
                    answered_ns[ids] = now_ns

    driver = Driver(scheduler, takes_ns, observe=observe)
    if stalls is not None:

        def run(dispatch: Dispatch, from_ns: int) -> tuple[int, int]:
            return from_ns, from_ns + takes_ns(dispatch)

        driver = StalledDriver(scheduler, run, DISPATCH_NS, stalls, observe=observe)
    driver.step(list(_begin(models, device_limit, prefetches=stalls is not None)), 0)
    driver.run(_arrivals(streams, order, driver))
    places = np.array([place for _, place, _ in order])
    came_ns = np.array([at_ns for at_ns, _, _ in order])
    return Played(
        [came_ns[places == place] for place in range(len(streams))],
        [answered_ns[places == place] for place in range(len(streams))],
        [ended_ns[places == place] for place in range(len(streams))],
        busy_ns,
        scheduler.now_ns,
    )


def _arrivals(
    streams: Sequence[Stream], order: list[tuple[int, int, int]], driver: Driver
) -> Iterable[tuple[int, Event]]:
    """The requests, each with its caller's deadline posted: (moment, place of the stream, number)."""
    for request_id, (at_ns, place, _) in enumerate(order):
        stream = streams[place]
        deadline_ns = None
        if stream.deadline_ns is not None:
            deadline_ns = at_ns + stream.deadline_ns
            driver.post(deadline_ns + 1, RequestCancelled(request_id, CancelCause.DEADLINE))
        yield (
            at_ns,
            RequestArrived(
                request_id,
                stream.model,
                stream.rows,
                0,
                stream.shapes,
                str(request_id) if stream.apart else "",
                at_ns,
                None,
                deadline_ns,
                stream.priority,
                stream.tenant,
            ),
        )


def _begin(
    models: dict[str, Served], device_limit: int | None, *, prefetches: bool
) -> Iterable[Event]:
    for name, served in models.items():
        curve = served.profile.curve
        target_ns = served.profile.target_ns if served.aims else None
        policy = Adaptive(limit_ns=default_limit_ns(target_ns))
        asked = ModelSettings(
            len(curve) - 1,
            policy,
            served.limits,
            target_ns,
            served.padding,
            batch_sizes=served.batch_sizes,
        )
        settings = served.policy.settings(asked)
        yield ModelConfigured(name, settings)
        sizes = [rows for rows in WARMUP if rows < len(curve)]
        shapes: list[Shapes] = [((length,),) for length in served.lengths] or [()]
        profiles = [
            (each, () if served.cold else tuple((b, served.takes_ns(b, each)) for b in sizes))
            for each in shapes
        ]
        profile, buckets = ((), tuple(profiles)) if served.padding else (profiles[0][1], ())
        for number in range(served.instances):
            device = served.device or f"{name}{number}"
            if served.device and device_limit is not None:
                yield DeviceConfigured(device, device_limit)
            yield InstanceUp(
                f"{name}#{number}", 1, name, device, 1, profile, buckets, prefetches=prefetches
            )
