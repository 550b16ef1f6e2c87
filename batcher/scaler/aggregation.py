"""From what is known of each replica to one value for the fleet. Pure.

| state of a replica | counts as |
|---|---|
| known | its value, the mean over time of its last reports; if the last one does not know it, as an unknown replica |
| kept | the same: its last believed value goes on |
| not ready | what it reports, else 0; not at all in a mean |
| unknown | the mean of the replicas that are known or kept |

Never 0 for what is not known: without any known or kept replica there is no value, and the size of the fleet
stays. Where fewer than half of the replicas are known or kept, or none is and some start, the value asks for no
fewer replicas than there are, without those that drain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batcher.scaler.metrics import How, Metric, Value
from batcher.scaler.readings import Readings
from batcher.scaler.replica import State
from batcher.scaler.report import Report


@dataclass(frozen=True, slots=True)
class Member:
    """One replica, as it is known."""

    state: State
    report: Report | None
    """The report that counts; None: there is none."""
    readings: Readings | None = field(default=None, compare=False)
    """That and those before it; None: that alone."""
    now_ns: int = field(default=0, compare=False)
    """The moment at which it is known so: the end of the time that is averaged."""

    @property
    def drains(self) -> bool:
        """Whether it is about to end, by its own word."""
        return self.state is State.NOT_READY and self.report is not None and self.report.draining

    def value(self, metric: Metric, model: str) -> Value | None:
        """What it says of a metric; None where that is not known."""
        if self.report is None:
            return None
        if self.readings is None:
            return metric.read(self.report, model)
        return self.readings.mean(metric, model, self.now_ns)


@dataclass(frozen=True, slots=True)
class Estimate:
    """The value of a fleet."""

    value: float
    known: int
    """Replicas whose own value is in it."""
    guessed: int
    """Replicas that count as the mean of those."""
    starting: int
    """Replicas that are not ready, and do not drain."""
    draining: int
    stays: bool
    """Whether it must not shrink the fleet: of those that may serve fewer than half are known, or none serves and
    some start."""
    size: int
    """How many replicas the fleet has then: those that are there without those that drain, or fewer (`estimate`)."""

    def for_target(self, target: float, how: How) -> float:
        """The value to answer, given the target of the HPA."""
        if how is not How.SUM and not self.known and (self.starting or self.draining):
            # The HPA multiplies by the replicas that are ready: with none, all but the target itself makes zero.
            return target
        if not self.stays:
            return self.value
        # What the HPA takes for "as many as there are".
        return max(self.value, target * self.size if how is How.SUM else target)


def size_of(members: Sequence[Member]) -> tuple[int, bool]:
    """How many replicas there are without those that drain, and whether some serve, and most that may are known."""
    there = sum(not member.drains for member in members)
    unknown = sum(member.state is State.UNKNOWN for member in members)
    serving = sum(member.state in (State.KNOWN, State.KEPT) for member in members)
    return there, 0 < serving >= unknown


def estimate(
    members: Sequence[Member], metric: Metric, model: str = "", most: int | None = None
) -> Estimate | None:
    """The value of the fleet; None where it is not known: replicas are listed, and none has a value.

    `most` is how many replicas it had when that was known last: those that a rollout starts beside them are not
    wanted as well, else the next rollout starts more.
    """
    values: list[Value] = []
    not_ready: list[Value] = []
    draining = guessed = 0
    for member in members:
        found = member.value(metric, model)
        if member.state is State.NOT_READY:
            not_ready.append(found or Value(0.0))
            draining += member.drains
        elif member.state is State.UNKNOWN or found is None:
            guessed += 1
        else:
            values.append(found)
    if guessed and not values:
        return None
    if metric.how is How.SUM:
        total = sum(each.value for each in values)
        mean = total / len(values) if values else 0.0
        value = total + guessed * mean + sum(each.value for each in not_ready)
    elif metric.how is How.MAXIMUM:
        value = max((each.value for each in (*values, *not_ready)), default=0.0)
    else:
        weights = sum(each.weight for each in values)
        value = sum(each.value * each.weight for each in values) / weights if weights else 0.0
    starting = len(not_ready) - draining
    stays = guessed > len(values) or (not values and starting > 0)
    there = len(values) + guessed + starting
    size = there if most is None else min(there, most)
    return Estimate(value, len(values), guessed, starting, draining, stays, size)
