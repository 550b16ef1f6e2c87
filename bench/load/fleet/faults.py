"""What callers see of a replica that is killed, and of one that hangs, under a steady load."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any, Final

import numpy as np

from batcher.clock import MILLISECOND, SECOND
from fleet.compare import real_times, timeline
from fleet.real import Event, RealRun
from fleet.replicas import Fleet
from fleet.scene import TARGET_NS, Scene

KILLED_S, HANGS_S, GOES_ON_S, END_S = 15, 30, 45, 60
AFTER_NS: Final = 10 * SECOND
"""For so long after a fault requests count as its."""

SCENE: Final = Scene((150.0,), (float(END_S),), replicas=3, most=6)
"""65 % of what three replicas serve: two are just enough."""


def _to(place: int, signum: signal.Signals) -> Any:
    def befall(fleet: Fleet) -> None:
        fleet.signal(fleet.all[place], signum)

    return befall


EVENTS: tuple[Event, ...] = (
    (KILLED_S, _to(0, signal.SIGKILL)),
    (HANGS_S, _to(1, signal.SIGSTOP)),
    (GOES_ON_S, _to(1, signal.SIGCONT)),
)


def judged(run: RealRun) -> dict[str, Any]:
    """What became of the requests after each fault, and what the scaler said."""
    due = np.array(run.due_ns)
    took_ns, lost = real_times(run)
    told: dict[str, Any] = {}
    for name, at_s in (("killed", KILLED_S), ("hangs", HANGS_S), ("goes_on", GOES_ON_S)):
        at_ns = at_s * SECOND
        inside = (at_ns - SECOND <= due) & (due < at_ns + AFTER_NS)
        places = np.flatnonzero(inside).tolist()
        answered = took_ns[inside & (took_ns >= 0)]
        told[name] = {
            "requests": len(places),
            "late": int((answered > TARGET_NS).sum()),
            "slowest_ms": round(float(answered.max()) / MILLISECOND, 1),
            "not_answered": dict(
                Counter(run.record.failed[p] for p in places if p in run.record.failed)
            ),
            "load_before": _load(run, at_ns - 3 * SECOND, at_ns)[1],
            "load_after_least_most": _load(run, at_ns, at_ns + AFTER_NS),
        }
    sizes = [step.desired for step in run.steps]
    return {
        "faults": told,
        "not_answered": dict(lost),
        "sizes": sorted(set(sizes)),
        "scaler": run.scaler,
        "problems": run.problems,
        "seconds": timeline(SCENE, run.due_ns, took_ns, run.replicas),
        "checks": {
            "no request is lost with its replica": not lost and not run.problems,
            "the fleet does not shrink": sizes == sorted(sizes),
        },
    }


def _load(run: RealRun, since_ns: int, until_ns: int) -> list[float | None]:
    """The least and the most that the scaler said."""
    said = [s.load for s in run.steps if since_ns <= s.at_ns < until_ns and s.load is not None]
    return [round(min(said), 3), round(max(said), 3)] if said else [None, None]
