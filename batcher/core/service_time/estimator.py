"""Predicts batch times of one model and padding bucket, from its warm-up and every batch that ran.

With times that never vary, drift and margin are exactly 1 and the curve is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from operator import truediv

from batcher.core.batch_sizes import BatchSizes
from batcher.core.captured import Captured
from batcher.core.service_time.copies import Copies
from batcher.core.service_time.curve import Curve
from batcher.core.service_time.drift import JUMP, Drift
from batcher.core.service_time.handling import Handling
from batcher.core.service_time.outliers import Outliers
from batcher.core.service_time.recent import FORGET_NS, Recent
from batcher.core.times import LATELY_NS

MARGIN_QUANTILE = 0.95
"""The margin covers this share of recent batches: one in twenty may take longer than planned. With 0.9 or
0.98, uneven times cost 1.0 to 1.5 points of requests in time at a load of 0.85."""

MARGIN_SHARE = 0.5
"""The margin is bounded to this share of the time that one row alone leaves of the target, so that a
noisy device does not make every request look late. Half as much is the same within 0.3 points; without
a bound up to 3 points are lost where one row takes over half of the target."""

_NEVER = float("inf")


def least_of_rows(curve: Sequence[float]) -> Sequence[float]:
    """The least time of a row in batches of at most so many rows, by rows; `curve` has that of batches."""
    return [0.0, *accumulate(map(truediv, islice(curve, 1, None), range(1, len(curve))), min)]


class ServiceTimes(Captured):
    """Predicts batch times, in nanoseconds, by rows. `max_rows` is the largest batch.

    Where only certain sizes can run, `batch_sizes` has them, and rows take what the next of them takes.

    All sequences are indexed by rows, 0 to `max_rows`; they are empty until something was
    measured, and are replaced, never changed:

    - `curve`: time that an instance is busy with the batch, its handling included. Where batches are
      pipelined it is free again for the next one when its device is: the time of that, or of
      copying, whichever is longer.
    - `alone`: time until the batch ends on an instance that was idle.
    - `expected`: time until the last answer is handed over.
    - `p95`: the same with the `margin`, which is at least 1.

    `steady` counts batches that were as predicted.
    """

    __slots__ = (
        "_copies",
        "_curve",
        "_drift",
        "_fastest",
        "_least",
        "_least_of",
        "_noise",
        "_outliers",
        "_period",
        "_published",
        "_target_ns",
        "alone",
        "batch_sizes",
        "curve",
        "expected",
        "handling_ns",
        "last_batch_ns",
        "margin",
        "max_rows",
        "p95",
        "reply_ns",
        "steady",
    )
    STATE = (
        *("max_rows", "_target_ns", "handling_ns", "reply_ns", "steady", "_fastest", "_period"),
        *("_curve", "_drift", "_noise", "_outliers", "_copies", "last_batch_ns"),
    )

    def __init__(
        self,
        max_rows: int,
        target_ns: int | None = None,
        batch_sizes: BatchSizes | None = None,
    ) -> None:
        self.max_rows = max_rows
        self.batch_sizes = batch_sizes
        self.last_batch_ns: int | None = None
        """When its last batch began."""
        self.steady = 0
        self.curve: Sequence[float] = ()
        self.alone: Sequence[float] = ()
        self.p95: Sequence[float] = ()
        self.expected: Sequence[float] = ()
        self.margin = 1.0
        self.handling_ns = self.reply_ns = 0.0
        self._target_ns = target_ns
        self._curve = Curve(max_rows, batch_sizes)
        self._drift = Drift()
        self._noise = Recent(MARGIN_QUANTILE, 1.0)
        self._outliers = Outliers()
        self._copies = Copies(max_rows, batch_sizes)
        self._fastest = (_NEVER, _NEVER)
        """The shortest time of one row, in the previous `FORGET_NS` and in the current ones."""
        self._period = 0
        self._published: object = None
        self._least_of: Sequence[float] | None = None
        self._least: Sequence[float] = ()

    def __bool__(self) -> bool:
        return bool(self.curve)

    def is_stale(self, now_ns: int) -> bool:
        """Whether no batch has begun for so long that a prediction alone should refuse nothing."""
        return self.last_batch_ns is None or now_ns - self.last_batch_ns >= LATELY_NS

    @property
    def copies(self) -> Sequence[float]:
        """Time until a batch's inputs are on the device, by rows.

        Empty where nothing is pipelined, and while nothing is known of the device's own time.
        """
        return self._copies.times if self._curve.times else ()

    @property
    def least(self) -> Sequence[float]:
        """The least time of a row in batches of at most so many rows: of `curve`, once for each."""
        if self._least_of is not self.curve:
            self._least_of, self._least = self.curve, least_of_rows(self.curve)
        return self._least

    def ahead_ns(self, rows: int) -> float:
        """How much longer a batch takes on an idle instance than it keeps that from the next one."""
        return self.alone[rows] - self.curve[rows] if self.alone is not self.curve else 0.0

    def seed_copies(self, profile: Iterable[tuple[int, int]]) -> None:
        """Learn from a warm-up, or an estimate, how long batches are copied: (rows, nanoseconds) pairs."""
        self._copies.seed(profile)
        self._publish()

    def seed(self, profile: Iterable[tuple[int, int]], *, measured: bool = True) -> None:
        """Learn from a warm-up, or an estimate: (rows, nanoseconds) pairs."""
        for rows, took_ns in profile:
            if 1 <= rows <= self.max_rows and took_ns > 0:
                self._curve.learn(self._curve.executed(rows), took_ns / self._drift.factor)
        self._fit()
        if measured and self._curve.times:
            self._note_fastest(self._drift.factor)

    def resize(self, max_rows: int, batch_sizes: BatchSizes | None = None) -> None:
        """Predict up to another largest batch. What was learned of larger ones is kept."""
        self.max_rows = self._curve.max_rows = max_rows
        self.batch_sizes = self._curve.batch_sizes = batch_sizes
        self._copies.resize(max_rows, batch_sizes)
        self._fit()

    def aim(self, target_ns: int | None) -> None:
        """Bound the margin by another target."""
        if target_ns != self._target_ns:
            self._target_ns = target_ns
            self._publish()

    @property
    def reachable(self) -> bool:
        """Whether one row alone can be served within the target, as far as known."""
        return self._target_ns is None or not self.alone or self.alone[1] <= self._target_ns

    def take_handling(self, handling: Handling) -> None:
        """Predict with these handling times, from the next `observe` or `refresh` on."""
        self.handling_ns, self.reply_ns = handling.gap_ns, handling.reply_ns

    def refresh(self, now_ns: int) -> None:
        """Forget what is too old: noise that has an end, a fastest batch of long ago."""
        self._noise.forget(now_ns)
        period = now_ns // FORGET_NS
        if period != self._period:
            self._fastest = (self._fastest[1] if period == self._period + 1 else _NEVER, _NEVER)
            self._period = period
        self._publish()

    def observe(
        self,
        rows: int,
        own_ns: int,
        now_ns: int,
        began_ns: int | None = None,
        beyond_ns: float = 0.0,
        copy_ns: int = 0,
    ) -> None:
        """Learn from a batch: its own time on the instance, and `beyond_ns` around it.

        `began_ns` is when it began, where that is not `own_ns` ago; `copy_ns` how long it was gathered
        and copied before it, where batches are pipelined.
        """
        if copy_ns:
            self._copies.observe(rows, copy_ns)
        if 1 <= rows <= self.max_rows and own_ns > 0:
            self._observe(self._curve.executed(rows), own_ns, now_ns, began_ns, beyond_ns)
        self._publish()

    def _observe(
        self,
        rows: int,
        own_ns: int,
        now_ns: int,
        began_ns: int | None,
        beyond_ns: float,
    ) -> None:
        curve, drift = self._curve, self._drift
        # A size that was never seen says more about the curve than about the device.
        first = rows not in curve.means and len(curve.means) <= 1
        if not first:
            ratio = own_ns / curve.times[rows]
            self._note_fastest(ratio)
            off = drift.is_off(ratio)
            began_ns = now_ns - own_ns if began_ns is None else began_ns
            if off and drift.overlaps(began_ns):
                return
            if rows in curve.means:
                # What is further off is a change, or a stall that no margin can cover.
                # Copying is no time of the device, and as long as before.
                predicted_ns = self.alone[rows] - (self.copies[rows] if self.copies else 0.0)
                # Where its copy took longer than all that was predicted, the device took no longer.
                noise = (own_ns + beyond_ns) / predicted_ns if predicted_ns > 0.0 else 0.0
                self._noise.add(min(noise, JUMP), now_ns)
            if off:
                if drift.jump(ratio, now_ns):
                    self._outliers.clear()
                    self._noise.clear()
                else:
                    self._outliers.add(rows, own_ns / drift.factor, now_ns)
                return
            drift.settle()
            if self._outliers.samples:
                self._outliers.discard(rows)
            self.steady += 1
            if rows in curve.means:
                drift.move_towards(ratio)
        # The device did not change, so sizes that were off are off the curve.
        self._learn(rows, own_ns / drift.factor, now_ns)
        if first:
            self._note_fastest(drift.factor)

    @property
    def fastest_ns(self) -> float:
        """The shortest time that one row alone took lately, or would have; 0.0 if nothing ran.

        Of a batch of more rows, so much counts as one row is of it by the curve.
        """
        least_ns = min(self._fastest)
        return least_ns if least_ns < _NEVER else 0.0

    def least_ns(self, now_ns: int) -> float:
        """`fastest_ns` or, where nothing has run for long, what one row took before the device became slower.

        Else no batch would show that it is as before, where all callers' deadlines were too short meanwhile.
        Without a warm-up it is 0.0 until a batch was as predicted: the first one may have been slow.
        """
        if not self.steady:
            return 0.0
        before = self._drift.before
        if before and self.last_batch_ns is not None and self.is_stale(now_ns):
            return min(self.fastest_ns, before * self._curve.times[1])
        return self.fastest_ns

    def _note_fastest(self, ratio: float) -> None:
        took_ns = ratio * self._curve.times[1]
        if took_ns < self._fastest[1]:
            self._fastest = self._fastest[0], took_ns

    def _learn(self, rows: int, took_ns: float, now_ns: int) -> None:
        """Add a sample to the curve."""
        curve, outliers = self._curve, self._outliers
        off_curve = outliers.take_learned(curve.means, now_ns) if outliers.samples else ()
        for size, least_ns in off_curve:
            curve.replace(size, least_ns)
        moved = curve.learn(rows, took_ns)
        if off_curve or (moved and not curve.move_to(rows)):
            curve.fit()

    @property
    def drift(self) -> float:
        """How much slower the device has become since the curve was measured (faster if below 1)."""
        return self._drift.factor

    def follow(self, change: float) -> None:
        """The device became slower by this factor, as batches of other shapes have shown."""
        if self._drift.follow(change):
            self._outliers.clear()
            self._publish()

    def _fit(self) -> None:
        if self._curve.means:
            self._curve.fit()
            self._publish()

    def _publish(self) -> None:
        """Compute the predictions from the estimates of now, where those have changed."""
        base, drift, noise = self._curve.times, self._drift.factor, self._noise.value
        handling_ns, reply_ns, copies = self.handling_ns, self.reply_ns, self.copies
        made_of = (base, drift, noise, handling_ns, reply_ns, copies, self._target_ns)
        if made_of == self._published or not base:
            return
        self._published = made_of
        curve = alone = base
        if drift != 1.0 or handling_ns:
            curve = alone = [0.0, *[drift * time + handling_ns for time in base[1:]]]
        if copies:
            alone = [time + copies[b] for b, time in enumerate(curve)]
            # The next batch is handed over while this one computes, so that handling costs no time.
            curve = [max(drift * time, copies[b]) for b, time in enumerate(base)]
        margin = max(1.0, noise)
        if margin > 1.0 and self._target_ns is not None:
            room = self._target_ns / alone[1]
            margin = max(1.0, min(margin, 1.0 + MARGIN_SHARE * (room - 1.0)))
        self.margin = margin
        self.curve = curve
        self.alone = self.p95 = self.expected = alone
        if reply_ns:
            self.expected = [time + reply_ns * b for b, time in enumerate(alone)]
            self.p95 = [margin * time + reply_ns * b for b, time in enumerate(alone)]
        elif margin != 1.0:
            self.p95 = [margin * time for time in alone]
        if copies and margin != 1.0:
            # What varies is the device.
            self.p95 = [time - (margin - 1.0) * copies[b] for b, time in enumerate(self.p95)]

    def _derive(self) -> None:
        self._curve.max_rows = self.max_rows
        self._copies.resize(self.max_rows, self.batch_sizes)
        self._fit()
