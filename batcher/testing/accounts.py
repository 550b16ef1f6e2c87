"""Accounts of requests and batches that know nothing of how a scheduler chooses, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from batcher.core.commands import BatchCeiling, Dispatch, Part
from batcher.core.events import RequestArrived, Shapes
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.ranks import LATE
from batcher.core.scheduler import Scheduler
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.settings import PaddedAxis, QueueLimits
from batcher.core.times import NEVER_NS, TIMER_NS, TOLERANCE_NS


@dataclass
class Request:
    """A live request. `limit_ns` is the last moment at which an answer is of use."""

    arrived: RequestArrived
    expires_ns: int | None
    limit_ns: int
    undone: set[int]
    """Its rows that are not done."""
    begun: bool = False
    suspect: bool = False
    """Whether it was in a batch that failed as a whole."""
    lost: bool = False
    """Whether an instance went down with a batch of it."""
    most_rows: int = NEVER_NS
    """The most rows of a batch in which it runs again, after one that the device had no memory for."""

    def may_run_again(self, now_ns: int) -> bool:
        """Whether it runs once more when an instance goes down with it now, if its model is idempotent."""
        return not self.lost and self.limit_ns > now_ns


def rows_of(parts: Sequence[Part]) -> set[tuple[int, int]]:
    """The rows of these parts, as (request, row)."""
    return {(part.id, row) for part in parts for row in range(part.start, part.stop)}


def check_padding(own: Shapes, command: Dispatch, padding: Sequence[PaddedAxis]) -> None:
    """Raise `AssertionError` if a batch's bucket cannot hold a request of these shapes."""
    again = command.attempt > 1  # padded as it was, under whatever settings that was
    padded = {(axis.input, axis.axis - 1) for axis in padding}
    for place, (shape, bucket) in enumerate(zip(own, command.bucket, strict=True)):
        for axis, (length, most) in enumerate(zip(shape, bucket, strict=True)):
            assert length == most or (length < most and (again or (place, axis) in padded))


def half_of(rows: int, sizes: Sequence[int]) -> int:
    """The rows of the largest batch of at most half of what these rows run with; 0 where none can run.

    `sizes` are those that can run; () is any.
    """
    half = min((size for size in sizes if size >= rows), default=rows) // 2
    return max((size for size in sizes if size <= half), default=0) if sizes else half


@dataclass
class Batch:
    """A running batch; `left` are its requests that it has not reported."""

    command: Dispatch
    dispatched_ns: int
    left: set[int]
    next: bool = False
    """Whether it is prefetched, and begins when the one before is over."""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(rows_of(self.command.parts))


class Reruns:
    """Batches that failed or were lost with their instance, and how often something of each ran again."""

    def __init__(self) -> None:
        self._first: dict[int, Dispatch] = {}
        self._counts: dict[int, int] = {}

    def ended(self, command: Dispatch) -> None:
        """Note that a batch failed or was lost."""
        self._first[command.batch_id] = command

    def check(self, command: Dispatch, suspects: Bisection) -> None:
        """Raise `AssertionError` if a request joins a suspect group, or one may run again for ever."""
        first = self._first[suspects.batch_id]
        assert first.attempt == 1 or suspects.lost
        if suspects.lost:
            assert len(command.parts) <= isqrt(len(first.parts))
        rows = rows_of(first.parts)
        assert rows_of(command.parts) <= rows
        assert command.bucket == first.bucket
        count = self._counts[first.batch_id] = self._counts.get(first.batch_id, 0) + 1
        # Each request is found to fail once at most, and may have run in pieces.
        assert count <= len(rows) * ((len(rows) - 1).bit_length() + 2)


class Ceilings:
    """The `models` whose devices lack memory."""

    def __init__(self) -> None:
        self.models: set[str] = set()
        self._least_rows: dict[str, int] = {}

    def note(self, model: str, sizes: Sequence[int]) -> None:
        """Note a batch that failed, while batches could have these sizes; () is any."""
        self._least_rows[model] = min(sizes, default=1)

    def check(self, command: BatchCeiling) -> None:
        """Raise `AssertionError` if a ceiling begins or ends twice, or allows more than it may."""
        assert (command.model in self.models) == command.over
        # Nothing is smaller than the smallest size that can run.
        most = max(self._least_rows.get(command.model, 1), command.rows // 2)
        assert command.over or 1 <= command.most_rows <= most
        self.models ^= {command.model}


def overfull(queue: ModelQueue, limits: QueueLimits) -> bool:
    """Whether more waits than is allowed."""
    return (
        queue.requests > limits.max_requests
        or (limits.max_rows is not None and queue.all_rows > limits.max_rows)
        or (limits.max_bytes is not None and queue.nbytes > limits.max_bytes)
    )


def earliest_start_ns(
    begins_ns: int, rows: int, model: Model, times: ServiceTimes, now_ns: int
) -> float:
    """When a batch that is to begin at `begins_ns` begins at the earliest; one that is prefetched, sooner."""
    if begins_ns == now_ns:
        return begins_ns - TOLERANCE_NS
    if not times.copies:
        return begins_ns - TOLERANCE_NS - model.handling.saved_ns
    # It is copied until then; the policy knows of how many rows at most.
    ahead_ns = max(map(times.ahead_ns, range(rows, times.max_rows + 1)))
    return max(now_ns, begins_ns - ahead_ns) - TOLERANCE_NS


def check_that_none_waits_in_vain(model: Model, scheduler: Scheduler, now_ns: int) -> None:
    """Raise `AssertionError` if late requests wait beside an idle instance for others that are not worth it.

    The model's policy is deadline-aware.
    """
    for group in model.queue.groups.values():
        assert model.target_ns is not None
        first = group.classes[0]
        assert first.rank != LATE
        wakeup_ns = scheduler.next_wakeup_ns()
        assert wakeup_ns is not None
        assert wakeup_ns <= max(first.requests[0].finish_by_ns, now_ns + TIMER_NS)
