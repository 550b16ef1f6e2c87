"""What failing requests, failing devices and requests larger than a batch cost the others."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import world

from batcher.clock import MILLISECOND, SECOND
from batcher.config.policies import default_limit_ns
from batcher.core.commands import Command, Dispatch, FailureStorm, Outcome, Settle
from batcher.core.events import (
    BatchProgress,
    Event,
    FailureCause,
    InstanceUp,
    ModelConfigured,
    RequestArrived,
    Timings,
)
from batcher.core.faults.bisection import STORM_FAILURES
from batcher.core.scheduler import Scheduler
from batcher.core.settings import Adaptive, FixedWindow, ModelSettings, PolicySettings
from batcher.simulation import Driver
from batcher.simulation.engine.driver import succeed
from batcher.simulation.engine.service_time import linear
from batcher.testing.invariants import validate

POISON_SHARE = 0.01
LOAD = 0.5
POISON_LOADS = (0.4, LOAD)
FLAT = world.Profile("flat, 50 ms", linear(5 * MILLISECOND, MILLISECOND // 2, 32), 50 * MILLISECOND)
"""A device that gains more from large batches: 5 ms and half a millisecond a row."""

OVERSIZED = 10
"""An oversized request has the rows of so many of the largest batches."""

BEGINS_NS, ENDS_NS = 4 * SECOND, 6 * SECOND
"""When the device of a scene fails."""

STORM_BOUND = STORM_FAILURES
"""Further executions until a storm is detected, on a device that fails every batch."""

Fault = Callable[[Dispatch, int], FailureCause | None]


@dataclass
class Watched:
    """How the requests of one run ended, and what was executed for them."""

    came_ns: list[int]
    ended_ns: dict[int, int] = field(default_factory=dict)
    outcome: dict[int, Outcome] = field(default_factory=dict)
    executions: int = 0
    extra: int = 0
    busy_ns: int = 0
    extra_ns: int = 0
    storms: int = 0
    calms: int = 0
    storm_after: int | None = None
    """The further executions until the first storm was detected."""
    batches: list[Dispatch] = field(default_factory=list)
    started_ns: list[int] = field(default_factory=list)
    root: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By failed batch: the requests in it."""

    def observe(self, now_ns: int, commands: list[Command]) -> None:
        """Record the scheduler's commands."""
        for command in commands:
            if isinstance(command, Settle):
                for request_id in command.ids:
                    self.ended_ns[request_id] = now_ns
                    self.outcome[request_id] = command.outcome
            elif isinstance(command, FailureStorm):
                if self.storm_after is None:
                    self.storm_after = self.extra
                self.storms += not command.over
                self.calms += command.over

    def ages_ms(self, ids: Iterable[int]) -> np.ndarray[Any, Any]:
        """How long requests waited for their answers."""
        return np.array([(self.ended_ns[i] - self.came_ns[i]) / MILLISECOND for i in ids])


def play(
    profile: world.Profile,
    policy: PolicySettings,
    requests: list[tuple[int, int]],
    fault: Fault,
    *,
    target_ns: int | None,
) -> Watched:
    """Serve (moment, rows) pairs; `fault` says whether a batch that ends now has failed."""
    scheduler = Scheduler()
    watched = Watched([at_ns for at_ns, _ in requests])
    curve = profile.curve

    def takes_ns(dispatch: Dispatch) -> int:
        took_ns = curve[sum(part.stop - part.start for part in dispatch.parts)]
        watched.executions += 1
        watched.busy_ns += took_ns
        watched.batches.append(dispatch)
        watched.started_ns.append(scheduler.now_ns)
        if dispatch.attempt > 1:
            watched.extra += 1
            watched.extra_ns += took_ns
        return took_ns

    def outcome(dispatch: Dispatch, timings: Timings) -> BatchProgress:
        cause = fault(dispatch, timings.execute_end_ns)
        if cause is None:
            return succeed(dispatch, timings)
        if dispatch.attempt == 1:
            watched.root[dispatch.batch_id] = tuple(part.id for part in dispatch.parts)
        return BatchProgress(dispatch.batch_id, (), timings=timings, error=cause)

    def arrivals() -> Iterable[tuple[int, Event]]:
        for request_id, (at_ns, rows) in enumerate(requests):
            yield at_ns, RequestArrived(request_id, "m", rows, 0, (), "", at_ns)

    driver = Driver(scheduler, takes_ns, observe=watched.observe, outcome=outcome)
    warm = tuple((rows, curve[rows]) for rows in world.WARMUP)
    settings = ModelSettings(len(curve) - 1, policy, target_ns=target_ns)
    driver.step([ModelConfigured("m", settings), InstanceUp("m#0", 1, "m", "d", 1, warm)], 0)
    driver.run(arrivals())
    validate(scheduler)
    return watched


