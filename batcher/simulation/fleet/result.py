"""What has become of a fleet: every request, every replica, every decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from batcher.clock import SECOND
from batcher.core.commands import Outcome
from batcher.simulation.engine.simulation import OUTCOMES
from batcher.simulation.fleet.signals import Signal
from batcher.simulation.traffic.workload import Workload

FLAP_NS: Final = 600 * SECOND
"""A change of the fleet's size that reverses the one before it within this is a flap: ten minutes, twice the time for
which an HPA does not shrink by default, so that shrinking as soon as it may after growth counts. With 30 % less, or
more, about as much less or more of slow waves counts."""

_OK: Final = OUTCOMES.index(Outcome.OK)


class End(IntEnum):
    """Where a request ended."""

    SERVER = 0
    """In a replica, as `outcome` and `reason` say."""
    NO_REPLICA = 1
    """At its client, which knew no replica for too long."""
    UNREACHABLE = 2
    """It was sent to a replica that was gone, which the client did not know yet."""
    LOST = 3
    """It died with its replica."""
    DEADLINE = 4
    """At its client, whose deadline passed while it was in no replica."""


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """One replica; times are None for what did not happen."""

    number: int
    started_ns: int
    ready_ns: int | None
    """When it was ready first."""
    known_ns: int | None
    """When clients first knew that."""
    stopped_ns: int | None
    """When it was told to end."""
    ended_ns: int | None
    requests: int
    """Those that were routed to it."""
    lost: int
    """Those of them that died with it."""
    restarts: int


@dataclass(frozen=True, slots=True)
class Step:
    """One sync of the controller."""

    at_ns: int
    before: int
    """What was wanted until now."""
    desired: int
    """What is wanted from now on."""
    ready: int
    """Replicas that are ready, without those that drain."""
    starting: int
    draining: int
    waiting: int
    """Requests that wait at clients."""
    reason: str
    values: Mapping[Signal, float]
    """The mean of each signal over the replicas whose last sample has it."""


class Sizing(Protocol):
    """What `flaps` reads of a sync, simulated or real."""

    @property
    def at_ns(self) -> int:
        """When."""

    @property
    def before(self) -> int:
        """The size that was wanted until then."""

    @property
    def desired(self) -> int:
        """The size that is wanted from then on."""


def flaps(steps: Sequence[Sizing]) -> int:
    """How often the wanted size turned around within `FLAP_NS` of the change before."""
    changes = [
        (step.at_ns, step.desired > step.before) for step in steps if step.desired != step.before
    ]
    return sum(
        up != up_before and at_ns - before_ns <= FLAP_NS
        for (before_ns, up_before), (at_ns, up) in pairwise(changes)
    )


@dataclass(frozen=True, slots=True)
class FleetRun:
    """Index n of each array is request n. It can be pickled."""

    workload: Workload
    settled_ns: NDArray[np.int64]
    """When the request ended, as its client saw it (without the network)."""
    outcome: NDArray[np.int8]
    """An index of `OUTCOMES`. What did not end in a server has failed, or has expired by its caller's deadline."""
    reason: NDArray[np.int8]
    """An index of `REASONS`."""
    end: NDArray[np.int8]
    """An `End`."""
    replica: NDArray[np.int32]
    """The number of the replica that it was sent to last; -1 for none."""
    again: NDArray[np.int16]
    """How often it was sent again."""
    batch_rows: NDArray[np.int64]
    batches: NDArray[np.int64]
    replicas: tuple[ReplicaRecord, ...]
    steps: tuple[Step, ...]
    until_ns: int
    """Replica-seconds count up to here, and the controller was called until here."""
    target_ns: Mapping[str, int | None]
    """By model."""
    errors: tuple[str, ...] = ()
    """Policies that broke their contract."""

    @property
    def replica_seconds(self) -> float:
        """Seconds of all replicas, from their start (start-up included) to their end (drain included)."""
        spent = 0
        for replica in self.replicas:
            ended_ns = self.until_ns if replica.ended_ns is None else replica.ended_ns
            spent += max(0, min(ended_ns, self.until_ns) - replica.started_ns)
        return spent / SECOND

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests were answered."""
        found: NDArray[np.bool_] = self.outcome == _OK
        return found

    @property
    def on_time(self) -> NDArray[np.bool_]:
        """Which requests were answered within the target of their model, from when they first arrived."""
        targets = [self.target_ns[kind.model] for kind in self.workload.kinds]
        bounds = np.array([np.iinfo(np.int64).max if t is None else t for t in targets])
        took_ns = self.settled_ns - self.workload.at_ns
        found: NDArray[np.bool_] = self.answered & (took_ns <= bounds[self.workload.kind])
        return found

    @property
    def flaps(self) -> int:
        """How often the wanted size turned around soon after a change: see `flaps`."""
        return flaps(self.steps)
