"""What a batch will take: learned from every batch, seeded by the warm-up.

One estimator serves one model (and one shape bucket). It keeps four things apart, because they
move at different speeds:

- the *curve*: the mean time of each batch size, monotone, interpolated between sizes that were seen
  and continued as a line beyond them. It moves slowly.
- the *drift*: one factor on the whole curve, for a device that has become slower or faster. It
  follows a sudden change after a few samples in a row, and a slow one with every sample.
- the *margin*: an upper quantile of how much longer than predicted recent batches took. What must
  not be late is planned with it; what is merely added up is not.
- the *reply time* of a row: what handing on a batch's answers takes after the instance is free, an
  upper quantile of recent batches. An instance does not wait for it, but a caller does: for its own
  answer and those before it, which leave in the order of the batch.

With times that do not vary, the drift and the margin are exactly 1 and the curve is exact.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import accumulate

from batcher.core.service_time.canary import Canaries

MEAN_SAMPLES = 32
"""A size's mean follows a new sample with at least one part in so many."""

DRIFT_SAMPLES = 32
"""The drift follows a new sample with one part in so many."""

MARGIN_SAMPLES = 64
"""Recent samples that the margin is a quantile of."""

MARGIN_QUANTILE = 0.95
"""Which quantile."""

JUMP = 1.3
"""Samples off by more than this factor, several in a row, are a change and not noise."""

MOST_OFF = 2.0
"""A sample that is off by more counts as this much in the margin."""

JUMP_SAMPLES = 3
"""How many in a row."""

REPLY_SAMPLES = 64
"""Recent batches that the reply time is a quantile of."""

REPLY_QUANTILE = 0.95
"""Which quantile: a few stalls must not make every batch look longer."""

REPLY_FORGET_NS, REPLY_LEAST = 1_000_000_000, 4
"""What is older than this says nothing about the reply time any more, but for so many of the newest."""

REPLY_GROUP = 16
"""The first answer of a batch leaves when this many would have: all are cut out of the result
before, and it waits for others to leave in the same write. Chosen on a server with 32 rows to a
batch and 0.05 ms to an answer, whose first ones left after 0.7 ms; with 8 more of them were late."""

REPLY_LEAP, REPLY_LEAP_NS = 4.0, 200_000.0
"""What is longer than so many reply times and so much is a stall, and counts as this."""

MARGIN_PART = 0.5
"""The margin takes at most this part of the time that one row alone leaves of the target."""

UNREACHABLE_NS = 10_000_000_000
"""A target that was out of reach for so long is given up until it is in reach again."""

LEAST_UNSEEN, LEAST_KNOWN = 2, 3
"""So many batches of a size in a row that are off alike, while others are not, say that it is the
curve that is off there: of a size that was never seen, and of one that was."""

FOLLOWED = 1.05
"""A change that others have shown is taken over from this factor on."""

FORGET_NS = 10_000_000_000
"""Samples older than this say nothing about noise any more."""


