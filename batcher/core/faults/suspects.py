"""The parts of a failed batch that run again together, and how often they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batcher.core.commands import Part
from batcher.core.events import FailureCause, Shapes

FAULTS_PER_BATCH = 4
"""A failed batch gets the executions that so many failing requests need; a small one all it needs."""


@dataclass(slots=True, eq=False)
class Bisection:
    """One batch that failed as a whole, and is bisected."""

    batch_id: int
    executions_left: int
    abandon_after: int
    """Failures after which it is abandoned, while none of its groups succeeded."""
    may_return: bool
    """Whether requests that are cleared may go back to the queue."""
    failures: int = 0
    some_succeeded: bool = False
    group_count: int = 0
    """Groups that it was cut into so far; their numbers."""
    open_groups: int = 0
    """Those that wait or run."""


@dataclass(slots=True, eq=False)
class SuspectGroup:
    """Parts of a failed batch that run again together, or are halved when their turn comes."""

    bisection: Bisection
    number: int
    parts: tuple[Part, ...]
    shapes: Shapes
    cause: FailureCause
    attempt: int
    since_ns: int
    other: int | None = None
    """The number of the group that must contain the failing request if this one does not."""
    deferred: bool = False
    """Whether it waits until the failing request is found."""

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.stop - part.start for part in self.parts)


def run_order(suspects: SuspectGroup) -> tuple[int, int, bool, int]:
    """Sorts groups into the order in which they run: by failure, those that are deferred last."""
    return suspects.since_ns, suspects.bisection.batch_id, suspects.deferred, suspects.number


def executions(parts: int) -> int:
    """Returns how many further executions a failed batch of so many parts gets."""
    return FAULTS_PER_BATCH * (2 * (parts - 1).bit_length() + 1)


def halves(
    bisection: Bisection,
    parts: Sequence[Part],
    shapes: Shapes,
    cause: FailureCause,
    attempt: int,
    since_ns: int,
) -> list[SuspectGroup]:
    """Returns two new groups of the batch: if the first has no failing request, the second has."""
    middle = len(parts) // 2
    number = bisection.group_count
    bisection.group_count += 2
    bisection.open_groups += 2
    first, second = tuple(parts[:middle]), tuple(parts[middle:])
    return [
        SuspectGroup(bisection, number, first, shapes, cause, attempt, since_ns, number + 1),
        SuspectGroup(bisection, number + 1, second, shapes, cause, attempt, since_ns),
    ]
