"""Finds the failing requests of a batch that failed as a whole, so that its batch-mates are answered.

The batch is halved, and the first half runs again, without new requests. If it fails, it is halved in
its turn, and the other half is cleared: it is no more likely to contain a failing request than requests
that have never run, so it goes back to the queue. If it succeeds, the failing request is in the other
half, which is halved without being run. A request that fails alone has failed for good.

What has been cleared before, and pieces of split requests, do not go back: they are deferred until the
failing request is found. Then they run, together, and if that fails they are halved next. So each
failing request of a batch of n costs at most ceil(log2 n) + 2 further executions.

A failing device is not bisected for ever: after `STORM_FAILURES` executions in a row that failed, or
with `MAX_BISECTED` batches open, there is a failure storm. Batches fail as a whole then, and what is
bisected fails with its next execution that fails. The first batch that fails `LATELY_NS` later is
bisected again, to see whether the storm is over; a batch that succeeds after that time ends it.

A batch whose instance went down is no failed batch: one of its requests may have made that happen, or none.
Where the model is `idempotent` its requests are suspects all the same, each to run once more, in groups of the
square root of their number: a request that brings its instance down again takes so few with it, and the groups
cost little more than one batch. Of 15 lost requests with one such among them, at 80 % load of two instances, none
of the others is answered where all run together, 55 % in halves, 82 % in these groups, and all where each runs
alone; but then p99 of other requests meanwhile is 1.7 s instead of 1.2 (`bench/sim lost`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

from batcher.core.captured import Captured
from batcher.core.commands import Part
from batcher.core.events import FailureCause, Shapes
from batcher.core.faults.batch_cap import FaultAwareCap
from batcher.core.times import LATELY_NS, NEVER_NS

MAX_BISECTED = 32
"""Batches of one model that are bisected at once; with more there is a storm. With 16, 1.2 points fewer are
answered while every tenth batch fails."""

STORM_FAILURES = 16
"""So many executions that fail in a row are a storm: the searches for two failing requests of a batch
of 64, in which nothing succeeded."""


@dataclass(slots=True, unsafe_hash=True)
class Bisection:
    """One failed batch, and those of its parts that wait to run again: its suspects.

    One group of them runs at a time. Some part of `doubted` makes its batch fail, unless one of
    them has ended meanwhile; nothing is known of `deferred`.
    """

    batch_id: int
    shapes: Shapes
    cause: FailureCause
    since_ns: int
    doubted: tuple[Part, ...]
    deferred: tuple[Part, ...] = ()
    failures: int = 1
    """Executions of its parts that have failed."""
    running: bool = False
    together: int = 0
    """If its instance went down with the batch: how many of `deferred` run together. Else 0: all."""
    most_rows: int = NEVER_NS
    """The most rows of a group: half of the batch, where the device had no memory for it."""

    @property
    def lost(self) -> bool:
        """Whether its instance went down with the batch."""
        return self.together > 0

    @property
    def searched(self) -> bool:
        """Whether some request of it is taken to have failed."""
        return not self.lost and self.cause is not FailureCause.MEMORY

    @property
    def waiting(self) -> tuple[Part, ...]:
        """All parts that wait."""
        return self.doubted + self.deferred

    def group(self, max_rows: int) -> tuple[Part, ...]:
        """The parts that run next, of at most `max_rows` rows or one part."""
        parts = self.doubted[: max(1, len(self.doubted) // 2)]
        if not parts:
            parts = self.deferred[: self.together] if self.together else self.deferred
        most = min(max_rows, self.most_rows)
        rows, ids = 0, set[int]()
        for place, part in enumerate(parts):
            rows += part.stop - part.start
            # A batch has one piece of a request.
            if place and (rows > most or part.id in ids):
                return parts[:place]
            ids.add(part.id)
        return parts

    def take(self, group: Sequence[Part]) -> None:
        """Take out the parts that begin to run."""
        count = len(group)
        if self.doubted:
            self.doubted = self.doubted[count:]
        else:
            self.deferred = self.deferred[count:]
        self.running = True

    def defer(self) -> None:
        """Nothing more is known of the parts that are in doubt."""
        self.deferred, self.doubted = self.waiting, ()

    def keep(self, wanted: Callable[[Part], bool]) -> None:
        """Leave only such parts of what waits."""
        self.doubted = tuple(filter(wanted, self.doubted))
        self.deferred = tuple(filter(wanted, self.deferred))


class Bisections(Captured):
    """One model's failed batches that are bisected (`open`), oldest first, and its failure storm.

    `bisected` and `reruns` count failed batches and their further executions since the start,
    `saved` the requests that run once more because their instance went down.
    """

    __slots__ = (
        "batch_cap",
        "bisected",
        "failures_in_a_row",
        "open",
        "reruns",
        "saved",
        "storm_unreported",
        "storm_until_ns",
    )
    STATE = ("bisected", "reruns", "saved", "failures_in_a_row", "storm_until_ns", "batch_cap")

    def __init__(self) -> None:
        self.open: list[Bisection] = []
        self.bisected = 0
        self.reruns = 0
        self.saved = 0
        self.batch_cap = FaultAwareCap()
        self.failures_in_a_row = 0
        """Executions that failed as a whole since one succeeded or a storm began."""
        self.storm_until_ns: int | None = None
        """When the next batch may be bisected; None while there is no storm."""
        self.storm_unreported = False
        """Whether a storm began that was not reported yet."""

    # What a batch's end means

    def begin(
        self,
        batch_id: int,
        parts: Sequence[Part],
        shapes: Shapes,
        cause: FailureCause,
        now_ns: int,
    ) -> bool:
        """Bisect a batch that failed as a whole. Returns False where its requests fail instead."""
        self._note_failure(now_ns)
        bisected = sum([each.searched for each in self.open]) if self.open else 0
        if len(parts) == 1 or self._storms(now_ns) or (self.storm_until_ns and bisected):
            return False
        if bisected >= MAX_BISECTED:
            self._begin_storm(now_ns)
            return False
        self.bisected += 1
        self.open.append(Bisection(batch_id, shapes, cause, now_ns, tuple(parts)))
        return True

    def succeeded(self, bisection: Bisection, *, wholly: bool) -> None:
        """Note that a group was executed. If `wholly`, what is in doubt has the failing request."""
        if not wholly:
            bisection.defer()
        self._close(bisection)

    def failed(
        self,
        bisection: Bisection,
        parts: Sequence[Part],
        cause: FailureCause,
        now_ns: int,
        may_return: Callable[[Part], bool],
    ) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Note that a group has failed again. Returns the parts that failed for good, and the cleared.

        `parts` are those of the group whose callers still wait. The rest of them will run again.
        """
        self._note_failure(now_ns)
        bisection.failures += 1
        bisection.cause = cause
        cleared = tuple(filter(may_return, bisection.doubted))
        bisection.keep(lambda part: part not in cleared)
        bisection.defer()
        lost: tuple[Part, ...] = ()
        if self._storms(now_ns):
            lost = (*parts, *bisection.deferred)
            bisection.deferred = ()
        elif len(parts) == 1:
            self.batch_cap.faults += 1.0
            lost = tuple(parts)
        else:
            bisection.doubted = tuple(parts)
        self._close(bisection)
        return lost, cleared

    def lost(self, bisection: Bisection) -> None:
        """Note that a group was not executed: its instance or device failed, or no caller waits."""
        bisection.defer()
        self._close(bisection)

    def run_again(self, batch_id: int, parts: Sequence[Part], shapes: Shapes, now_ns: int) -> None:
        """Have parts of a batch run once more that went down with its instance."""
        cause, together = FailureCause.UNKNOWN, isqrt(len(parts))
        again = Bisection(batch_id, shapes, cause, now_ns, (), tuple(parts), together=together)
        self.open.append(again)

    @property
    def waiting_lost(self) -> int:
        """How many parts wait to run again because an instance went down with them."""
        return sum([len(each.waiting) for each in self.open if each.lost])

    def run_smaller(
        self,
        batch_id: int,
        bisection: Bisection | None,
        pieces: Sequence[Part],
        shapes: Shapes,
        most_rows: int,
        now_ns: int,
    ) -> None:
        """Have the parts of a batch that had no memory run again, in groups of at most `most_rows`.

        `bisection` is what it ran a group of. Nothing failed by this, and nothing is known of the parts.
        """
        memory = FailureCause.MEMORY
        if bisection is None:
            bisection = Bisection(batch_id, shapes, memory, now_ns, (), most_rows=most_rows)
            self.open.append(bisection)
        else:
            bisection.failures += 1
            bisection.cause = memory
            bisection.most_rows = min(bisection.most_rows, most_rows)
        bisection.deferred, bisection.doubted = (*pieces, *bisection.waiting), ()
        self._close(bisection)

    # What runs next

    def next(self) -> Bisection | None:
        """The bisection whose group runs next: the oldest of which none runs."""
        return next((each for each in self.open if not each.running), None)

    def start(self, bisection: Bisection, group: Sequence[Part]) -> None:
        """Take out a group that begins to run."""
        bisection.take(group)
        self.reruns += bisection.cause is not FailureCause.MEMORY

    def discard(self, request_id: int) -> None:
        """Take a request out of all that waits."""
        for bisection in list(self.open):
            bisection.keep(lambda part: part.id != request_id)
            self._end_if_over(bisection)

    def refit(self, max_rows: int) -> tuple[Part, ...]:
        """Take out the parts that do not fit a batch even alone, and return them."""
        lost: list[Part] = []
        for bisection in list(self.open):
            lost += [part for part in bisection.waiting if part.stop - part.start > max_rows]
            bisection.keep(lambda part: part.stop - part.start <= max_rows)
            self._end_if_over(bisection)
        return tuple(lost)

    def waiting_parts(self) -> Iterator[Part]:
        """Yields every part that waits to run again."""
        for bisection in self.open:
            yield from bisection.waiting

    def _close(self, bisection: Bisection) -> None:
        bisection.running = False
        self._end_if_over(bisection)

    def _end_if_over(self, bisection: Bisection) -> None:
        if not bisection.running and not bisection.waiting:
            self.open.remove(bisection)

    # Failure storms

    def _note_failure(self, now_ns: int) -> None:
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= STORM_FAILURES:
            self._begin_storm(now_ns)

    def _begin_storm(self, now_ns: int) -> None:
        self.storm_unreported = self.storm_unreported or self.storm_until_ns is None
        self.storm_until_ns = now_ns + LATELY_NS
        self.failures_in_a_row = 0

    def _storms(self, now_ns: int) -> bool:
        return self.storm_until_ns is not None and now_ns < self.storm_until_ns

    def note_success(self, now_ns: int) -> bool:
        """Note that a batch succeeded, of whatever kind; returns whether that ends a storm."""
        self.failures_in_a_row = 0
        if self.storm_until_ns is None or now_ns < self.storm_until_ns:
            return False
        self.storm_until_ns = None
        return True
