"""From moments of the monotonic clock to Unix time."""

from __future__ import annotations

import time
from typing import Final

from batcher.clock import Clock, monotonic_ns

STEP_NS: Final = 1_000_000
"""By how much the clocks must have drifted apart for the offset to follow: the system's clock was set, or the
machine slept. Less is the jitter of reading two clocks, and would tear spans of one batch apart."""


class Epoch:
    """The offset between both clocks. `refresh` measures it again."""

    def __init__(self, clock: Clock = monotonic_ns, wall: Clock = time.time_ns) -> None:
        self._clock = clock
        self._wall = wall
        self.offset_ns = self._measured()
        """To be added to a monotonic moment."""

    def refresh(self) -> int:
        """The offset now."""
        measured = self._measured()
        if abs(measured - self.offset_ns) > STEP_NS:
            self.offset_ns = measured
        return self.offset_ns

    def _measured(self) -> int:
        before = self._clock()
        wall = self._wall()
        return wall - (before + self._clock()) // 2
