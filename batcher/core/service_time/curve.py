"""The mean time of a batch by its rows: one running mean per size that was seen.

Between sizes the curve is linear, beyond the largest it is a fitted line, and it never decreases. Where
only certain sizes can run, rows take what the next of them takes: then it is a step function.
"""

from __future__ import annotations

from bisect import bisect_left

from batcher.core.batch_sizes import BatchSizes
from batcher.core.captured import Captured
from batcher.core.service_time.fitting import curve_through, isotonic

MEAN_SAMPLES = 32
"""A size's mean is that of its first 32 samples; from then on a new sample moves it by 1/32, and
the drift as well. With 22 or 45 samples, uneven times cost 0.3 to 0.5 points at a load of 0.85."""


class Curve(Captured):
    """Running means by size, and `times[b]`: the time of `b` rows (`times[0]` is 0).

    With `batch_sizes`, a size is the one that rows run with (`executed`). `times` is empty until something
    was learned. It is replaced, never changed. `sizes` are those that were seen when it was last fitted.
    """

    __slots__ = (
        "_counts",
        "_linear",
        "_pooled",
        "batch_sizes",
        "max_rows",
        "means",
        "sizes",
        "times",
    )
    STATE = ("means", "_counts")

    def __init__(self, max_rows: int, batch_sizes: BatchSizes | None = None) -> None:
        self.max_rows = max_rows
        self.batch_sizes = batch_sizes
        self.times: list[float] = []
        self._linear: list[float] = []
        """The same without steps."""
        self.means: dict[int, float] = {}
        self.sizes: list[int] = []
        self._counts: dict[int, int] = {}
        self._pooled = False
        """Whether means decreased somewhere. Those sizes share a time, weighted by their samples."""

    def executed(self, rows: int) -> int:
        """The size that so many rows run with."""
        return rows if self.batch_sizes is None else self.batch_sizes.executed[rows]

    def learn(self, rows: int, took_ns: float) -> bool:
        """Add a sample to a size's mean. Returns whether `fit` would change the curve.

        Call `move_to` or `fit` before `times` is read.
        """
        count = self._counts.get(rows, 0) + 1
        weighed = self._counts[rows] = min(count, MEAN_SAMPLES)
        mean = self.means.get(rows, took_ns)
        moved = mean + (took_ns - mean) / weighed
        self.means[rows] = moved
        return count == 1 or moved != mean or (self._pooled and count <= MEAN_SAMPLES)

    def replace(self, rows: int, took_ns: float) -> None:
        """Forget a size's samples but for this one. Call `fit` before `times` is read."""
        self.means[rows] = took_ns
        self._counts[rows] = 1

    def move_to(self, rows: int) -> bool:
        """Update the curve around one size whose mean has moved, with the result of `fit`.

        Returns False, and changes nothing, where a mean changes more than the stretch between its
        two neighbors: a new size, an order that is no longer ascending, a fitted line at either end.
        """
        sizes, means = self.sizes, self.means
        place = bisect_left(sizes, rows)
        if self._pooled or place == len(sizes) or sizes[place] != rows:
            return False
        if sizes[0] > self.executed(1) or sizes[-1] < self.max_rows:
            return False
        time = means[rows]
        left = sizes[place - 1] if place else rows
        right = sizes[place + 1] if place + 1 < len(sizes) else rows
        if not means[left] <= time <= means[right]:
            return False
        times = self._linear.copy()
        for first, last in ((left, rows), (rows, right)):
            low, high = means[first], means[last]
            for between in range(first + 1, min(last, self.max_rows + 1)):
                share = (between - first) / (last - first)
                times[between] = low + share * (high - low)
        times[rows] = time
        self._publish(times)
        return True

    def fit(self) -> None:
        """Fit the whole curve to the means; something must have been learned."""
        sizes = self.sizes = sorted(self.means)
        means = [self.means[size] for size in sizes]
        times = isotonic(means, [self._counts[size] for size in sizes])
        self._pooled = times != means
        self._publish(curve_through(sizes, times, self.max_rows))

    def _publish(self, times: list[float]) -> None:
        self._linear = times
        sizes = self.batch_sizes
        self.times = times if sizes is None else [times[size] for size in sizes.executed]
