"""How many rows a nanosecond an instance serves with batches of each size."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate


class BatchRates:
    """Rates by batch size, each at least that of the smaller sizes; for the curve seen last."""

    __slots__ = ("_curve", "_rates", "_target_ns", "best")

    def __init__(self, target_ns: int) -> None:
        self._target_ns = target_ns
        self._curve: Sequence[float] = ()
        self._rates: list[float] = []
        self.best = 0.0
        """Of the sizes that are done inside the target, at least one row: the highest rate."""

    def follow(self, curve: Sequence[float]) -> None:
        """Compute the rates of a curve: `curve[b]` is what a batch of b rows takes, in nanoseconds."""
        if curve is self._curve:
            return
        self._curve = curve
        self._rates = list(accumulate([b / ns if ns else 0.0 for b, ns in enumerate(curve)], max))
        self.best = self._rates[max(1, bisect_right(curve, self._target_ns) - 1)]

    def smallest_batch(self, rate: float) -> int:
        """The smallest batch size that serves `rate` rows a nanosecond; one too large if none does."""
        return bisect_left(self._rates, rate)
