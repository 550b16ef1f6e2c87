"""Finds the failing requests of a batch that failed as a whole, so that its batch-mates are answered.

The batch is halved, and the first half runs again, without new requests. If it fails, it is halved in
its turn, and the other half is cleared: it is no more likely to contain a failing request than requests
that have never run, so it goes back to the queue. If it succeeds, the failing request is in the other
half, which is halved without being run. So a batch of n requests with one that fails costs at most
log2(n) + 1 further executions.

While it is in doubt whether a request causes the failures at all, the other half is not cleared but
deferred: when more than `MAX_FAILURES_IN_A_ROW` first executions have failed in a row, during a failure
storm, when a request has come back `MAX_RETURNS` times, or where requests are split. Once a request has failed alone, all that
was deferred runs together; if that fails, it is halved next.

Three bounds keep a failing device from being bisected for ever. A batch gets the executions that
`FAULTS_PER_BATCH` failing requests need. It is abandoned when `MAX_FUTILE_SEARCHES` searches found no
request that succeeds. And a failure storm stops all bisections (`storm.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batcher.core.commands import Part
from batcher.core.events import FailureCause, Shapes
from batcher.core.faults.batch_cap import FaultAwareCap
from batcher.core.faults.storm import StormDetector
from batcher.core.faults.suspects import Bisection, SuspectGroup, executions, halves, run_order

MAX_FUTILE_SEARCHES = 2
"""A bisection is abandoned after so many searches, each down to one request, in which nothing succeeded."""

SURE_ATTEMPT = 3
"""A request that must be the failing one is not run alone if this would be its third attempt."""

MAX_BISECTED = 32
"""Batches of one model that are bisected at once; with more there is a storm."""

MAX_FAILURES_IN_A_ROW = 2
"""After more failed first executions in a row, the device may be failing: a half is deferred, not cleared."""

MAX_RETURNS = 3
"""A request is cleared so often, at most."""


class Bisections:
    """One model's failed batches: the groups that wait to run again, oldest first.

    `bisected` and `reruns` count failed batches and their further executions since the start.
    """

    __slots__ = (
        "batch_cap",
        "bisected",
        "failures_in_a_row",
        "open_batches",
        "reruns",
        "storm",
        "suspect_groups",
    )

    def __init__(self) -> None:
        self.suspect_groups: list[SuspectGroup] = []
        self.open_batches = 0
        """Failed batches of which groups wait or run."""
        self.bisected = 0
        self.reruns = 0
        self.storm = StormDetector()
        self.batch_cap = FaultAwareCap()
        self.failures_in_a_row = 0
        """First executions that failed as a whole since a batch succeeded, of whatever kind."""

    # What a batch's end means

    def begin(
        self,
        batch_id: int,
        parts: Sequence[Part],
        shapes: Shapes,
        cause: FailureCause,
        now_ns: int,
        *,
        may_return: bool = False,
    ) -> bool:
        """Bisect a batch that failed as a whole. Returns False where its requests fail instead.

        `may_return`: parts that are cleared may go back to the queue.
        """
        self.failures_in_a_row += 1
        storm = self.storm
        if len(parts) == 1 or (
            storm.until_ns is not None and (now_ns < storm.until_ns or self.open_batches)
        ):
            return False
        if self.open_batches >= MAX_BISECTED:
            storm.begin(now_ns)
            return False
        self.open_batches += 1
        self.bisected += 1
        abandon_after = MAX_FUTILE_SEARCHES * ((len(parts) - 1).bit_length() + 1)
        bisection = Bisection(batch_id, executions(len(parts)), abandon_after, may_return)
        self._halve(bisection, parts, shapes, cause, 2, now_ns)
        return True

    def succeeded(self, suspects: SuspectGroup, *, wholly: bool) -> SuspectGroup | None:
        """Note that a group was executed. If `wholly`, its other half has the failing request.

        Returns the group of one part that must be the failing one, if there is one.
        """
        bisection = suspects.bisection
        bisection.some_succeeded = True
        self.storm.on_success()
        position = self._position(bisection, suspects.other) if wholly else None
        at_fault: SuspectGroup | None = None
        if position is not None:
            other = self.suspect_groups[position]
            if len(other.parts) > 1 and bisection.executions_left >= bisection.open_groups:
                self._take(position)
                self._halve(
                    bisection, other.parts, other.shapes, other.cause, other.attempt, other.since_ns
                )
            elif len(other.parts) == 1 and other.attempt >= SURE_ATTEMPT:
                at_fault = self._take(position)
                self.batch_cap.faults += 1.0
        self._close(suspects)
        return at_fault

    def failed(
        self, suspects: SuspectGroup, parts: Sequence[Part], cause: FailureCause, now_ns: int
    ) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Note that a group has failed again. Returns the parts that failed for good, and the cleared.

        `parts` are those of the group whose callers still wait. The rest of them will run again.
        """
        bisection = suspects.bisection
        bisection.failures += 1
        lost: tuple[Part, ...] = ()
        cleared: tuple[Part, ...] = ()
        position = self._position(bisection, suspects.other)
        if position is not None:
            other = self._take(position)
            in_doubt = (
                self.failures_in_a_row > MAX_FAILURES_IN_A_ROW or self.storm.until_ns is not None
            )
            if bisection.may_return and not in_doubt:
                cleared = other.parts
            else:
                self._defer(other)
        if not bisection.some_succeeded and bisection.failures >= bisection.abandon_after:
            lost = (*parts, *self._abandon(bisection))
            self.storm.on_abandoned(now_ns)
        elif len(parts) == 1:
            self.batch_cap.faults += 1.0
            lost = tuple(parts)
        elif (
            not parts
            or bisection.executions_left <= bisection.open_groups
            or self.storm.active(now_ns)
        ):
            lost = tuple(parts)
        else:
            self._halve(
                bisection, parts, suspects.shapes, cause, suspects.attempt + 1, suspects.since_ns
            )
        self._close(suspects)
        return lost, cleared

    def lost(self, suspects: SuspectGroup) -> None:
        """Note that a group was not executed: its instance or device failed, or all were cancelled."""
        self._close(suspects)

    # What runs next

    def start(self, suspects: SuspectGroup, expected_ns: float, slots: int, now_ns: int) -> None:
        """Take a group out, to run it on one of the model's `slots`."""
        self.suspect_groups.remove(suspects)
        self.reruns += 1
        self.storm.on_retry(expected_ns / slots, now_ns)
        suspects.bisection.executions_left -= 1

    def discard(self, request_id: int) -> None:
        """Take a request out of every group; an empty group goes with it."""
        for suspects in list(self.suspect_groups):
            parts = tuple([part for part in suspects.parts if part.id != request_id])
            if not parts:
                self.suspect_groups.remove(suspects)
                self._close(suspects)
            else:
                suspects.parts = parts

    def refit(self, max_rows: int) -> tuple[Part, ...]:
        """Halve groups that no longer fit a batch. Returns the parts that do not even fit alone."""
        lost: list[Part] = []
        waiting, self.suspect_groups = self.suspect_groups, []
        while waiting:
            suspects = waiting.pop(0)
            if suspects.rows <= max_rows:
                self.suspect_groups.append(suspects)
                continue
            suspects.bisection.open_groups -= 1
            if len(suspects.parts) > 1:
                waiting[:0] = halves(
                    suspects.bisection,
                    suspects.parts,
                    suspects.shapes,
                    suspects.cause,
                    suspects.attempt,
                    suspects.since_ns,
                )
                for half in waiting[:2]:
                    half.deferred, half.other = suspects.deferred, None
            else:
                lost += suspects.parts
                self._end_if_over(suspects.bisection)
        return tuple(lost)

    # Groups

    def _halve(
        self,
        bisection: Bisection,
        parts: Sequence[Part],
        shapes: Shapes,
        cause: FailureCause,
        attempt: int,
        since_ns: int,
    ) -> None:
        self.suspect_groups += halves(bisection, parts, shapes, cause, attempt, since_ns)
        self.suspect_groups.sort(key=run_order)

    def _take(self, position: int) -> SuspectGroup:
        suspects = self.suspect_groups.pop(position)
        suspects.bisection.open_groups -= 1
        return suspects

    def _defer(self, suspects: SuspectGroup) -> None:
        """Have a group wait until the failing request is found, with others of its batch."""
        for other in self.suspect_groups:
            if other.bisection is suspects.bisection and other.deferred:
                other.parts += suspects.parts
                other.attempt = max(other.attempt, suspects.attempt)
                return
        suspects.deferred = True
        suspects.bisection.open_groups += 1
        self.suspect_groups.append(suspects)
        self.suspect_groups.sort(key=run_order)

    def _position(self, bisection: Bisection, number: int | None) -> int | None:
        for position, suspects in enumerate(self.suspect_groups):
            if suspects.bisection is bisection and suspects.number == number:
                return position
        return None

    def _abandon(self, bisection: Bisection) -> tuple[Part, ...]:
        """Take out all groups of a batch that wait; returns their parts."""
        gone = [suspects for suspects in self.suspect_groups if suspects.bisection is bisection]
        self.suspect_groups = [
            suspects for suspects in self.suspect_groups if suspects.bisection is not bisection
        ]
        bisection.open_groups -= len(gone)
        return tuple([part for suspects in gone for part in suspects.parts])

    def _close(self, suspects: SuspectGroup) -> None:
        suspects.bisection.open_groups -= 1
        self._end_if_over(suspects.bisection)

    def _end_if_over(self, bisection: Bisection) -> None:
        if not bisection.open_groups:
            self.open_batches -= 1

    # State

    def waiting_parts(self) -> Iterator[Part]:
        """Yields every part that waits to run again."""
        for suspects in self.suspect_groups:
            yield from suspects.parts

    def capture(self) -> tuple[object, ...]:
        """The state as a plain value, for `restore`; groups and batches are captured elsewhere."""
        return (
            self.bisected,
            self.reruns,
            self.failures_in_a_row,
            self.storm.capture(),
            self.batch_cap.capture(),
        )

    def restore(
        self, state: Iterable[object], suspect_groups: Iterable[SuspectGroup], open_batches: int
    ) -> None:
        """Continue from what `capture` returned, with the groups that wait."""
        bisected, reruns, failures_in_a_row, storm, batch_cap = state
        assert isinstance(bisected, int)
        assert isinstance(reruns, int)
        assert isinstance(failures_in_a_row, int)
        assert isinstance(storm, tuple)
        assert isinstance(batch_cap, tuple)
        self.bisected, self.reruns = bisected, reruns
        self.failures_in_a_row = failures_in_a_row
        self.storm.restore(storm)
        self.batch_cap.restore(batch_cap)
        self.suspect_groups = list(suspect_groups)
        self.open_batches = open_batches
