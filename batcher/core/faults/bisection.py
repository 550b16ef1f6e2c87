"""Finds the requests at fault in a batch that failed as a whole, so that its mates are answered.

The batch is halved, and the first half runs again as it is, without newcomers. If it fails, it is
halved in its turn, and the other half is cleared: it is no more likely to hold a fault than whoever
has never run, so it goes back to the queue. If it succeeds, the fault is in the other half, which is
halved without being run. So a batch of n requests, one of which is at fault, costs at most
log2(n) + 1 further executions.

Nobody is cleared while it is in doubt whether the fault is a request's at all: when no batch has
succeeded since `MAX_FAILURES_IN_A_ROW` batches failed, when a request has come back `MAX_RETURNS` times, or
where requests are split. The other half is put by then. Once a request has failed alone, all that
was put by runs together; should it fail, it is the next to be halved.

While requests at fault come one by one, every batch is kept small, so that few fail and their searches
are short (`batch_cap.py`).

Three bounds keep a failing device from being bisected to death. A batch gets the executions that
`FAULTS_PER_BATCH` requests at fault need. It is given up when `MAX_FUTILE_SEARCHES` searches saved nobody. And there
is the storm: after `STORM_BATCHES` such batches in a row, while more than `MAX_BISECTED` are being
bisected, or when bisecting has lately taken more than `STORM_SHARE` of the model's instances, batches
fail as a whole for `STORM_NS`. The first batch after that which fails is bisected to see whether the
storm is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from batcher.core.commands import Part
from batcher.core.decay import DecayingSum
from batcher.core.events import FailureCause, Shapes
from batcher.core.faults.batch_cap import FaultAwareCap

FAULTS_PER_BATCH = 4
"""Every batch gets the executions that so many requests at fault need; a small one all it needs."""

MAX_FUTILE_SEARCHES = 2
"""A batch is given up when so many searches for a fault, each down to one request, saved nobody."""

SURE_ATTEMPT = 3
"""A request in which the fault must be is not run alone when it has failed so often, less one."""

STORM_BATCHES = 3
"""So many batches given up in a row are a storm."""

MAX_BISECTED = 32
"""More batches of one model are not bisected at once."""

STORM_SHARE = 0.5
"""Bisecting that takes more of the model's instances than this is a storm."""

WINDOW_NS = 2_000_000_000.0
"""What bisecting takes is averaged over about so long."""

MAX_FAILURES_IN_A_ROW = 2
"""While so many batches in a row have failed, a half that is cleared is not put among others."""

MAX_RETURNS = 3
"""A request is put among others again so often."""

STORM_NS = 1_000_000_000
"""How long batches fail as a whole before one is bisected again."""


@dataclass(slots=True, eq=False)
class Bisection:
    """One batch that failed as a whole. `open` counts its groups that wait or run.

    `may_return` says whether requests that are cleared may go back to the queue.
    """

    batch_id: int
    executions_left: int
    give_up_after: int
    may_return: bool
    failures: int = 0
    saved: bool = False
    suspect_groups: int = 0
    open: int = 0


@dataclass(slots=True, eq=False)
class SuspectGroup:
    """Parts of a failed batch that run together again, or are halved when their turn comes.

    `other` is the number of the group that is at fault if this one is not. A group that is `deferred`
    waits until the fault is found.
    """

    bisection: Bisection
    number: int
    parts: tuple[Part, ...]
    shapes: Shapes
    cause: FailureCause
    attempt: int
    since_ns: int
    other: int | None = None
    deferred: bool = False


def _turn(suspects: SuspectGroup) -> tuple[int, int, bool, int]:
    return suspects.since_ns, suspects.bisection.batch_id, suspects.deferred, suspects.number


def executions(parts: int) -> int:
    """How many further executions a batch of so many parts gets."""
    return FAULTS_PER_BATCH * (2 * (parts - 1).bit_length() + 1)


