"""Predicts batch times of one model and padding bucket, from its warm-up and every batch that ran.

With times that never vary, drift and margin are exactly 1 and the curve is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batcher.core.service_time.canary import Canaries
from batcher.core.service_time.curve import Curve
from batcher.core.service_time.drift import JUMP_SAMPLES, Drift
from batcher.core.service_time.noise import MARGIN_SAMPLES, Noise
from batcher.core.service_time.outliers import Outliers
from batcher.core.service_time.reply_time import ReplyTimes

MAX_NOISE = 2.0
"""A sample that took more than this factor too long counts as this in the margin."""

MARGIN_SHARE = 0.5
"""The margin is bounded to this share of the time that one row alone leaves of the target, so that a
noisy device does not make every request look late."""

UNREACHABLE_NS = 10_000_000_000
"""Nanoseconds after which a target that is out of reach is given up, until it is in reach again."""


class ServiceTimes:
    """Predicts batch times, in nanoseconds, by rows. `max_rows` is the largest batch.

    All three sequences are indexed by rows, 0 to `max_rows`; they are empty until something was
    measured, and are replaced, never changed:

    - `curve`: time that an instance is busy with the batch.
    - `expected`: time until the last answer is handed over.
    - `p95`: the same with the margin, which is at least 1.

    `steady` counts batches that were as predicted. `reachable` is False where one row alone takes
    longer than the target, `unreachable_since_ns` when that began. `canaries` belongs to admission.
    """

    __slots__ = (
        "_curve",
        "_drift",
        "_noise",
        "_outliers",
        "_replies",
        "_target_ns",
        "canaries",
        "curve",
        "expected",
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
        self.expected: Sequence[float] = ()
        self.margin = 1.0
        self.reply_ns = 0.0
        self._target_ns = target_ns
        self._curve = Curve(max_rows)
        self._drift = Drift()
        self._noise = Noise()
        self._outliers = Outliers()
        self._replies = ReplyTimes()

    def __bool__(self) -> bool:
        return bool(self.curve)

    def seed(self, profile: Iterable[tuple[int, int]]) -> None:
        """Learn from a warm-up: (rows, nanoseconds) pairs."""
        for rows, took_ns in profile:
            if 1 <= rows <= self.max_rows and took_ns > 0:
                self._curve.learn(rows, took_ns / self._drift.factor)
        self._fit()

    def resize(self, max_rows: int) -> None:
        """Predict up to another largest batch. What was learned of larger ones is kept."""
        self.max_rows = self._curve.max_rows = max_rows
        self._fit()

    def aim(self, target_ns: int | None) -> None:
        """Bound the margin by another target."""
        if target_ns != self._target_ns:
            self._target_ns = target_ns
            self._publish()

    def judge_target(self, now_ns: int, *, measured: bool) -> None:
        """Set `reachable`: whether one row alone can be served within the target.

        After a warm-up and for a new target (`measured`) the answer is believed at once. Later, a
        slow device may recover, so the target is given up only after `UNREACHABLE_NS`.
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
        """Learn from a batch. `trust`: one sample is enough to believe that the device changed.

        `began_ns` is when it began, where that is not `took_ns` ago.
        """
        if not 1 <= rows <= self.max_rows or took_ns <= 0:
            return
        curve, drift = self._curve, self._drift
        before, margin = drift.factor, self.margin
        # A size that was never seen says more about the curve than about the device.
        if rows in curve.means or len(curve.means) > 1:
            ratio = took_ns / curve.times[rows]
            if drift.is_off(ratio):
                if began_ns is None:
                    began_ns = now_ns - took_ns
                if trust or not drift.overlaps(began_ns):
                    needed = 1 if trust else JUMP_SAMPLES
                    self._observe_outlier(rows, took_ns, ratio, now_ns, needed)
                return
            drift.settle()
            if self._outliers.samples:
                self._outliers.discard(rows)
            self.steady += 1
            if rows in curve.means:
                self.margin = self._noise.add(ratio / before, now_ns)
                drift.move_towards(ratio)
        # The device did not change, so sizes that were off are off the curve.
        moved = self._learn(rows, took_ns / drift.factor, now_ns)
        if moved or drift.factor != before or self.margin != margin:
            self._publish()

    def _observe_outlier(
        self, rows: int, took_ns: int, ratio: float, now_ns: int, needed: int
    ) -> None:
        """Learn from a batch far off its prediction; after `needed` in a row the device changed."""
        drift, margin = self._drift, self.margin
        if drift.jump(ratio, now_ns, needed):
            self._outliers.clear()
            self._noise.clear()
            self.margin = 1.0
            self._publish()
            return
        self._outliers.add(rows, took_ns / drift.factor, now_ns)
        # Noise, unless more follow. Where it is no longer rare it belongs to the margin, up to a
        # bound: a few stalls must not have every request refused.
        if rows in self._curve.means and len(self._noise) >= MARGIN_SAMPLES // 2:
            self.margin = self._noise.add(min(ratio / drift.factor, MAX_NOISE), now_ns)
            if self.margin != margin:
                self._publish()

    def _learn(self, rows: int, took_ns: float, now_ns: int) -> bool:
        """Add a sample to the curve; returns whether the curve changed."""
        curve, outliers = self._curve, self._outliers
        off_curve = outliers.take_learned(curve.means, now_ns) if outliers.samples else ()
        for size, least_ns in off_curve:
            curve.replace(size, least_ns)
        moved = curve.learn(rows, took_ns)
        if off_curve or (moved and not curve.move_to(rows)):
            curve.fit()
        return moved or bool(off_curve)

    @property
    def drift(self) -> float:
        """How much slower the device has become since the curve was measured (faster if below 1)."""
        return self._drift.factor

    def follow(self, change: float) -> None:
        """The device became slower by this factor, as batches of other shapes have shown."""
        if self._drift.follow(change):
            self._outliers.clear()
            self._publish()

    def observe_replies(self, rows: int, took_ns: int, now_ns: int) -> None:
        """Learn from how long it took to hand over the answers of a batch."""
        known_ns = self.reply_ns
        self.reply_ns = self._replies.add(took_ns / rows, known_ns, now_ns)
        if self.reply_ns != known_ns:
            self._publish()

    def _fit(self) -> None:
        if self._curve.means:
            self._curve.fit()
            self._publish()

    def _publish(self) -> None:
        """Compute the predictions from the estimates of now."""
        base, drift = self._curve.times, self._drift.factor
        margin, reply_ns = self.margin, self.reply_ns
        curve = base if drift == 1.0 else [drift * time for time in base]
        self.curve = self.p95 = self.expected = curve
        if margin != 1.0 and self._target_ns is not None:
            room = self._target_ns / curve[1] if len(curve) > 1 else 1.0
            margin = max(1.0, min(margin, 1.0 + MARGIN_SHARE * (room - 1.0)))
        if reply_ns:
            self.expected = [time + reply_ns * b for b, time in enumerate(curve)]
            self.p95 = [margin * time + reply_ns * b for b, time in enumerate(curve)]
        elif margin != 1.0:
            self.p95 = [margin * time for time in curve]

    def capture(self) -> tuple[object, ...]:
        """The state as a plain value, for `restored`."""
        return (
            (self.max_rows, self._target_ns, self.margin, self.reply_ns),
            (self.reachable, self.unreachable_since_ns, self.steady),
            tuple(self._curve.capture()),
            self._drift.capture(),
            self._noise.capture(),
            self._outliers.capture(),
            self._replies.capture(),
            self.canaries.capture(),
        )

    @classmethod
    def restored(cls, state: tuple[object, ...]) -> ServiceTimes:
        """An estimator that predicts and learns as the captured one."""
        sizes, target, curve, drift, noise, outliers, replies, canaries = state
        assert isinstance(sizes, tuple)
        assert isinstance(target, tuple)
        assert isinstance(curve, tuple)
        assert isinstance(drift, tuple)
        assert isinstance(noise, tuple)
        assert isinstance(outliers, tuple)
        assert isinstance(replies, tuple)
        assert isinstance(canaries, tuple)
        max_rows, target_ns, margin, reply_ns = sizes
        times = cls(max_rows, target_ns)
        times.margin, times.reply_ns = margin, reply_ns
        times.reachable, times.unreachable_since_ns, times.steady = target
        times._curve.restore(curve)
        times._drift.restore(drift)
        times._noise.restore(noise)
        times._outliers.restore(outliers)
        times._replies.restore(replies)
        times.canaries = Canaries(*canaries)
        times._fit()
        return times
