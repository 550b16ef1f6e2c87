"""Who decides how many replicas there are: a controller is called at its sync period with what it can know.

A controller is one run's: it may keep state. It must not draw random numbers of its own but from a seed, so that
equal runs stay equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from batcher.clock import SECOND
from batcher.simulation.fleet.signals import Sample, Signal


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica that is not told to end, as a controller sees it."""

    number: int
    started_ns: int
    """When it was created."""
    ready_ns: int | None
    """Since when it is known to be ready; None where it is not."""
    sample: Sample | None
    """The last reading that has arrived; None where the replica did not answer it, or did not exist."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet as a controller sees it at one moment."""

    now_ns: int
    desired: int
    """What was decided last."""
    replicas: Sequence[ReplicaView]
    """Without those that were told to end."""
    waiting: int
    """Requests that wait at clients because no replica is known; a controller that scales from zero may be told."""


class Decision(Protocol):
    """What a controller decides."""

    @property
    def desired(self) -> int:
        """How many replicas there are to be."""
        ...

    @property
    def reason(self) -> str:
        """Why, for people."""
        ...


class Controller(Protocol):
    """Decides how many replicas there are to be."""

    @property
    def sync_ns(self) -> int:
        """It is called so often, from one period after the start."""
        ...

    @property
    def signals(self) -> Sequence[Signal]:
        """What samples have; others are not read."""
        ...

    def sync(self, view: FleetView) -> Decision:
        """Decide now."""
        ...


@dataclass(frozen=True, slots=True)
class Scale:
    """A decision."""

    desired: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scripted:
    """A controller that has decided everything before: from each moment on, so many replicas."""

    steps: tuple[tuple[int, int], ...]
    """(moment, replicas), ascending."""
    sync_ns: int = SECOND
    signals: tuple[Signal, ...] = ()
    """What is read all the same, for the timeline."""

    def sync(self, view: FleetView) -> Scale:
        """The last step whose moment has come."""
        past = [replicas for at_ns, replicas in self.steps if at_ns <= view.now_ns]
        return Scale(past[-1] if past else view.desired)
