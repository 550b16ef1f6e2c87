"""A quantile of recent samples: what is usual, or nearly the worst, lately."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

SAMPLES = 64
"""So many of the newest samples count. With half as many, a quantile of 95 % is little more than the
longest of all."""

FORGET_NS = 10_000_000_000
"""Nanoseconds after which a sample says nothing about now: the noise that it came from has an end."""


class Recent:
    """The newest samples of one quantity, and in `value` a quantile of them, or `none` without any."""

    __slots__ = ("_none", "_ordered", "_quantile", "_samples", "value")

    def __init__(self, quantile: float, none: float = 0.0) -> None:
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
        insort(ordered, sample)
        if len(ordered) > SAMPLES:
            del ordered[bisect_left(ordered, samples.popleft()[1])]
        # Rounded down: among few samples the longest may be a rare stall, as may one alone.
        place = int(self._quantile * len(ordered))
        self.value = ordered[place - 1] if place else self._none

    def forget(self, now_ns: int) -> None:
        """Drop the samples that are too old."""
        samples = self._samples
        if not samples or samples[0][0] >= now_ns - FORGET_NS:
            return
        self.restore([sample for sample in samples if sample[0] >= now_ns - FORGET_NS])

    def clear(self) -> None:
        """Forget all samples."""
        self.restore(())

    def capture(self) -> tuple[tuple[int, float], ...]:
        """The samples, for `restore`."""
        return tuple(self._samples)

    def restore(self, samples: Iterable[tuple[int, float]]) -> None:
        """Continue from what `capture` returned."""
        self._samples = deque(samples)
        ordered = self._ordered = sorted([sample for _, sample in self._samples])
        place = int(self._quantile * len(ordered))
        self.value = ordered[place - 1] if place else self._none
