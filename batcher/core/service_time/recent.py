"""A quantile of recent samples: what is usual, or nearly the worst, lately."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

from batcher.core.captured import Captured

SAMPLES = 64
"""So many of the newest samples count. With 45, uneven times cost 0.5 points of requests in time at a load
of 0.85; with 90 nothing changes."""

FORGET_NS = 10_000_000_000
"""Nanoseconds after which a sample says nothing about now: the noise that it came from has an end."""


class Recent(Captured):
    """The newest samples of one quantity, and in `value` a quantile of them, or `none` without any."""

    __slots__ = ("_none", "_ordered", "_quantile", "_samples", "value")
    STATE = ("_samples",)

    def __init__(self, quantile: float = 0.5, none: float = 0.0) -> None:
        self._quantile, self._none = quantile, none
        self._samples: deque[tuple[int, float]] = deque()
        self._ordered: list[float] = []
        self.value = none

    def __bool__(self) -> bool:
        return bool(self._samples)

    def add(self, sample: float, now_ns: int) -> None:
        """Add a sample; the oldest goes where there are enough."""
        samples, ordered = self._samples, self._ordered
        samples.append((now_ns, sample))
        if len(samples) > SAMPLES:
            oldest = samples.popleft()[1]
            if oldest == sample:
                return
            del ordered[bisect_left(ordered, oldest)]
        insort(ordered, sample)
        self._choose()

    def _choose(self) -> None:
        # Rounded down: among few samples the longest may be a rare stall, as may one alone.
        place = int(self._quantile * len(self._ordered))
        self.value = self._ordered[place - 1] if place else self._none

    def forget(self, now_ns: int) -> None:
        """Drop the samples that are too old."""
        samples = self._samples
        if not samples or samples[0][0] >= now_ns - FORGET_NS:
            return
        while samples and samples[0][0] < now_ns - FORGET_NS:
            samples.popleft()
        self._derive()

    def clear(self) -> None:
        """Forget all samples."""
        self._samples.clear()
        self._derive()

    def _derive(self) -> None:
        self._ordered = sorted([sample for _, sample in self._samples])
        self._choose()