def stream(profile: world.Profile, load: float, requests: int, seed: int) -> list[tuple[int, int]]:
    """Poisson arrivals of one row, at a share of capacity."""
    unit = world.unit_arrivals("poisson", seed, requests)
    return [(at_ns, 1) for at_ns in world.at_rate(unit, load * profile.rate)]


def poisoned(share: float, requests: int, seed: int) -> set[int]:
    """The requests that fail, drawn by chance."""
    draw = np.random.default_rng([seed, 99])
    return set(np.flatnonzero(draw.random(requests) < share).tolist())


def poison(options: argparse.Namespace) -> dict[str, Any]:
    """1 % of the requests make their batch fail, at 40 and 50 % of the device's capacity."""
    found: dict[str, Any] = {}
    profiles = [*(world.PROFILES[name] for name in ("linear50", "linear100", "vgg100")), FLAT]
    for profile in profiles:
        limits = {
            "limit: target": profile.target_ns,
            "default limit": default_limit_ns(profile.target_ns),
        }
        for limit, load in product(limits, POISON_LOADS):
            policy = Adaptive(limit_ns=limits[limit])
            rows = [
                _poison_run(profile, policy, load, options.requests, seed)
                for seed in range(options.seeds)
            ]
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            mean["ok"] = bool(
                max(row["innocents_failed"] for row in rows) == 0
                and max(row["extra_over_bound"] for row in rows) <= 1.0
                and max(row["innocents_p99_ms"] for row in rows) <= profile.target_ns / MILLISECOND
            )
            found[f"{profile.name}, {limit}, load {load}"] = mean
    return found


def _poison_run(
    profile: world.Profile, policy: Adaptive, load: float, requests: int, seed: int
) -> dict[str, float]:
    arrivals = stream(profile, load, requests, seed)
    bad = poisoned(POISON_SHARE, requests, seed)

    def fault(dispatch: Dispatch, _: int) -> FailureCause | None:
        hit = any(part.id in bad for part in dispatch.parts)
        return FailureCause.UNKNOWN if hit else None

    run = play(profile, policy, arrivals, fault, target_ns=profile.target_ns)
    clean = play(profile, policy, arrivals, lambda *_: None, target_ns=profile.target_ns)
    innocents = [i for i in range(requests) if i not in bad]
    ok = [i for i in innocents if run.outcome[i] is Outcome.OK]
    bound = sum(
        (2 * math.log2(len(ids)) + 1) * len(bad.intersection(ids)) for ids in run.root.values()
    )
    ages_ms = run.ages_ms(ok)
    in_time = ages_ms <= (profile.target_ns + world.TOLERANCE_NS) / MILLISECOND
    ran = [i for i in bad if run.outcome[i] is Outcome.FAILED]
    return {
        "innocents": len(innocents),
        "innocents_failed": sum(run.outcome[i] is Outcome.FAILED for i in innocents),
        "innocents_refused": sum(run.outcome[i] is Outcome.REJECTED for i in innocents),
        "refused_without_poison": sum(o is Outcome.REJECTED for o in clean.outcome.values()),
        "innocents_in_time": float(in_time.sum() / len(innocents)),
        "innocents_p99_ms": float(np.percentile(ages_ms, 99)),
        "p99_without_poison_ms": float(np.percentile(clean.ages_ms(clean.ended_ns), 99)),
        "extra_per_poison_row": run.extra / len(ran),
        "extra_over_bound": run.extra / bound,
        "rows_a_batch": float(np.mean([len(d.parts) for d in run.batches if d.attempt == 1])),
        "busy_bisecting": run.extra_ns / run.busy_ns,
        "storms": run.storms,
    }


