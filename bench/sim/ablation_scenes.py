"""Small scenes, each made for a part of the core: what `ablation` plays with that part changed.

A scene is a function of a seed. Of its figures more is better, in points of all requests (`in time %`,
`answered %`), or less: `busy %` of the device, `executions`, and everything in `ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import faults
import lengths
import neighbors
import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.config.policies import default_limit_ns
from batcher.core.commands import Dispatch, Outcome
from batcher.core.events import FailureCause
from batcher.core.settings import Adaptive, ModelSettings, QueueLimits
from batcher.simulation.engine.deployment import Deployment, SimulatedModel
from batcher.simulation.engine.simulation import OUTCOMES, ClosedLoop, Conditions, simulate
from batcher.simulation.policies.named import parse_policy
from batcher.simulation.traffic.workload import Mix, Traffic, Workload

Figures: TypeAlias = dict[str, float]
Scene: TypeAlias = Callable[[int], Figures]

REQUESTS: Final = 6_000
"""Requests of most runs: one of them settles in a third of a second."""

SECONDS: Final = 6
"""How long streams beside each other last."""

LINEAR: Final = world.PROFILES["linear50"]
HIGHER: Final = ("in time %", "answered %")
"""Figures of which more is better begin like this."""


def _arrivals(process: str, load: float, seed: int, profile: world.Profile = LINEAR) -> list[int]:
    return world.at_rate(world.unit_arrivals(process, seed, REQUESTS), load * profile.rate)


def _percent(shares: Any) -> float:
    return 100 * float(np.mean(shares))


def _adaptive(target_ns: int) -> Adaptive:
    return Adaptive(limit_ns=default_limit_ns(target_ns))


def _in_time(at_ns: Sequence[int], served: world.Served, **given: Any) -> float:
    played = world.play([world.Stream(at_ns)], {"m": served}, **given)
    return _percent(played.in_time(0, served.profile.target_ns))


def stream(seed: int) -> Figures:
    """One stream, near and beyond what can be served, and in bursts."""
    cells = (
        ("linear50", "poisson", 0.95),
        ("linear50", "gamma", 0.8),
        ("linear50", "mmpp", 0.85),
        ("linear50", "poisson", 1.5),
        ("linear50", "poisson", 3.0),
        ("linear25", "gamma", 0.6),
        ("vgg100", "poisson", 0.97),
    )
    return {
        f"in time %, {name} {process} {load}": _in_time(
            _arrivals(process, load, seed, world.PROFILES[name]),
            world.Served(world.PROFILES[name], world.ADAPTIVE),
        )
        for name, process, load in cells
    }


def instances(seed: int) -> Figures:
    """Two and four instances."""
    cells = (("linear50", 2, "poisson", 0.97), ("linear50", 2, "poisson", 1.2))
    cells += (("linear25", 4, "gamma", 0.8), ("linear25", 4, "poisson", 1.5))
    return {
        f"in time %, {number} of {name} {process} {load}": _in_time(
            _arrivals(process, number * load, seed, world.PROFILES[name]),
            world.Served(world.PROFILES[name], world.ADAPTIVE, instances=number),
        )
        for name, number, process, load in cells
    }


def idle(seed: int) -> Figures:
    """A device with time to spare: how busy it is, and that all are in time."""
    profile = world.PROFILES["linear100"]
    found: Figures = {}
    for process, load in (("poisson", 0.1), ("poisson", 0.3), ("poisson", 0.6), ("gamma", 0.3)):
        served = world.Served(profile, world.ADAPTIVE)
        played = world.play([world.Stream(_arrivals(process, load, seed, profile))], {"m": served})
        label = f"{process} {load}"
        found[f"busy %, {label}"] = 100 * played.busy_ns / played.ended_ns
        found[f"in time %, {label}"] = _percent(played.in_time(0, profile.target_ns))
    return found


def _served(seed: int, load: float, conditions: Conditions) -> float:
    """Percent of an open stream that is in time in these circumstances."""
    at_ns = np.array(_arrivals("poisson", load, seed))
    work = Workload.of(at_ns, Traffic(Mix.of(("m", 1.0))), np.random.default_rng(seed))
    run = simulate(Deployment((_model(),), {}), world.ADAPTIVE, work, conditions)
    took_ns = run.settled_ns - run.workload.at_ns
    answered = run.outcome == OUTCOMES.index(Outcome.OK)
    return _percent(answered & (took_ns <= LINEAR.target_ns + world.TOLERANCE_NS))


def _model() -> SimulatedModel:
    settings = ModelSettings(32, _adaptive(LINEAR.target_ns), QueueLimits(), LINEAR.target_ns)
    return SimulatedModel("m", settings, LINEAR.curve, warmup_sizes=world.WARMUP)


def closed(seed: int) -> Figures:
    """Callers that wait for their answers: waiting for others must not slow them down."""
    found: Figures = {}
    for callers, think_ms, reply_us in (
        (4, 0, 90),
        (8, 0, 90),
        (16, 0, 90),
        (4, 20, 40),
        (16, 40, 40),
    ):
        draw = np.random.default_rng(seed)
        work = Workload.of(np.zeros(REQUESTS // 3, np.int64), Traffic(Mix.of(("m", 1.0))), draw)
        loop = ClosedLoop(callers, work, think_ns=think_ms * MILLISECOND)
        conditions = Conditions(reply_ns=reply_us * 1000)
        run = simulate(Deployment((_model(),), {}), world.ADAPTIVE, loop, conditions)
        took_ns = run.settled_ns - run.workload.at_ns
        found[f"mean ms, {callers} callers, {think_ms} ms"] = float(took_ns.mean()) / MILLISECOND
    return found


def replies(seed: int) -> Figures:
    """Answers that leave one after the other."""
    conditions = Conditions(reply_ns=100_000)
    return {f"in time %, {load}": _served(seed, load, conditions) for load in (0.85, 1.3)}


def gaps(seed: int) -> Figures:
    """Half a millisecond between two batches, of which prefetching saves most."""
    conditions = Conditions(batch_gap_ns=500_000)
    return {f"in time %, {load}": _served(seed, load, conditions) for load in (0.9, 1.3)}


def levels(seed: int) -> Figures:
    """An urgent class beside more of the lowest than can be served; then both below capacity."""
    found: Figures = {}
    for policy in (world.ADAPTIVE, world.REFUSES_LATE):
        for urgent, other in ((0.6, 1.5), (0.4, 0.5)):
            streams = [
                world.Stream(world.poisson(urgent * LINEAR.rate, SECONDS, seed), priority=1),
                world.Stream(world.poisson(other * LINEAR.rate, SECONDS, seed + 50), priority=3),
            ]
            played = world.play(streams, {"m": world.Served(LINEAR, policy)})
            for place, name in enumerate(("urgent", "other")):
                label = f"{name} of {urgent} + {other}, {policy.name}"
                found[f"in time %, {label}"] = _percent(played.in_time(place, LINEAR.target_ns))
                done = played.answered[place] >= 0
                found[f"answered %, {label}"] = _percent(done)
    return found


def late(seed: int) -> Figures:
    """More than can be served, all of one class, where late requests are served."""
    found: Figures = {}
    for load in (1.1, 1.5):
        played = world.play(
            [world.Stream(_arrivals("poisson", load, seed))],
            {"m": world.Served(LINEAR, world.ADAPTIVE)},
        )
        found[f"in time %, {load}"] = _percent(played.in_time(0, LINEAR.target_ns))
        found[f"answered %, {load}"] = _percent(played.answered[0] >= 0)
        waits_ns = played.ended[0] - played.arrived[0]
        found[f"longest ms, {load}"] = float(waits_ns.max()) / MILLISECOND
    return found


def tenants(seed: int) -> Figures:
    """Four tenants within their share beside one that sends five times its own, or one that comes and goes."""
    share = LINEAR.rate / 5
    limits = QueueLimits(tenants=(*((name, 1.0) for name in "abcd"), ("default", 1.0)))
    found: Figures = {}
    for part, flood in ((0.9, 5.0), (0.9, 1.5), (0.5, 2.5)):
        streams = [
            world.Stream(world.poisson(part * share, SECONDS, 10 * seed + place), tenant=name)
            for place, name in enumerate("abcd")
        ]
        others = world.poisson(flood * share, SECONDS, 10 * seed + 9)
        streams.append(world.Stream(others, tenant="flood"))
        # Comes only for a moment, again and again.
        at_ns = [at for at in others if at % (2 * SECOND) < SECOND // 5]
        streams[3] = replace(streams[3], at_ns=at_ns)
        played = world.play(streams, {"m": world.Served(LINEAR, world.ADAPTIVE, limits)})
        shares = [played.in_time(place, LINEAR.target_ns).mean() for place in range(5)]
        label = f"{part} beside {flood}"
        found[f"in time %, {label}"] = _percent(shares[:3])
        found[f"in time %, the one that comes and goes, {label}"] = _percent(shares[3])
        found[f"in time %, the flood, {label}"] = _percent(shares[4])
    return found


def models(seed: int) -> Figures:
    """An urgent model, and one without a target, on a device that another model fills."""
    urgent = neighbors.URGENT
    patient = world.Profile("patient", LINEAR.curve, 200 * MILLISECOND)
    found: Figures = {}
    for label, aims in (("with a target", True), ("without", False)):
        streams = [
            world.Stream(world.poisson(0.4 * urgent.rate, SECONDS, seed), model="urgent"),
            world.Stream(world.poisson(1.5 * patient.rate, SECONDS, seed + 50), model="patient"),
        ]
        both = {
            "urgent": world.Served(urgent, world.ADAPTIVE, device="gpu"),
            "patient": world.Served(patient, world.ADAPTIVE, device="gpu", aims=aims),
        }
        played = world.play(streams, both, device_limit=1)
        found[f"in time %, beside one {label}"] = _percent(played.in_time(0, urgent.target_ns))
        found[f"answered %, the one {label}"] = _percent(played.answered[1] >= 0)
    long = world.Profile("long", tuple(4 * ns for ns in LINEAR.curve), 600 * MILLISECOND)
    streams = [
        world.Stream(world.poisson(0.3 * urgent.rate, SECONDS, seed), model="urgent"),
        world.Stream(world.poisson(0.4 * long.rate, SECONDS, seed + 50), model="long"),
    ]
    both = {
        "urgent": world.Served(urgent, world.ADAPTIVE, device="gpu"),
        "long": world.Served(long, world.ADAPTIVE, device="gpu"),
    }
    played = world.play(streams, both, device_limit=1)
    found["in time %, beside one with long batches"] = _percent(played.in_time(0, urgent.target_ns))
    found["in time %, the one with long batches"] = _percent(played.in_time(1, long.target_ns))
    streams = [
        world.Stream(world.poisson(0.35 * LINEAR.rate, SECONDS, seed + place), model=name)
        for place, name in enumerate("ab")
    ]
    both = {name: world.Served(LINEAR, world.ADAPTIVE, device="gpu") for name in "ab"}
    played = world.play(streams, both, device_limit=1)
    for place, name in enumerate("ab"):
        found[f"in time %, {name} of two equal ones"] = _percent(
            played.in_time(place, LINEAR.target_ns)
        )
    return found


def groups(seed: int) -> Figures:
    """A stream beside a caller whose requests all differ; then seven kinds of requests."""
    found: Figures = {}
    for aims, part, apart in (
        (True, 0.35, 4.0),
        (True, 0.7, 1.0),
        (True, 0.35, 0.3),
        (False, 0.35, 2.0),
    ):
        streams = [
            world.Stream(world.poisson(part * LINEAR.rate, SECONDS, seed)),
            world.Stream(
                world.poisson(apart * SECOND / LINEAR.curve[1], SECONDS, seed + 50), apart=True
            ),
        ]
        played = world.play(streams, {"m": world.Served(LINEAR, world.ADAPTIVE, aims=aims)})
        label = f"{part} beside {apart}{'' if aims else ', no target'}"
        if aims:
            found[f"in time %, {label}"] = _percent(played.in_time(0, LINEAR.target_ns))
            found[f"in time %, the others of {label}"] = _percent(
                played.in_time(1, LINEAR.target_ns)
            )
        else:
            for place, name in enumerate(("stream", "others")):
                done, came = played.answered[place], played.arrived[place]
                waits_ms = (done - came)[done >= 0] / MILLISECOND
                found[f"p99 ms, {name} of {label}"] = float(np.percentile(waits_ms, 99))
                found[f"answered %, {name} of {label}"] = _percent(done >= 0)
    kinds = [
        world.Stream(world.poisson(60.0, SECONDS, seed + place), shapes=((place + 1,),))
        for place in range(7)
    ]
    played = world.play(kinds, {"m": world.Served(world.PROFILES["linear100"], world.ADAPTIVE)})
    shares = [played.in_time(place, 100 * MILLISECOND).mean() for place in range(7)]
    found["in time %, seven kinds"] = _percent(shares)
    found["in time %, the worst of seven kinds"] = 100 * float(min(shares))
    return found


def poison(seed: int) -> Figures:
    """One request in a hundred makes its batch fail."""
    found: Figures = {}
    for profile, load in (
        (LINEAR, 0.4),
        (LINEAR, 0.5),
        (world.PROFILES["linear100"], 0.5),
        (world.PROFILES["vgg100"], 0.5),
        (faults.FLAT, 0.4),
    ):
        arrivals = faults.stream(profile, load, REQUESTS, seed)
        bad = faults.poisoned(faults.POISON_SHARE, REQUESTS, seed)
        run = _faulty(profile, arrivals, lambda dispatch, _, bad=bad: _hit(dispatch, bad))
        good = [i for i in range(REQUESTS) if i not in bad]
        label = f"{profile.name} {load}"
        found[f"in time %, {label}"] = _good(run, good, profile.target_ns)
        found[f"answered %, {label}"] = _percent([run.outcome[i] is Outcome.OK for i in good])
        found[f"executions for each failing one, {label}"] = run.extra / len(bad)
    return found


def failing(seed: int) -> Figures:
    """For two seconds every batch, or every third request, fails."""
    found: Figures = {}
    arrivals = faults.stream(LINEAR, faults.LOAD, REQUESTS, seed)
    begins_ns, ends_ns = 2 * SECOND, 4 * SECOND
    for label, share in (("every batch", 1.0), ("every third", 1 / 3), ("every tenth", 0.1)):
        bad = faults.poisoned(share, REQUESTS, seed)

        def fault(dispatch: Dispatch, now_ns: int, bad: set[int] = bad) -> FailureCause | None:
            return _hit(dispatch, bad) if begins_ns <= now_ns < ends_ns else None

        run = _faulty(LINEAR, arrivals, fault)
        good = [
            i for i in range(REQUESTS) if i not in bad or not begins_ns <= arrivals[i][0] < ends_ns
        ]
        after = [i for i, (at_ns, _) in enumerate(arrivals) if at_ns > ends_ns]
        found[f"answered %, {label}"] = _percent([run.outcome[i] is Outcome.OK for i in good])
        found[f"in time %, {label}"] = _good(run, good, LINEAR.target_ns)
        found[f"in time %, after {label}"] = _good(run, after, LINEAR.target_ns)
        found[f"executions / 100, {label}"] = run.extra / 100
    return found


def _hit(dispatch: Dispatch, bad: set[int]) -> FailureCause | None:
    return FailureCause.UNKNOWN if any(part.id in bad for part in dispatch.parts) else None


def _faulty(
    profile: world.Profile, arrivals: list[tuple[int, int]], fault: faults.Fault
) -> faults.Watched:
    policy = _adaptive(profile.target_ns)
    return faults.play(profile, policy, arrivals, fault, target_ns=profile.target_ns)


def _good(run: faults.Watched, ids: Sequence[int], target_ns: int) -> float:
    """Percent of these requests that were answered in time."""
    most_ns = target_ns + world.TOLERANCE_NS
    return _percent(
        [run.outcome[i] is Outcome.OK and run.ended_ns[i] - run.came_ns[i] <= most_ns for i in ids]
    )


def oversized(seed: int) -> Figures:
    """Now and then a request of ten batches, or of three; most are in time all the same."""
    found: Figures = {}
    for rows, every in ((320, 2_000), (96, 500)):
        arrivals = faults.stream(LINEAR, faults.LOAD, REQUESTS, seed)
        large = set(range(every // 2, REQUESTS, every))
        arrivals = [(at, rows if i in large else 1) for i, (at, _) in enumerate(arrivals)]
        policy = _adaptive(LINEAR.target_ns)
        run = faults.play(LINEAR, policy, arrivals, lambda *_: None, target_ns=LINEAR.target_ns)
        small = [i for i in range(REQUESTS) if i not in large]
        found[f"in time %, beside {rows} rows"] = _good(run, small, LINEAR.target_ns)
        done = [i for i in sorted(large) if run.outcome[i] is Outcome.OK]
        found[f"answered %, {rows} rows"] = 100 * len(done) / len(large)
        if done:
            found[f"mean ms, {rows} rows"] = float(run.ages_ms(done).mean())
    return found


def noise(seed: int) -> Figures:
    """Uneven times, nothing known at first, a device that is slow for two seconds."""
    found: Figures = {}
    for process, load in (("poisson", 0.85), ("gamma", 0.6), ("poisson", 1.5)):
        served = world.Served(LINEAR, world.ADAPTIVE, cold=True)
        found[f"in time %, {process} {load}, uneven"] = _in_time(
            _arrivals(process, load, seed), served, noise=0.2, seed=seed
        )
    at_ns = world.poisson(0.7 * LINEAR.rate, 10, seed)
    for factor in (1.6, 12.0):
        slow = (3 * SECOND, 5 * SECOND, factor)
        for policy in (world.ADAPTIVE, world.REFUSES_LATE):
            found[f"in time %, {factor} x slower, {policy.name}"] = _in_time(
                at_ns, world.Served(LINEAR, policy), slow=slow
            )
    streams = [
        world.Stream(world.poisson(100, 8, 10 * seed + place), shapes=((place + 1,),))
        for place in range(2)
    ]
    slow = (2 * SECOND, 4 * SECOND, 12.0)
    served = world.Served(LINEAR, world.ADAPTIVE)
    played = world.play(streams, {"m": served}, slow=slow)
    shares = [played.in_time(place, LINEAR.target_ns).mean() for place in range(2)]
    found["in time %, two shapes"] = _percent(shares)
    return found


BUCKETS: Final = (16, 32, 64, lengths.LONGEST)
PADDED_RATES: Final = {"a batch costs": 3_600.0, "both cost": 1_600.0, "elements cost": 880.0}
"""Requests a second that each device of `lengths` serves with few to spare."""


def padded(seed: int) -> Figures:
    """Requests of mixed lengths, in four buckets."""
    policy = _adaptive(lengths.TARGET_NS)
    found: Figures = {}
    for device, rate in PADDED_RATES.items():
        for load in (0.7, 1.0):
            figures = lengths.play(device, load * rate, REQUESTS, seed, BUCKETS, policy)
            found[f"in time %, {device} {load}"] = 100 * figures["on_time"]
            found[f"busy %, {device} {load}"] = 100 * figures["busy"]
    return found


def fixed(seed: int) -> Figures:
    """`fixed` windows of 5 ms: their p99."""
    profile = world.PROFILES["linear50"]
    served = world.Served(profile, parse_policy("fixed:5ms"))
    found: Figures = {}
    for load in (0.3, 0.8):
        played = world.play([world.Stream(_arrivals("poisson", load, seed))], {"m": served})
        done, came = played.answered[0], played.arrived[0]
        waits_ms = (done - came)[done >= 0] / MILLISECOND
        found[f"p99 ms, {load}"] = float(np.percentile(waits_ms, 99))
    return found


SCENES: Final[dict[str, Scene]] = {
    each.__name__: each
    for each in (
        *(stream, instances, idle, closed, replies, gaps, levels, late, tenants, models),
        *(groups, poison, failing, oversized, noise, padded, fixed),
    )
}
