"""What was offered to one model lately: rows by bucket, also those that were refused or expired.

They are counted in slots of half a second. What is offered *now* is a mean over the last five seconds, so
that a step shows in full after five, and no sooner than it is more than a burst:

- `recent`, the mean of the last five seconds (nine slots, and the one that runs);
- `steady`, the same without the busiest second of them: one burst, or one pause of a stream that comes in
  bursts, is not in it;
- `usual`, the mean of about half a minute.

Where an instance serves so few requests that five seconds tell nothing, slots are longer, up to an hour. Then `recent`
counts, whose slots hold few requests each: without the busiest two, a load of 0.5 would read 0.42.

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
"""Half a second, the shortest slot: a burst ends in one slot or the next. Shorter ones see the same in more memory."""

LONGEST_SLOT_NS: Final = SLOT_NS << 13
"""About an hour, for requests that take half an hour. A mean over more than ten hours is none of now."""

SLOT_REQUESTS: Final = 2.5
"""A slot is as long as so many requests take at the least, so that `SLOTS` of them hold 25 at full load, which is
known to a fifth. With half as many it is known to 30 %, and twice as many double the time in which a step shows."""

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
        "known_ns",
        "mean_rows",
        "requests",
        "rows",
        "since_ns",
        "slot_ns",
        "usual_requests",
        "usual_rows",
    )
    STATE = (
        *("ended", "ends_ns", "evenness", "mean_rows", "requests", "rows", "since_ns"),
        *("usual_rows", "slot_ns", "known_ns", "usual_requests"),
    )

    def __init__(self, now_ns: int = 0) -> None:
        self.rows: Rows = {}
        """Rows of the slot that runs, by bucket."""
        self.ends_ns = (now_ns // SLOT_NS + 1) * SLOT_NS
        """When that slot ends: `next_slot` must be called before anything is counted after it."""
        self.since_ns = now_ns
        """Since when it is counted."""
        self.slot_ns = SLOT_NS
        """How long a slot is: `SLOT_NS` times a power of two."""
        self.known_ns = 0
        """Since when slots are known: what was counted before was too long ago when they were shorter."""
        self.requests = 0.0
        """Requests of the slot that runs."""
        self.mean_rows = 1.0
        """Rows of a request, in the last slot that had any."""
        self.evenness = Evenness()
        self.ended: deque[tuple[int, tuple[tuple[Shapes, float], ...]]] = deque()
        """Slots that have ended, without empty ones: their number, and their rows by bucket."""
        self.usual_rows: Rows = {}
        """Rows of all slots that have ended, each weighted by its age as of `ends_ns`."""
        self.usual_requests = 0.0
        """Their requests, weighted alike."""

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
        number = self.ends_ns // self.slot_ns - 1
        passed = now_ns // self.slot_ns - number
        rows, self.rows = self.rows, {}
        if self.requests:
            self.mean_rows = sum(rows.values()) / self.requests
        fade = _kept(passed)
        self.usual_requests = (self.usual_requests + self.requests) * fade
        self.requests = 0.0
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
        self.ends_ns = (number + passed + 1) * self.slot_ns

    def lately(self, now_ns: int, cost: Callable[[Mapping[Shapes, float]], float]) -> Rows | None:
        """Rows that are offered for each nanosecond now, by bucket; None in the first two slots.

        `cost` weighs the rows of several buckets.
        """
        since_ns, pair_ns = max(self.since_ns, self.known_ns), 2 * self.slot_ns
        first, now = since_ns // self.slot_ns, now_ns // self.slot_ns
        span_ns = now_ns - max(since_ns, (now - SLOTS + 1) * self.slot_ns)
        if span_ns < pair_ns:
            return None
        if not self.rows and not self.ended:
            return {}
        slots, rows = self._slots(first, now)
        costs = [cost(each) if each else 0.0 for each in slots]
        total = sum(costs)
        if not total:
            return {}
        part = 1.0
        if span_ns > 2 * pair_ns and self.slot_ns == SLOT_NS:
            # The slot that runs and the one before it are the last second, as far as it has passed.
            pairs = [(costs[i] + costs[i + 1], pair_ns) for i in range(len(costs) - 2)]
            pairs.append((costs[-2] + costs[-1], self.slot_ns + now_ns - now * self.slot_ns))
            busiest, took_ns = max(pairs)
            steady = (total - busiest) / (span_ns - took_ns)
            usual = cost(self.usual_at(now)) / (_weight(now - first) * self.slot_ns)
            recent = total / span_ns
            part = min(1.0, max(steady, min(recent, usual)) / recent)
        return {bucket: each * part / span_ns for bucket, each in rows.items()}

    def _slots(self, first: int, now: int) -> tuple[list[Rows], Rows]:
        """The rows of the last slots since the `first`, the one that runs last, and those of all of them."""
        found: dict[int, Rows] = {number: {} for number in range(now - SLOTS + 1, now + 1)}
        every: Rows = {}
        for number, rows in (
            *self.ended,
            (self.ends_ns // self.slot_ns - 1, tuple(self.rows.items())),
        ):
            if number in found and number >= first:
                found[number] = dict(rows)
                _add(every, found[number])
        return list(found.values()), every

    def usual_at(self, now: int) -> Rows:
        """`usual_rows` as of the slot of now."""
        passed = now - (self.ends_ns // self.slot_ns - 1)
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
            super().restore((*state, SLOT_NS, 0, 0.0)[: len(self.STATE)])

    def fit_slots(self, rate: float, now_ns: int) -> None:
        """Make slots so long that they hold enough requests, where so many rows a nanosecond can be served.

        They become longer at once, and shorter where requests twice as long would still need shorter ones.
        """
        rows = self.mean_rows
        if self.usual_requests > 1e-6:
            rows = max(1.0, sum(self.usual_rows.values()) / self.usual_requests)
        request_ns = rows / rate
        longer_ns, shorter_ns = _slot_ns(request_ns), _slot_ns(2.0 * request_ns)
        if shorter_ns >= self.slot_ns >= longer_ns:
            return
        if now_ns >= self.ends_ns:
            self.next_slot(now_ns)
        if longer_ns > self.slot_ns:
            self._lengthen(longer_ns)
        else:
            self._shorten(shorter_ns, now_ns)

    def _lengthen(self, slot_ns: int) -> None:
        """Put the rows of shorter slots together in longer ones."""
        times, weight = slot_ns // self.slot_ns, self._usual_weight()
        if len(self.ended) >= SLOTS:
            # Of earlier ones the rows are gone.
            self.known_ns = max(self.known_ns, self.ended[0][0] * self.slot_ns)
        running = (self.ends_ns // self.slot_ns - 1) // times
        merged: dict[int, Rows] = {}
        for number, rows in self.ended:
            _add(merged.setdefault(number // times, {}), dict(rows))
        now = merged.pop(running, {})
        self.requests += sum(now.values()) / max(1.0, self.mean_rows)
        _add(self.rows, now)
        self.ended = deque([(number, tuple(rows.items())) for number, rows in merged.items()])
        self._take(slot_ns, running, weight)

    def _shorten(self, slot_ns: int, now_ns: int) -> None:
        """Spread the rows of longer slots evenly over shorter ones, of which the last are kept."""
        times, weight = self.slot_ns // slot_ns, self._usual_weight()
        running = now_ns // slot_ns
        begins = (self.ends_ns // self.slot_ns - 1) * times
        ended = running - begins
        # Of the rows of the slot that runs, as much as of its time lies in each that has ended.
        part = slot_ns / (now_ns - begins * slot_ns) if ended else 0.0
        of_now = tuple([(bucket, each * part) for bucket, each in self.rows.items()])
        left = max(0.0, 1.0 - ended * part)
        self.rows = {bucket: each * left for bucket, each in self.rows.items()} if left else {}
        self.requests *= left
        spread: list[tuple[int, tuple[tuple[Shapes, float], ...]]] = []
        if of_now and ended:
            spread = [(n, of_now) for n in range(max(begins, running - SLOTS), running)]
        for number, rows in reversed(self.ended):
            if len(spread) >= SLOTS:
                break
            each = tuple([(bucket, of_slot / times) for bucket, of_slot in rows])
            last = (number + 1) * times
            spread = [(n, each) for n in range(max(last - times, last - SLOTS), last)] + spread
        self.ended = deque(spread[-SLOTS:])
        self._take(slot_ns, running, weight)

    def _usual_weight(self) -> float:
        """For how many nanoseconds `usual_rows` stand."""
        since_ns = max(self.since_ns, self.known_ns)
        passed = self.ends_ns // self.slot_ns - 1 - since_ns // self.slot_ns
        return _weight(passed) * self.slot_ns

    def _take(self, slot_ns: int, running: int, weight: float) -> None:
        """Take slots of this length, of which this one runs; `usual_rows`, of this weight, say the same rate as before."""
        self.slot_ns, self.ends_ns = slot_ns, (running + 1) * slot_ns
        factor = self._usual_weight() / weight if weight > 0.0 else 0.0
        usual = {bucket: each * factor for bucket, each in self.usual_rows.items()}
        self.usual_rows = usual if factor else {}
        self.usual_requests *= factor

    def take_over(self, other: Offered) -> None:
        """Count what was offered to `other` as offered to this model, which takes its place."""
        if other.slot_ns < self.slot_ns:
            longer = Offered()
            longer.restore(other.capture())
            longer._lengthen(self.slot_ns)
            other = longer
        elif other.slot_ns > self.slot_ns:
            self._lengthen(other.slot_ns)
        self.since_ns = min(self.since_ns, other.since_ns)
        self.known_ns = max(self.known_ns, other.known_ns)
        if other.evenness.seen > self.evenness.seen:
            self.evenness = other.evenness
        later, earlier = (self, other) if self.ends_ns >= other.ends_ns else (other, self)
        earlier_rows = dict(earlier.rows)
        numbers: dict[int, Rows] = {}
        for each in (later, earlier):
            for number, rows in each.ended:
                _add(numbers.setdefault(number, {}), dict(rows))
        usual, rows_now = dict(later.usual_rows), dict(later.rows)
        passed = (later.ends_ns - earlier.ends_ns) // self.slot_ns
        requests = earlier.usual_requests + (earlier.requests if passed else 0.0)
        requests = later.usual_requests + requests * _kept(passed)
        now = later.requests + (0.0 if passed else earlier.requests)
        _add(usual, earlier.usual_at(later.ends_ns // self.slot_ns - 1))
        if passed:
            _add(numbers.setdefault(earlier.ends_ns // self.slot_ns - 1, {}), earlier_rows)
        else:
            _add(rows_now, earlier_rows)
        self.rows, self.usual_rows, self.ends_ns = rows_now, usual, later.ends_ns
        self.requests, self.usual_requests = now, requests
        kept = sorted(numbers.items())[-SLOTS:]
        self.ended = deque(((n, tuple(rows.items())) for n, rows in kept if rows))


def _slot_ns(request_ns: float) -> int:
    """How long slots are, where a request can be served each `request_ns`."""
    slot_ns = SLOT_NS
    while slot_ns < SLOT_REQUESTS * request_ns and slot_ns < LONGEST_SLOT_NS:
        slot_ns *= 2
    return slot_ns


def _kept(slots: int) -> float:
    """The part of its weight that a slot keeps after so many more."""
    return float((1.0 - 1.0 / USUAL_SLOTS) ** min(slots, 10_000))


def _weight(slots: int) -> float:
    """The sum of the weights of so many slots, all of which have ended."""
    return (1.0 - _kept(slots)) / (1.0 - _kept(1)) * _kept(1)


def _add(to: Rows, rows: Mapping[Shapes, float]) -> None:
    for bucket, each in rows.items():
        to[bucket] = to.get(bucket, 0.0) + each
