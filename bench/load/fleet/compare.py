"""The real fleet beside the simulated one: the same arrivals, the same autoscaler, measured start-up and drain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batcher.clock import MILLISECOND, SECOND
from batcher.config import parse_config
from batcher.simulation.engine.scenario import Costs, deployment_of, models_of
from batcher.simulation.engine.service_time import parse_timer_delay
from batcher.simulation.engine.simulation import Conditions
from batcher.simulation.fleet import (
    Clients,
    Drain,
    FleetRun,
    FleetSettings,
    Readiness,
    Scrape,
    Span,
    StartUp,
    flaps,
    requests_at,
    simulate_fleet,
)
from fleet.real import RealRun
from fleet.scene import (
    BASE_MS,
    DEADLINE_S,
    DRAIN_DELAY_NS,
    MODEL,
    PER_ROW_MS,
    ROWS,
    TARGET_NS,
    Autoscaler,
    Scene,
    config,
)

OVERHEAD_NS = MILLISECOND // 2
"""What a batch takes beyond its time on the emulated device: threads and the event loop (docs/benchmarks.md)."""
TIMER_DELAY = "80us"

SECONDS_BAR = 0.1
"""How far replica-seconds may be from those of the simulation."""
SETTLED_NS = 10 * SECOND
"""After a step it may take so long until requests are on time again."""
ON_TIME_BAR = 0.99
SENT_LATE_NS = 20 * MILLISECOND
"""A tenth of the target. A Python process that does nothing else sends a request within 2 ms."""

Records = Sequence[dict[str, Any]]


def measured(run: RealRun) -> dict[str, float]:
    """Means of what the simulation is given, in seconds: of the replicas that the autoscaler started and stopped."""
    started = [r for r in run.replicas if r["started_ns"] > 0 and r["ready_ns"] is not None]
    known = [r for r in started if r["known_ns"] is not None]
    stopped = [r for r in run.replicas if r["ready_ns"] and _inside(r, run)]

    def mean(records: Records, since: str, until: str, default_s: float) -> float:
        spans = [(each[until] - each[since]) / SECOND for each in records]
        return round(fmean(spans), 3) if spans else default_s

    return {
        "start_up": mean(started, "started_ns", "ready_ns", 3.0),
        "known": mean(known, "ready_ns", "known_ns", 1.0),
        "drain": mean(stopped, "stopped_ns", "ended_ns", DRAIN_DELAY_NS / SECOND),
    }


def _inside(record: dict[str, Any], run: RealRun) -> bool:
    """Whether it was stopped by the autoscaler, not at the end."""
    stopped_ns = record["stopped_ns"]
    return stopped_ns is not None and stopped_ns < run.steps[-1].at_ns


def simulated(scene: Scene, due_ns: list[int], spans: dict[str, float]) -> FleetRun:
    """The same scene in virtual time."""
    served = parse_config(json.dumps(config()), "fleet", {})
    table = {
        rows: (BASE_MS + PER_ROW_MS * rows) * MILLISECOND + OVERHEAD_NS
        for rows in range(1, ROWS + 1)
    }
    settings = FleetSettings(
        deployment_of(served, models_of(served, None), Costs({"": table})),
        replicas=scene.replicas,
        conditions=Conditions(seed=scene.seed, timer_delay=parse_timer_delay(TIMER_DELAY)),
        start_up=StartUp(image=Span(round(spans["start_up"] * SECOND))),
        # Clients watch the health of each server, so they leave at once.
        readiness=Readiness(added_ns=round(spans["known"] * SECOND), removed_ns=0),
        drain=Drain(delay_ns=round(spans["drain"] * SECOND)),
        clients=Clients(wait_ns=round(DEADLINE_S * SECOND), retries=3),
        # The scaler asks replicas once a second; its answers are half a second old on average.
        scrape=Scrape(interval_ns=SECOND, delay_ns=SECOND // 2),
    )
    load = requests_at(due_ns, MODEL)
    return simulate_fleet(settings, load, Autoscaler(scene), until_ns=scene.until_ns)


def figures(
    scene: Scene,
    due_ns: list[int],
    took_ns: NDArray[np.int64],
    lost: Counter[str],
    records: Records,
) -> dict[str, Any]:
    """What is told of a fleet of either kind; `took_ns` is below 0 for what was not answered."""
    answered = took_ns >= 0
    on_time = answered & (took_ns <= TARGET_NS)
    return {
        "requests": len(due_ns),
        "answered": int(answered.sum()),
        "on_time": int(on_time.sum()),
        "not_answered": dict(lost),
        "replica_seconds": round(replica_seconds(records, scene.until_ns), 1),
        "most_replicas": int(max(alive(records, np.arange(0, scene.until_ns, SECOND)))),
    }


def replica_seconds(records: Records, until_ns: int) -> float:
    """Seconds of all replicas between the start and the end of the load."""
    spent = 0
    for each in records:
        ended_ns = until_ns if each["ended_ns"] is None else each["ended_ns"]
        spent += max(0, min(ended_ns, until_ns) - max(each["started_ns"], 0))
    return spent / SECOND


def alive(records: Records, at_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many replicas there are at each moment."""
    found = np.zeros(len(at_ns), np.int64)
    for each in records:
        ended_ns = np.iinfo(np.int64).max if each["ended_ns"] is None else each["ended_ns"]
        found += (each["started_ns"] <= at_ns) & (at_ns < ended_ns)
    return found


def real_times(run: RealRun) -> tuple[NDArray[np.int64], Counter[str]]:
    """The latency of each request, -1 for none; and why there was none."""
    took_ns = np.full(len(run.due_ns), -1, np.int64)
    for place, latency_ns in run.record.latency_ns.items():
        took_ns[place] = latency_ns
    return took_ns, Counter(run.record.failed.values())


