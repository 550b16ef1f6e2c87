"""One factor on the whole curve, for a device that has become slower or faster.

Every sample near the prediction moves the factor a little, so it follows a slow change. Samples far
off are noise while they are rare. Several in a row on the same side that are alike are a change, and
then the factor jumps to them: stalls are seldom alike. Where they are all the same, one batch that is
as fast as before shows it, because no stall makes a batch faster.
"""

from __future__ import annotations

from bisect import insort
from math import inf

from batcher.core.captured import Captured
from batcher.core.service_time.curve import MEAN_SAMPLES

JUMP = 1.3
"""A sample that is off by more than this factor, either way, may be a change of the device. With 1.2 or
1.4, uneven times cost 1.4 points of requests in time at a load of 0.85."""

JUMP_SAMPLES = 3
"""So many of them in a row that are alike are one: one stall must not look like a slow device. With 5, up to
0.9 points of requests are late after a change of speed; with 2, stalls count as one twice as often."""

FOLLOWED = 1.05
"""A change that batches of other shapes have shown is applied once it adds up to this factor. It only
saves time: with 1.2 nothing changes."""


class Drift(Captured):
    """The `factor`, and the samples in a row that were far off it.

    A sample is a ratio: what a batch took, divided by what the curve says without the factor.
    """

    __slots__ = ("_jumps", "_jumps_ns", "_pending", "before", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._jumps: list[float] = []
        self._jumps_ns = 0
        self.before = 0.0
        """The factor before the device seemed to become slower; 0 where it did not."""
        self._pending = 1.0
        """What other shapes have shown and is too small to be applied yet."""

    def is_off(self, ratio: float) -> bool:
        """Whether a sample is too far from the factor to be noise."""
        return not 1 / JUMP < ratio / self.factor < JUMP

    def overlaps(self, began_ns: int) -> bool:
        """Whether a batch ran beside one that was far off: one moment counts as one sample."""
        return bool(self._jumps) and began_ns < self._jumps_ns

    def jump(self, ratio: float, now_ns: int) -> bool:
        """Note a sample that is far off. Returns whether the device has changed.

        It has after `JUMP_SAMPLES` in a row that are alike, or one as before the device became slower.
        """
        jumps = self._jumps
        if jumps and (jumps[0] > self.factor) != (ratio > self.factor):
            jumps.clear()
        insort(jumps, ratio)
        self._jumps_ns = now_ns
        if ratio < self.factor and 1 / JUMP < ratio / (self.before or inf) < JUMP:
            self._jump_to(self.before)
            return True
        for least, most in zip(jumps, jumps[JUMP_SAMPLES - 1 :], strict=False):
            if most < JUMP * least:
                self._jump_to((least + most) / 2)
                return True
        return False

    def _jump_to(self, factor: float) -> None:
        self.before = self.factor if factor > self.factor else 0.0
        self.factor = factor
        self._jumps.clear()

    def settle(self) -> None:
        """Note a sample that is near the factor: those before it were no change."""
        self._jumps.clear()

    def move_towards(self, ratio: float) -> None:
        """Follow a sample that is near the factor."""
        self.factor += (ratio - self.factor) / MEAN_SAMPLES

    def follow(self, change: float) -> bool:
        """Apply a change that batches of other shapes have shown, once it counts; returns whether."""
        self._pending *= change
        if 1 / FOLLOWED < self._pending < FOLLOWED:
            return False
        self.factor *= self._pending
        self.before *= self._pending
        self._pending = 1.0
        self._jumps.clear()
        return True
