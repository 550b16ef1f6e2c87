"""What one signal with one set-point came to, and the set-points that are worth trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np

from batcher.clock import SECOND
from batcher.core.commands import Outcome
from batcher.simulation.engine.deployment import Deployment
from batcher.simulation.engine.simulation import OUTCOMES
from batcher.simulation.fleet.result import FleetRun
from batcher.simulation.fleet.settings import Processor
from batcher.simulation.fleet.signals import Signal
from batcher.simulation.traffic.workload import Traffic

HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Point:
    """One run, or the means of several with other seeds. Counts are requests."""

    signal: Signal
    set_point: float
    requests: float
    on_time: float
    late: float
    refused: float
    lost: float
    """Neither answered nor refused: expired, without a replica, died with one."""
    replica_hours: float
    mean_replicas: float
    peak_replicas: float
    flaps: float

    @property
    def on_time_fraction(self) -> float:
        """Requests that were answered within their target, over all."""
        return self.on_time / self.requests


def point_of(signal: Signal, set_point: float, run: FleetRun) -> Point:
    """Returns what a run came to."""
    requests = len(run.workload)
    answered = int(run.answered.sum())
    on_time = int(run.on_time.sum())
    refused = int((run.outcome == OUTCOMES.index(Outcome.REJECTED)).sum())
    return Point(
        signal,
        set_point,
        requests,
        on_time,
        answered - on_time,
        refused,
        requests - answered - refused,
        run.replica_seconds / HOUR,
        run.replica_seconds / (run.until_ns / SECOND),
        _peak(run),
        run.flaps,
    )


def _peak(run: FleetRun) -> int:
    """The most replicas that there were at once, those that start and drain included."""
    ends = [run.until_ns if each.ended_ns is None else each.ended_ns for each in run.replicas]
    moments = [(each.started_ns, 1) for each in run.replicas] + [(at_ns, -1) for at_ns in ends]
    return int(np.cumsum([change for _, change in sorted(moments)]).max(initial=0))


def pooled(points: Sequence[Point]) -> Point:
    """Returns the means of runs that differ in their seeds alone."""
    first = points[0]
    names = (
        "requests",
        "on_time",
        "late",
        "refused",
        "lost",
        "replica_hours",
        "mean_replicas",
        "peak_replicas",
        "flaps",
    )
    means = {name: fmean(getattr(point, name) for point in points) for name in names}
    return Point(first.signal, first.set_point, **means)


LOADS: Final = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.1, 1.3)
"""Set-points of `desired_ratio`, from seven times the replicas that the load needs to fewer than it does."""

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98)
"""Set-points of what cannot be above 1, and the parts of full processor time that `cpu` is tried at."""

TARGETS: Final = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Set-points of ages and backlogs, as parts of the shortest target."""

BATCHES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Set-points of the queue, as parts of what the largest batches of all instances hold."""


def default_set_points(
    signal: Signal, deployment: Deployment, traffic: Traffic, processor: Processor
) -> tuple[float, ...]:
    """Returns the set-points that a sweep tries, in the signal's own unit, from the most replicas to the fewest."""
    match signal:
        case Signal.CPU:
            full = full_cpu(deployment, traffic, processor)
            return tuple(share * full for share in SHARES)
        case Signal.DUTY_CYCLE | Signal.NVML_UTILIZATION:
            return SHARES
        case Signal.QUEUE_REQUESTS:
            rows = sum(model.instances * (len(model.curve) - 1) for model in deployment.models)
            return tuple(part * rows / traffic.mean_rows for part in BATCHES)
        case Signal.OLDEST_AGE | Signal.WORK_SECONDS:
            targets = [model.settings.target_ns for model in deployment.models]
            shortest_ns = min([target for target in targets if target is not None])
            return tuple(part * shortest_ns / SECOND for part in TARGETS)
        case Signal.DESIRED_RATIO:
            return LOADS


def full_cpu(deployment: Deployment, traffic: Traffic, processor: Processor) -> float:
    """Returns the processor time over what is requested while the devices serve all that they can, in full batches."""
    rate = deployment.capacity(traffic)
    fullest = max(len(model.curve) - 1 for model in deployment.models)
    batches = rate * traffic.mean_rows / fullest
    slots = sum(deployment.device_slots().values())
    cores = (
        processor.baseline
        + rate * processor.request_ns / SECOND
        + batches * processor.batch_ns / SECOND
        + processor.batch_share * slots
    )
    return cores / processor.requested
