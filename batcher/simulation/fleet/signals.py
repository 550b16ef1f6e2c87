"""Signals that a controller can scale on, as they are read of one replica at one moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from batcher.clock import SECOND
from batcher.core.observation import Observation


class Signal(StrEnum):
    """What is read of a replica. Values are absent where the replica does not know them."""

    CPU = "cpu"
    """Processor time over the processor time that is requested: a rate."""
    DUTY_CYCLE = "duty_cycle"
    """The part of the time in which at least one batch ran on the device: a rate (the busiest device)."""
    NVML_UTILIZATION = "nvml_utilization"
    """As NVML says it: the part of its last sampling period in which anything ran (the busiest device)."""
    QUEUE_REQUESTS = "queue_requests"
    """Requests that wait."""
    OLDEST_AGE = "oldest_age"
    """Seconds that the oldest unanswered request, waiting or executing, is old."""
    WORK_SECONDS = "work_seconds"
    """Predicted seconds that one instance needs for what waits (`queue_backlog_seconds`)."""
    DESIRED_RATIO = "desired_ratio"
    """What is offered over what can be served inside the target."""


RATES: Final = frozenset({Signal.CPU, Signal.DUTY_CYCLE})
"""Signals that take two readings."""

OBSERVED: Final = frozenset(
    {Signal.QUEUE_REQUESTS, Signal.OLDEST_AGE, Signal.WORK_SECONDS, Signal.DESIRED_RATIO}
)
"""Signals that the scheduler tells."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read of a replica at `at_ns`; a signal without an entry is not known."""

    at_ns: int
    values: Mapping[Signal, float]


def observed(observation: Observation, wanted: Collection[Signal]) -> dict[Signal, float]:
    """Those of the wanted signals that the scheduler tells, as a load report has them."""
    found: dict[Signal, float] = {}
    models = observation.models
    if Signal.QUEUE_REQUESTS in wanted:
        found[Signal.QUEUE_REQUESTS] = sum([model.waiting_requests for model in models])
    if Signal.OLDEST_AGE in wanted:
        ages = [
            age
            for model in models
            for age in (model.oldest_waiting_ns, model.oldest_executing_ns)
            if age is not None
        ]
        found[Signal.OLDEST_AGE] = max(ages, default=0) / SECOND
    if Signal.WORK_SECONDS in wanted:
        found[Signal.WORK_SECONDS] = sum([model.backlog_ns for model in models]) / SECOND
    if Signal.DESIRED_RATIO in wanted and observation.desired_ratio is not None:
        found[Signal.DESIRED_RATIO] = observation.desired_ratio
    return found