class ServiceTimes:
    """Predicts batch times, in nanoseconds, by rows. `max_rows` is the largest batch.

    `curve[b]` is the expected time of `b` rows (`curve[0]` is 0), empty until something was
    measured. `typical[b]` is when the last of them should have been answered, `answered[b]` when it
    most likely has: with the margin, which is at least 1. `first_answered[b]` is the same of the
    first of them; each further row adds `reply_ns`, but none is later than the last. They are
    replaced, never changed.

    `steady` counts batches that were as predicted. `reachable` is False where one row alone cannot be
    done inside the target, `unreachable_since_ns` when that began to look so. `canaries` are admission's
    notes of the same bucket.
    """

    __slots__ = (
        "_base",
        "_counts",
        "_drift",
        "_means",
        "_off",
        "_off_ns",
        "_pooled",
        "_ratios",
        "_recent",
        "_replies",
        "_sizes",
        "_stray",
        "_target_ns",
        "_trailing",
        "canaries",
        "curve",
        "expected",
        "first_p95",
        "margin",
        "max_rows",
        "p95",
        "reachable",
        "reply_ns",
        "steady",
        "unreachable_since_ns",
    )

    def __init__(self, max_rows: int, target_ns: int | None = None) -> None:
        self.max_rows = max_rows
        self.canaries = Canaries()
        self.steady = 0
        self.reachable = True
        self.unreachable_since_ns: int | None = None
        self.curve: Sequence[float] = ()
        self.p95: Sequence[float] = ()
        self.first_p95: Sequence[float] = ()
        self.expected: Sequence[float] = ()
        self.margin = 1.0
        self._target_ns = target_ns
        self.reply_ns = 0.0
        self._replies: list[tuple[int, float]] = []
        self._means: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._sizes: list[int] = []
        """The sizes that were seen, in order, since the curve was last built anew."""
        self._base: list[float] = []
        self._drift = 1.0
        self._off: list[float] = []
        self._off_ns = 0
        self._pooled = False
        """Whether some sizes share a time, to which they count by their samples."""
        self._trailing = 1.0
        self._stray: dict[int, list[tuple[int, float]]] = {}
        """(moment, time) of the last batches of a size, while they are off the curve."""
        self._recent: list[tuple[int, float]] = []
        self._ratios: list[float] = []

    def __bool__(self) -> bool:
        return bool(self.curve)

    def seed(self, profile: Iterable[tuple[int, int]]) -> None:
        """Take in what a warm-up measured: (rows, nanoseconds) pairs."""
        for rows, took_ns in profile:
            if 1 <= rows <= self.max_rows and took_ns > 0:
                self._learn(rows, took_ns / self._drift)
        self._rebuild()

    def resize(self, max_rows: int) -> None:
        """Predict up to another largest batch. What larger ones took is remembered."""
        self.max_rows = max_rows
        self._rebuild()

    def aim(self, target_ns: int | None) -> None:
        """Bound the margin by another target."""
        if target_ns != self._target_ns:
            self._target_ns = target_ns
            self._publish()

    def judge_target(self, now_ns: int, *, measured: bool) -> None:
        """Whether one row alone can be done inside the target.

        After a warm-up and for a new target (`measured`) the answer is believed at once. Later, a
        device that has become slow may recover, so the target is given up only after
        `UNREACHABLE_NS`.
        """
        if self._target_ns is None or self.curve[1] <= self._target_ns:
            self.reachable, self.unreachable_since_ns = True, None
        elif measured:
            self.reachable = False
        elif self.unreachable_since_ns is None:
            self.unreachable_since_ns = now_ns
        elif now_ns - self.unreachable_since_ns >= UNREACHABLE_NS:
            self.reachable = False

    def observe(
        self,
        rows: int,
        took_ns: int,
        now_ns: int,
        began_ns: int | None = None,
        *,
        trust: bool = False,
    ) -> None:
        """Learn from a batch. `trust`: one sample is enough to believe in a change.

        `began_ns`: when it began, if that is not `took_ns` ago.
        """
        if not 1 <= rows <= self.max_rows or took_ns <= 0:
            return
        before, margin = self._drift, self.margin
        # A size that was never seen says more about the curve than about the device.
        if rows in self._means or len(self._means) > 1:
            ratio = took_ns / self._base[rows]
            off = self._is_off(ratio)
            if began_ns is None:
                began_ns = now_ns - took_ns
            if off and self._off and began_ns < self._off_ns and not trust:
                # It ran beside one that was as far off: one moment is one sample.
                return
            if off and self._jumped(ratio, now_ns, 1 if trust else JUMP_SAMPLES):
                self._publish()
                return
            if off:
                self._stray.setdefault(rows, []).append((now_ns, took_ns / before))
                del self._stray[rows][:-LEAST_KNOWN]
                # A first sample far off: noise, unless more follow. Where it is no longer rare it
                # belongs to the margin, up to a bound: a few stalls must not lock everybody out.
                if rows in self._means and len(self._ratios) >= MARGIN_SAMPLES // 2:
                    self._note(min(ratio / self._drift, MOST_OFF), now_ns)
                    if self.margin != margin:
                        self._publish()
                return
            self._off.clear()
            self._stray.pop(rows, None)
            self.steady += 1
            if rows in self._means:
                self._note(ratio / self._drift, now_ns)
                self._drift += (ratio - before) / DRIFT_SAMPLES
        # The device is as it was: what was off is the curve.
        moved = self._move(rows, took_ns / self._drift, now_ns)
        if moved or self._drift != before or self.margin != margin:
            self._publish()

    @property
    def drift(self) -> float:
        """How much slower (or faster) the device has become than the curve was measured with."""
        return self._drift

    def follow(self, factor: float) -> None:
        """The device has changed, as batches of other shapes have shown."""
        self._trailing *= factor
        if 1 / FOLLOWED < self._trailing < FOLLOWED:
            return
        self._drift *= self._trailing
        self._trailing = 1.0
        self._off.clear()
        self._stray.clear()
        self._publish()

    def observe_replies(self, rows: int, took_ns: int, now_ns: int) -> None:
        """Learn from how long it took to hand on the answers of a batch."""
        known_ns, recent = self.reply_ns, self._replies
        recent.append((now_ns, min(took_ns / rows, REPLY_LEAP * known_ns + REPLY_LEAP_NS)))
        while len(recent) > REPLY_SAMPLES or (
            len(recent) > REPLY_LEAST and recent[0][0] < now_ns - REPLY_FORGET_NS
        ):
            del recent[0]
        times = sorted([each_ns for _, each_ns in recent])
        # Of few the longest may be a stall, too.
        self.reply_ns = times[int(REPLY_QUANTILE * (len(times) - 1))]
        if self.reply_ns != known_ns:
            self._publish()

    def _is_off(self, ratio: float) -> bool:
        return not 1 / JUMP < ratio / self._drift < JUMP

    def _jumped(self, ratio: float, now_ns: int, needed: int) -> bool:
        """One more sample that is far off; returns whether the device has changed."""
        if self._off and (self._off[0] > self._drift) != (ratio > self._drift):
            self._off.clear()
        self._off.append(ratio)
        self._off_ns = now_ns
        if len(self._off) < needed:
            return False
        self._drift = sorted(self._off)[len(self._off) // 2]
        self._off.clear()
        self._stray.clear()
        self._recent.clear()
        self._ratios.clear()
        self.margin = 1.0
        return True

    def _note(self, off: float, now_ns: int) -> None:
        """One more sample of the noise; old ones leave."""
        recent, ratios = self._recent, self._ratios
        recent.append((now_ns, off))
        insort(ratios, off)
        while len(recent) > MARGIN_SAMPLES or recent[0][0] < now_ns - FORGET_NS:
            _, gone = recent.pop(0)
            del ratios[bisect_right(ratios, gone) - 1]
        place = min(len(ratios) - 1, int(MARGIN_QUANTILE * len(ratios)))
        self.margin = max(1.0, ratios[place])

    def _learn(self, rows: int, took_ns: float) -> bool:
        """Move a size's mean; returns whether it moved, or weighs more among others."""
        count = self._counts.get(rows, 0) + 1
        self._counts[rows] = min(count, MEAN_SAMPLES)
        mean = self._means.get(rows, took_ns)
        moved = mean + (took_ns - mean) / min(count, MEAN_SAMPLES)
        self._means[rows] = moved
        return count == 1 or moved != mean or (self._pooled and count <= MEAN_SAMPLES)

    def _learn_strays(self, now_ns: int) -> bool:
        """Take in sizes that turned out not to lie on the curve; returns whether there were any."""
        learned: list[int] = []
        for rows, samples in self._stray.items():
            times = [took_ns for _, took_ns in samples]
            enough = LEAST_KNOWN if rows in self._means else LEAST_UNSEEN
            alike = max(times) < JUMP * min(times) and samples[0][0] >= now_ns - FORGET_NS
            if len(times) >= enough and alike:
                self._means[rows] = min(times)
                self._counts[rows] = 1
                learned.append(rows)
        for rows in learned:
            del self._stray[rows]
        return bool(learned)

    def _move(self, rows: int, took_ns: float, now_ns: int) -> bool:
        """Take one more time of a size into the curve; returns whether that changes anything."""
        strayed = self._learn_strays(now_ns)
        moved = self._learn(rows, took_ns)
        if strayed or (moved and not self._bend(rows)):
            self._build()
        return strayed or moved

    def _bend(self, rows: int) -> bool:
        """Move the curve at one size and up to its neighbours, as `_build` would.

        False where that moves more: where a size is new, or not between its neighbours, or where a
        line through all of them is part of the curve.
        """
        sizes, means = self._sizes, self._means
        place = bisect_left(sizes, rows)
        if self._pooled or place == len(sizes) or sizes[place] != rows:
            return False
        if sizes[0] > 1 or sizes[-1] < self.max_rows:
            return False
        time, base = means[rows], self._base
        left = sizes[place - 1] if place else rows
        right = sizes[place + 1] if place + 1 < len(sizes) else rows
        if not means[left] <= time <= means[right]:
            return False
        base = base.copy()
        for first, last in ((left, rows), (rows, right)):
            low, high = means[first], means[last]
            for between in range(first + 1, min(last, self.max_rows + 1)):
                share = (between - first) / (last - first)
                base[between] = low + share * (high - low)
        base[rows] = time
        self._base = base
        return True

    def _rebuild(self) -> None:
        if self._means:
            self._build()
            self._publish()

    def _build(self) -> None:
        sizes = self._sizes = sorted(self._means)
        means = [self._means[size] for size in sizes]
        times = _isotonic(means, [self._counts[size] for size in sizes])
        self._pooled = times != means
        self._base = _through(sizes, times, self.max_rows)

    def _publish(self) -> None:
        """Make the predictions from what is known now."""
        base, drift, margin, reply_ns = self._base, self._drift, self.margin, self.reply_ns
        curve = base if drift == 1.0 else [drift * time for time in base]
        self.curve = self.p95 = self.first_p95 = self.expected = curve
        if margin != 1.0 and self._target_ns is not None:
            room = self._target_ns / curve[1] if len(curve) > 1 else 1.0
            margin = max(1.0, min(margin, 1.0 + MARGIN_PART * (room - 1.0)))
        if reply_ns:
            self.expected = [time + reply_ns * b for b, time in enumerate(curve)]
        if margin != 1.0 or reply_ns:
            self.p95 = [margin * time + reply_ns * b for b, time in enumerate(curve)]
            self.first_p95 = [
                margin * time + reply_ns * min(b, REPLY_GROUP) for b, time in enumerate(curve)
            ]

    def capture(self) -> tuple[object, ...]:
        """The whole state as a plain value, for `restored`."""
        return (
            self.max_rows,
            self.margin,
            self._drift,
            self.reply_ns,
            tuple((size, self._means[size], self._counts[size]) for size in self._means),
            tuple(self._off),
            tuple(self._recent),
            tuple((rows, tuple(samples)) for rows, samples in self._stray.items()),
            (self._target_ns, tuple(self._replies), self._off_ns, self._trailing),
            (self.reachable, self.unreachable_since_ns, self.steady),
            self.canaries.capture(),
        )

    @classmethod
    def restored(cls, state: tuple[object, ...]) -> ServiceTimes:
        """An estimator that predicts and learns as the one that was captured."""
        max_rows, margin, drift, reply_ns, means, off, recent, strays, aims, notes, canaries = state
        assert isinstance(max_rows, int)
        assert isinstance(margin, float)
        assert isinstance(drift, float)
        assert isinstance(reply_ns, float)
        assert isinstance(means, tuple)
        assert isinstance(off, tuple)
        assert isinstance(recent, tuple)
        assert isinstance(strays, tuple)
        assert isinstance(aims, tuple)
        assert isinstance(notes, tuple)
        assert isinstance(canaries, tuple)
        times = cls(max_rows)
        times._target_ns, replies, times._off_ns, times._trailing = aims
        times._replies = list(replies)
        times.reachable, times.unreachable_since_ns, times.steady = notes
        times.canaries = Canaries(*canaries)
        times._stray = {rows: list(samples) for rows, samples in strays}
        times.margin, times._drift, times.reply_ns = margin, drift, reply_ns
        for size, mean, count in means:
            times._means[size] = mean
            times._counts[size] = count
        times._off = list(off)
        times._recent = list(recent)
        times._ratios = sorted(ratio for _, ratio in recent)
        times._rebuild()
        return times


def _isotonic(values: list[float], weights: list[int]) -> list[float]:
    """The nearest values that never sink (pool adjacent violators)."""
    pools: list[tuple[float, int, int]] = []
    for value, weight in zip(values, weights, strict=True):
        pool = (value, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, heavy, count = pools.pop()
            total = heavy + pool[1]
            pool = ((mean * heavy + pool[0] * pool[1]) / total, total, count + pool[2])
        pools.append(pool)
    return [value for value, _, count in pools for _ in range(count)]


def _through(sizes: list[int], times: list[float], max_rows: int) -> list[float]:
    """A curve over 0..max_rows through points: straight between them, a fitted line beyond."""
    slope, base = _line(sizes, times)
    curve = [0.0]
    place = 0
    for rows in range(1, max_rows + 1):
        while place < len(sizes) and sizes[place] < rows:
            place += 1
        if place < len(sizes) and sizes[place] == rows:
            curve.append(times[place])
        elif place == 0:
            curve.append(min(times[0], max(base + slope * rows, times[0] * rows / sizes[0])))
        elif place == len(sizes):
            curve.append(times[-1] + slope * (rows - sizes[-1]))
        else:
            left, right = sizes[place - 1], sizes[place]
            share = (rows - left) / (right - left)
            curve.append(times[place - 1] + share * (times[place] - times[place - 1]))
    return list(accumulate(curve, max))


def _line(sizes: list[int], times: list[float]) -> tuple[float, float]:
    """Least squares, (slope, intercept), neither below zero.

    One size alone is taken for half overhead, half rows: the truth is in between.
    """
    if len(sizes) == 1:
        return times[0] / 2 / sizes[0], times[0] / 2
    mean_size = sum(sizes) / len(sizes)
    mean_time = sum(times) / len(times)
    spread = sum((size - mean_size) ** 2 for size in sizes)
    slope = (
        sum((s - mean_size) * (t - mean_time) for s, t in zip(sizes, times, strict=True)) / spread
    )
    slope = max(0.0, min(slope, mean_time / mean_size))
    return slope, mean_time - slope * mean_size