def simulated_times(run: FleetRun) -> tuple[NDArray[np.int64], Counter[str]]:
    """The same of the simulated fleet."""
    took_ns = np.where(run.answered, run.settled_ns - run.workload.at_ns, -1)
    lost = Counter(
        "refused" if end == 0 else f"lost ({end})" for end in run.end[~run.answered].tolist()
    )
    return took_ns, lost


def simulated_records(run: FleetRun) -> Records:
    """The replicas of the simulated fleet, as those of the real one."""
    names = ("number", "started_ns", "ready_ns", "known_ns", "stopped_ns", "ended_ns")
    return [{name: getattr(each, name) for name in names} for each in run.replicas]


def settled_share(
    scene: Scene,
    due_ns: list[int],
    real: NDArray[np.bool_],
    model: NDArray[np.bool_],
    calm: NDArray[np.bool_],
) -> dict[str, Any]:
    """The part on time in the seconds from `SETTLED_NS` after a step in which the simulation is on time throughout.

    A second that follows one in which it is not is left out, too: a queue ends some milliseconds earlier or later.
    Beside it, the same of the requests that are `calm`.
    """
    due = np.array(due_ns)
    second = due // SECOND
    bounds = [0, *scene.steps_ns, scene.until_ns]
    counted = np.zeros(len(due), np.bool_)
    for begin_ns, end_ns in pairwise(bounds):
        since_ns = begin_ns + (SETTLED_NS if begin_ns else 0)
        for each in range(since_ns // SECOND, end_ns // SECOND):
            both = (second == each) | (second == each - 1)
            if model[both].all():
                counted |= second == each
    total = int(counted.sum())
    quiet = counted & calm
    return {
        "seconds_possible": len(np.unique(second[counted])),
        "requests_counted": total,
        "on_time": int(real[counted].sum()),
        "on_time_share": round(float(real[counted].mean()), 5) if total else None,
        "requests_while_calm": int(quiet.sum()),
        "on_time_share_while_calm": round(float(real[quiet].mean()), 5) if quiet.any() else None,
    }


def callers_calm(run: RealRun) -> NDArray[np.bool_]:
    """Which requests are due where the callers themselves got the processor, in that second and the one before.

    Where a request is sent late by `SENT_LATE_NS`, no server on this machine can be on time, either.
    """
    second = np.array(run.due_ns) // SECOND
    late = np.array(run.record.sent_late_ns[: len(second)]) >= SENT_LATE_NS
    slow = np.unique(second[late])
    calm: NDArray[np.bool_] = ~np.isin(second, [*slow, *(slow + 1)])
    return calm


def timeline(
    scene: Scene, due_ns: list[int], took_ns: NDArray[np.int64], records: Records
) -> dict[str, list[float]]:
    """Each second of the run: what was due in it, how much of that was on time, its p95 (ms), replicas."""
    due = np.array(due_ns)
    found: dict[str, list[float]] = {"due": [], "on_time": [], "p95_ms": [], "replicas": []}
    edges = np.arange(0, scene.until_ns, SECOND)
    found["replicas"] = alive(records, edges).tolist()
    for begin in edges:
        inside = (begin <= due) & (due < begin + SECOND)
        answered = took_ns[inside & (took_ns >= 0)]
        found["due"].append(int(inside.sum()))
        found["on_time"].append(int((answered <= TARGET_NS).sum()))
        p95 = float(np.percentile(answered, 95)) / MILLISECOND if len(answered) else 0.0
        found["p95_ms"].append(round(p95, 1))
    return found


def judged(
    scene: Scene, run: RealRun, spans: dict[str, float], calm: NDArray[np.bool_]
) -> dict[str, Any]:
    """The real run, the simulated one, and whether the bars hold.

    `calm` says which requests met no slow spell of the machine. What is on time is judged on all, and told of these, too.
    """
    sim = simulated(scene, run.due_ns, spans)
    took_ns, lost = real_times(run)
    sim_ns, sim_lost = simulated_times(sim)
    sim_records = simulated_records(sim)
    real = figures(scene, run.due_ns, took_ns, lost, run.replicas)
    model = figures(scene, run.due_ns, sim_ns, sim_lost, sim_records)
    on_time = (took_ns >= 0) & (took_ns <= TARGET_NS)
    possible = (sim_ns >= 0) & (sim_ns <= TARGET_NS)
    settled = settled_share(scene, run.due_ns, on_time, possible, calm)
    ratio = real["replica_seconds"] / model["replica_seconds"]
    share = settled["on_time_share"]
    return {
        "measured_seconds": spans,
        "real": real | {"flaps": flaps(run.steps)},
        "simulated": model | {"flaps": flaps(sim.steps)},
        "replica_seconds_ratio": round(ratio, 4),
        "settled": settled,
        "checks": {
            "no request is lost": not set(lost) - {"refused"} and not run.problems,
            f"replica-seconds within {SECONDS_BAR:.0%}": abs(ratio - 1) <= SECONDS_BAR,
            f"on time from {SETTLED_NS // SECOND} s after a step, where that is possible": share
            is not None
            and share >= ON_TIME_BAR,
        },
        "problems": run.problems,
        "scaler": run.scaler,
        "replicas": run.replicas,
        "steps": [
            [round(step.at_ns / SECOND, 2), step.desired, step.ready, step.load, step.reason]
            for step in run.steps
        ],
        "simulated_steps": [
            [round(step.at_ns / SECOND, 2), step.desired, step.ready, step.reason]
            for step in sim.steps
        ],
        "seconds": {
            "real": timeline(scene, run.due_ns, took_ns, run.replicas),
            "simulated": timeline(scene, run.due_ns, sim_ns, sim_records),
        },
    }
