"""An instance of a model, and the batches that it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from batcher.core.commands import Part
from batcher.core.events import InstanceUp, Shapes
from batcher.core.faults.bisection import Bisection
from batcher.core.times import NEVER_NS


@dataclass(slots=True)
class RunningBatch:
    """A dispatched batch, until its last report."""

    batch_id: int
    model: str
    instance: str
    dispatched_ns: int
    """When its instance begins it. For a prefetched batch this is in the future at first."""
    unreported: set[int]
    """Its requests that have not been reported yet."""
    rows: int = 0
    expected_end_ns: float = 0.0
    """When it should be done; `dispatched_ns` while nothing has been measured."""
    shapes: Shapes = ()
    parts: tuple[Part, ...] = ()
    split: bool = False
    """Whether one of its requests has further rows elsewhere."""
    suspects: Bisection | None = None
    """The failed batch of which it runs a group again."""
    filled: int | None = None
    """The request whose rows only filled the room that was left."""
    prefetched: bool = False
    """Whether its instance got it while it ran another batch."""
    prefetch_at_ns: int = NEVER_NS
    """From when on its instance may get the next batch."""
    after_ns: int = 0
    """Of one that was prefetched: when the batch before it ended, as its instance stamped it."""
    given_ns: int = 0
    """When its instance got it, or where batches are pipelined could begin to copy it."""


@dataclass(slots=True)
class Instance:
    """One incarnation of an instance: one loaded copy of a model on a device."""

    up: InstanceUp
    draining: bool = False
    last_used: int = 0
    """A count of dispatches: idle instances are used in this order."""
    batches: set[int] = field(default_factory=set)
    """The batches that it runs."""
    next: int | None = None
    """The prefetched batch, which begins when one of them is done."""

    @property
    def free(self) -> bool:
        """Whether it takes another batch, its device permitting."""
        return not self.draining and len(self.batches) < self.up.max_in_flight