class Bisections:
    """One model's failed batches: the groups that wait to run again, oldest first, and the storm.

    `storm_ns` is when the next batch may be bisected after a storm began, None while there is none.
    `bisected` and `reruns` count batches and further executions, for ever.
    """

    __slots__ = (
        "_hopeless",
        "_spent_ns",
        "batch_cap",
        "bisected",
        "failures_in_a_row",
        "open",
        "reruns",
        "storm_ns",
        "storm_unreported",
        "suspect_groups",
    )

    def __init__(self) -> None:
        self.suspect_groups: list[SuspectGroup] = []
        self.open = 0
        self.bisected = 0
        self.reruns = 0
        self.storm_ns: int | None = None
        self._hopeless = 0
        self._spent_ns = DecayingSum(WINDOW_NS)
        self.batch_cap = FaultAwareCap()
        self.failures_in_a_row = 0
        """Batches that failed as a whole since the last one that succeeded."""
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
        *,
        may_return: bool = False,
    ) -> bool:
        """Bisect a batch that failed as a whole; False where it has to fail as it is.

        `may_return`: what is cleared of the fault may go back to the queue.
        """
        self.failures_in_a_row += 1
        if len(parts) == 1 or (self.storm_ns is not None and (now_ns < self.storm_ns or self.open)):
            return False
        if self.open >= MAX_BISECTED:
            self._storm(now_ns)
            return False
        self.open += 1
        self.bisected += 1
        give_up_after = MAX_FUTILE_SEARCHES * ((len(parts) - 1).bit_length() + 1)
        bisection = Bisection(batch_id, executions(len(parts)), give_up_after, may_return)
        self._halve(bisection, parts, shapes, cause, 2, now_ns)
        return True

    def succeeded(self, suspects: SuspectGroup, *, wholly: bool) -> SuspectGroup | None:
        """A group was executed; if `wholly` without a fault, the fault is in its other half.

        Returns the group of one part that must be at fault.
        """
        bisection = suspects.bisection
        bisection.saved = True
        self._hopeless = 0
        position = self._position(bisection, suspects.other) if wholly else None
        at_fault: SuspectGroup | None = None
        if position is not None:
            other = self.suspect_groups[position]
            if len(other.parts) > 1 and bisection.executions_left >= bisection.open:
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
        """A group has failed again. Returns the parts that have failed for good, and the cleared.

        `parts` are those whose callers still wait. What else of the group is to run again waits now.
        """
        bisection = suspects.bisection
        bisection.failures += 1
        lost: tuple[Part, ...] = ()
        cleared: tuple[Part, ...] = ()
        position = self._position(bisection, suspects.other)
        if position is not None:
            other = self._take(position)
            if (
                bisection.may_return
                and self.failures_in_a_row <= MAX_FAILURES_IN_A_ROW
                and self.storm_ns is None
            ):
                cleared = other.parts
            else:
                self._defer(other)
        if not bisection.saved and bisection.failures >= bisection.give_up_after:
            lost = (*parts, *self._given_up(bisection))
            self._hopeless += 1
            if self._hopeless >= STORM_BATCHES:
                self._storm(now_ns)
        elif len(parts) == 1:
            self.batch_cap.faults += 1.0
            lost = tuple(parts)
        elif (
            not parts
            or bisection.executions_left <= bisection.open
            or (self.storm_ns is not None and now_ns < self.storm_ns)
        ):
            lost = tuple(parts)
        else:
            self._halve(
                bisection, parts, suspects.shapes, cause, suspects.attempt + 1, suspects.since_ns
            )
        self._close(suspects)
        return lost, cleared

    def lost(self, suspects: SuspectGroup) -> None:
        """A group's instance went down, its device failed, or nobody waits for it any more."""
        self._close(suspects)

    def end_storm(self, now_ns: int) -> bool:
        """A batch succeeded: whether a storm is over by that."""
        if self.storm_ns is None or now_ns < self.storm_ns:
            return False
        self.storm_ns = None
        self._hopeless = 0
        return True

    # What runs next

    def start(self, suspects: SuspectGroup, expected_ns: float, slots: int, now_ns: int) -> None:
        """Take a group out to run it. Bisecting that takes too much is noticed here."""
        self.suspect_groups.remove(suspects)
        self.reruns += 1
        self._spent_ns.add(expected_ns / slots, now_ns)
        if self._spent_ns.value > STORM_SHARE * WINDOW_NS:
            self._storm(now_ns)
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
        """Halve groups that fit no batch any more; returns the parts that fit none even alone."""
        lost: list[Part] = []
        waiting, self.suspect_groups = self.suspect_groups, []
        while waiting:
            suspects = waiting.pop(0)
            if sum(part.stop - part.start for part in suspects.parts) <= max_rows:
                self.suspect_groups.append(suspects)
                continue
            suspects.bisection.open -= 1
            if len(suspects.parts) > 1:
                waiting[:0] = self._halves(
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
        self.suspect_groups += self._halves(bisection, parts, shapes, cause, attempt, since_ns)
        self.suspect_groups.sort(key=_turn)

    def _take(self, position: int) -> SuspectGroup:
        suspects = self.suspect_groups.pop(position)
        suspects.bisection.open -= 1
        return suspects

    def _defer(self, suspects: SuspectGroup) -> None:
        """Have a group wait until the fault is found, together with others of its batch."""
        for other in self.suspect_groups:
            if other.bisection is suspects.bisection and other.deferred:
                other.parts += suspects.parts
                other.attempt = max(other.attempt, suspects.attempt)
                return
        suspects.deferred, suspects.bisection.open = True, suspects.bisection.open + 1
        self.suspect_groups.append(suspects)
        self.suspect_groups.sort(key=_turn)

    def _halves(
        self,
        bisection: Bisection,
        parts: Sequence[Part],
        shapes: Shapes,
        cause: FailureCause,
        attempt: int,
        since_ns: int,
    ) -> list[SuspectGroup]:
        middle = len(parts) // 2
        number = bisection.suspect_groups
        bisection.suspect_groups += 2
        bisection.open += 2
        first, second = tuple(parts[:middle]), tuple(parts[middle:])
        return [
            SuspectGroup(bisection, number, first, shapes, cause, attempt, since_ns, number + 1),
            SuspectGroup(bisection, number + 1, second, shapes, cause, attempt, since_ns),
        ]

    def _position(self, bisection: Bisection, number: int | None) -> int | None:
        for position, suspects in enumerate(self.suspect_groups):
            if suspects.bisection is bisection and suspects.number == number:
                return position
        return None

    def _given_up(self, bisection: Bisection) -> tuple[Part, ...]:
        """Parts of a batch's groups that wait, and do not any more."""
        gone = [suspects for suspects in self.suspect_groups if suspects.bisection is bisection]
        self.suspect_groups = [
            suspects for suspects in self.suspect_groups if suspects.bisection is not bisection
        ]
        bisection.open -= len(gone)
        return tuple([part for suspects in gone for part in suspects.parts])

    def _close(self, suspects: SuspectGroup) -> None:
        suspects.bisection.open -= 1
        self._end_if_over(suspects.bisection)

    def _end_if_over(self, bisection: Bisection) -> None:
        if not bisection.open:
            self.open -= 1

    def _storm(self, now_ns: int) -> None:
        self.storm_unreported = self.storm_unreported or self.storm_ns is None
        self.storm_ns = now_ns + STORM_NS

    # State

    def capture(self) -> tuple[object, ...]:
        """The state as a plain value, for `restore`; groups and batches are captured elsewhere."""
        return (
            self.bisected,
            self.reruns,
            self.storm_ns,
            self._hopeless,
            self.failures_in_a_row,
            self._spent_ns.capture(),
            self.batch_cap.capture(),
        )

    def restore(
        self, state: Iterable[object], suspect_groups: Iterable[SuspectGroup], open_: int
    ) -> None:
        """Go on where the one that was captured stood."""
        bisected, reruns, storm_ns, hopeless, failures_in_a_row, spent_ns, batch_cap = state
        assert isinstance(bisected, int)
        assert isinstance(reruns, int)
        assert storm_ns is None or isinstance(storm_ns, int)
        assert isinstance(hopeless, int)
        assert isinstance(failures_in_a_row, int)
        assert isinstance(spent_ns, tuple)
        assert isinstance(batch_cap, tuple)
        self.bisected, self.reruns, self.storm_ns = bisected, reruns, storm_ns
        self._hopeless, self.failures_in_a_row = hopeless, failures_in_a_row
        self._spent_ns.restore(spent_ns)
        self.batch_cap.restore(batch_cap)
        self.suspect_groups = list(suspect_groups)
        self.open = open_

    def waiting_parts(self) -> Iterator[Part]:
        """Every part that waits to run again."""
        for suspects in self.suspect_groups:
            yield from suspects.parts