def failing(options: argparse.Namespace) -> dict[str, Any]:
    """Every batch fails for two seconds, with cause `device` or `unknown`; then only a third of them.

    Every request must be settled. A batch that failed because of the device is not executed again;
    where every batch fails, a storm is detected within a bounded number of further executions, and ends. From a second
    after it on, every request is answered.
    """
    profile = world.PROFILES["linear50"]
    found: dict[str, Any] = {}
    causes = {
        "device": (FailureCause.DEVICE, 1.0),
        "unknown": (FailureCause.UNKNOWN, 1.0),
        "every third request": (FailureCause.UNKNOWN, 1 / 3),
    }
    for label, (cause, share) in causes.items():
        requests = min(options.requests, 10_000)
        arrivals = stream(profile, LOAD, requests, 0)
        bad = poisoned(share, requests, 1)

        def fault(
            dispatch: Dispatch, now_ns: int, cause: FailureCause = cause, bad: set[int] = bad
        ) -> FailureCause | None:
            hit = any(part.id in bad for part in dispatch.parts)
            return cause if BEGINS_NS <= now_ns < ENDS_NS and hit else None

        run = play(profile, Adaptive(), arrivals, fault, target_ns=profile.target_ns)
        after = [i for i, (at_ns, _) in enumerate(arrivals) if at_ns > ENDS_NS + SECOND]
        if not after:
            least = math.ceil(requests * (ENDS_NS + SECOND) / arrivals[-1][0]) + 1
            raise SystemExit(
                f"--requests: got {options.requests}; allowed: about {least} or more, so that some"
                " arrive a second after the failures are over"
            )
        late = [i for i in after if run.outcome.get(i) is not Outcome.OK]
        unsettled = requests - len(run.outcome)
        if cause is FailureCause.DEVICE:
            bounded = run.extra == 0
        elif share < 1.0:
            bounded = True
        else:
            bounded = run.storm_after is not None and run.storm_after <= STORM_BOUND
        found[label] = {
            "unsettled": unsettled,
            "failed_batches": len(run.root),
            "extra_executions": run.extra,
            "storms": run.storms,
            "storms_over": run.calms,
            "told_after": run.storm_after,
            "not_answered_later": len(late) / len(after),
            "failed": sum(o is Outcome.FAILED for o in run.outcome.values()),
            "ok": unsettled == 0 and bounded and run.storms == run.calms and not late,
        }
    return found


def oversized(options: argparse.Namespace) -> dict[str, Any]:
    """A request of ten batches among others: whether it succeeds, and how long others wait for it."""
    profile = world.PROFILES["linear50"]
    curve = profile.curve
    found: dict[str, Any] = {}
    policies: dict[str, tuple[PolicySettings, int | None]] = {
        "adaptive": (Adaptive(limit_ns=default_limit_ns(profile.target_ns)), profile.target_ns),
        "adaptive, no target": (Adaptive(), None),
        "fixed": (FixedWindow(), None),
    }
    for label, (policy, target_ns) in policies.items():
        rows = []
        for seed in range(options.seeds):
            arrivals = stream(profile, LOAD, min(options.requests, 5_000), seed)
            large = len(arrivals) // 2
            arrivals[large] = (arrivals[large][0], OVERSIZED * (len(curve) - 1))
            run = play(profile, policy, arrivals, lambda *_: None, target_ns=target_ns)
            rows.append(_behind(run, arrivals, large))
        found[label] = {key: float(np.max([row[key] for row in rows])) for key in rows[0]}
        found[label]["ok"] = bool(
            found[label]["most_batches_of_it_between"] <= 1 and found[label]["unserved"] == 0
        )
    return found


def _behind(run: Watched, arrivals: list[tuple[int, int]], large: int) -> dict[str, float]:
    """How many batches of the large request ran while a later request waited, at most."""
    began_ns, ended_ns = arrivals[large][0], run.ended_ns[large]
    alone_ns = [
        at_ns
        for at_ns, dispatch in zip(run.started_ns, run.batches, strict=True)
        if [part.id for part in dispatch.parts] == [large]
    ]
    most = 0
    for at_ns, dispatch in zip(run.started_ns, run.batches, strict=True):
        for part in dispatch.parts:
            came_ns = arrivals[part.id][0]
            if part.id != large:
                most = max(most, sum(came_ns < alone <= at_ns for alone in alone_ns))
    between = [i for i in range(len(arrivals)) if began_ns < arrivals[i][0] < ended_ns]
    return {
        "unserved": float(run.outcome[large] is not Outcome.OK),
        "took_ms": (ended_ns - began_ns) / MILLISECOND,
        "batches_of_its_own": len(alone_ns),
        "most_batches_of_it_between": most,
        "others_meanwhile": len(between),
        "others_p99_ms": float(np.percentile(run.ages_ms(between), 99)) if between else 0.0,
    }
