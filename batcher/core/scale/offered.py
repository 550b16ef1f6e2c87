"""What was offered to one model lately: rows by bucket, also those that were refused or expired.

They are counted in slots of half a second. What is offered *now* is a mean over the last five seconds, so
that a step shows in full after five, and no sooner than it is more than a burst:

- `recent`, the mean of the last five seconds (nine slots, and the one that runs);
- `steady`, the same without the busiest second of them: one burst, or one pause of a stream that comes in
  bursts, is not in it;
- `usual`, the mean of about half a minute.

What counts is `steady`, but at least the lesser of the other two. So a single burst counts as the part that it
is of half a minute, a step counts as soon as it lasts, and what comes in bursts all the time counts in full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from batcher.core.captured import Captured
from batcher.core.events import Shapes
from batcher.core.scale.arrivals import Evenness
from batcher.core.times import LATELY_NS

SLOT_NS: Final = LATELY_NS // 2
"""Half a second: a burst ends in one slot or the next. Shorter slots see the same in more memory."""

SLOTS: Final = 10
"""Slots of which the mean is `recent`: a step is to show in full within five seconds."""

USUAL_SLOTS: Final = 60.0
"""Time constant of `usual`, in slots: a burst counts in it as a thirtieth of a second's work for each second of
work that it brings. With half as much, it counts twice as much; twice as much gains little more."""

MOST_BUCKETS: Final = 64
"""Buckets that are told apart in a slot; rows of others count as those of the bucket seen last."""

Rows = dict[Shapes, float]


class Offered(Captured):
    """Rows that were offered to one model, by slot and bucket."""

    __slots__ = (
        "ended",
        "ends_ns",
        "evenness",
        "mean_rows",
        "requests",
        "rows",
        "since_ns",
        "usual_rows",
    )

    def __init__(self, now_ns: int = 0) -> None:
        self.rows: Rows = {}
        """Rows of the slot that runs, by bucket."""
        self.ends_ns = (now_ns // SLOT_NS + 1) * SLOT_NS
        """When that slot ends: `next_slot` must be called before anything is counted after it."""
        self.since_ns = now_ns
        """Since when it is counted."""
        self.requests = 0
        """Requests of the slot that runs."""
        self.mean_rows = 1.0
        """Rows of a request, in the last slot that had any."""
        self.evenness = Evenness()
        self.ended: deque[tuple[int, tuple[tuple[Shapes, float], ...]]] = deque()
        """Slots that have ended, without empty ones: their number, and their rows by bucket."""
        self.usual_rows: Rows = {}
        """Rows of all slots that have ended, each weighted by its age as of `ends_ns`."""

    def count(self, bucket: Shapes, rows: int, now_ns: int) -> None:
        """Count a request's rows, which are offered now."""
        if now_ns >= self.ends_ns:
            self.next_slot(now_ns)
        counts, evenness = self.rows, self.evenness
        if bucket in counts:
            counts[bucket] += rows
        else:
            self._first_of(bucket, rows)
        self.requests += 1
        evenness.rows += rows
        if evenness.rows >= evenness.block_rows > 0:
            evenness.block(now_ns)

    def _first_of(self, bucket: Shapes, rows: int) -> None:
        """Count the first rows of a bucket in this slot."""
        if len(self.rows) >= MOST_BUCKETS:
            bucket = next(reversed(self.rows))
        self.rows[bucket] = self.rows.get(bucket, 0.0) + rows

    def next_slot(self, now_ns: int) -> None:
        """End the slot that ran, and begin the one of now."""
        number = self.ends_ns // SLOT_NS - 1
        passed = now_ns // SLOT_NS - number
        rows, self.rows = self.rows, {}
        if self.requests:
            self.mean_rows = sum(rows.values()) / self.requests
        self.requests = 0
        fade = _kept(passed)
        usual = {bucket: each * fade for bucket, each in self.usual_rows.items()}
        for bucket, each in rows.items():
            usual[bucket] = usual.get(bucket, 0.0) + each * fade
        # What has faded to less than a row in an hour, or does not fit, is of no account.
        kept = sorted(usual.items(), key=lambda item: item[1])[-MOST_BUCKETS:]
        self.usual_rows = {bucket: each for bucket, each in kept if each > 1e-6}
        if rows:
            self.ended.append((number, tuple(rows.items())))
            if len(self.ended) > SLOTS:
                self.ended.popleft()
        self.ends_ns = (number + passed + 1) * SLOT_NS

    def lately(self, now_ns: int, cost: Callable[[Mapping[Shapes, float]], float]) -> Rows | None:
        """Rows that are offered for each nanosecond now, by bucket; None in the first second.

        `cost` weighs the rows of several buckets.
        """
        span_ns = now_ns - max(self.since_ns, (now_ns // SLOT_NS - SLOTS + 1) * SLOT_NS)
        if span_ns < LATELY_NS:
            return None
        first, now = self.since_ns // SLOT_NS, now_ns // SLOT_NS
        if not self.rows and not self.ended:
            return {}
        slots, rows = self._slots(now)
        costs = [cost(each) if each else 0.0 for each in slots]
        total = sum(costs)
        if not total:
            return {}
        part = 1.0
        if span_ns > 2 * LATELY_NS:
            # The slot that runs and the one before it are the last second, as far as it has passed.
            pairs = [(costs[i] + costs[i + 1], LATELY_NS) for i in range(len(costs) - 2)]
            pairs.append((costs[-2] + costs[-1], SLOT_NS + now_ns - now * SLOT_NS))
            busiest, took_ns = max(pairs)
            steady = (total - busiest) / (span_ns - took_ns)
            weight = (1.0 - _kept(now - first)) / (1.0 - _kept(1)) * _kept(1)
            usual = cost(self.usual_at(now)) / (weight * SLOT_NS)
            recent = total / span_ns
            part = min(1.0, max(steady, min(recent, usual)) / recent)
        return {bucket: each * part / span_ns for bucket, each in rows.items()}

    def _slots(self, now: int) -> tuple[list[Rows], Rows]:
        """The rows of the last slots, the one that runs last, and those of all of them."""
        found: dict[int, Rows] = {number: {} for number in range(now - SLOTS + 1, now + 1)}
        every: Rows = {}
        for number, rows in (*self.ended, (self.ends_ns // SLOT_NS - 1, tuple(self.rows.items()))):
            if number in found:
                found[number] = dict(rows)
                _add(every, found[number])
        return list(found.values()), every

    def usual_at(self, now: int) -> Rows:
        """`usual_rows` as of the slot of now."""
        passed = now - (self.ends_ns // SLOT_NS - 1)
        if passed <= 0:
            return self.usual_rows
        both = dict(self.usual_rows)
        for bucket, rows in self.rows.items():
            both[bucket] = both.get(bucket, 0.0) + rows
        fade = _kept(passed)
        return {bucket: rows * fade for bucket, rows in both.items()}

    def restore(self, state: tuple[object, ...]) -> None:
        """Go on from what `capture` returned; older logs have nothing of it."""
        if state:
            super().restore(state)

    def take_over(self, other: Offered) -> None:
        """Count what was offered to `other` as offered to this model, which takes its place."""
        self.since_ns = min(self.since_ns, other.since_ns)
        if other.evenness.seen > self.evenness.seen:
            self.evenness = other.evenness
        later, earlier = (self, other) if self.ends_ns >= other.ends_ns else (other, self)
        earlier_rows = dict(earlier.rows)
        numbers: dict[int, Rows] = {}
        for each in (later, earlier):
            for number, rows in each.ended:
                _add(numbers.setdefault(number, {}), dict(rows))
        usual, rows_now = dict(later.usual_rows), dict(later.rows)
        passed = (later.ends_ns - earlier.ends_ns) // SLOT_NS
        _add(usual, earlier.usual_at(later.ends_ns // SLOT_NS - 1))
        if passed:
            _add(numbers.setdefault(earlier.ends_ns // SLOT_NS - 1, {}), earlier_rows)
        else:
            _add(rows_now, earlier_rows)
        self.rows, self.usual_rows, self.ends_ns = rows_now, usual, later.ends_ns
        kept = sorted(numbers.items())[-SLOTS:]
        self.ended = deque(((n, tuple(rows.items())) for n, rows in kept if rows))


def _kept(slots: int) -> float:
    """The part of its weight that a slot keeps after so many more."""
    return float((1.0 - 1.0 / USUAL_SLOTS) ** min(slots, 10_000))


def _add(to: Rows, rows: Mapping[Shapes, float]) -> None:
    for bucket, each in rows.items():
        to[bucket] = to.get(bucket, 0.0) + each
