"""A histogram for one thread: a list of integers and a bisection."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Buckets:
    """Upper bounds of buckets, in the unit that is recorded.

    `scale` divides them into the unit that is exported: 1e9 where nanoseconds are recorded and
    seconds exported.
    """

    bounds: tuple[float, ...]
    scale: float = 1.0

    def limits(self) -> tuple[float, ...]:
        """The upper bounds in the exported unit, without infinity."""
        return tuple(bound / self.scale for bound in self.bounds)


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A traced request in one bucket: its value, in the unit that is recorded, and when it ended."""

    value: float
    trace_id: int
    span_id: int
    timestamp_s: float
    """Unix time."""


class Histogram:
    """Counts values in buckets; a value equal to a bound belongs below it, as Prometheus wants."""

    __slots__ = ("_bounds", "_counts", "exemplars", "total")

    def __init__(self, buckets: Buckets) -> None:
        self._bounds = buckets.bounds
        self._counts = [0] * (len(buckets.bounds) + 1)
        self.total: float = 0
        """The sum of all values, in the unit that is recorded."""
        self.exemplars: dict[int, Exemplar] | None = None
        """Place of a bucket -> the last traced value in it; None if none was traced."""

    def exemplify(self, value: float, trace_id: int, span_id: int, timestamp_s: float) -> None:
        """Have a value that is recorded, too, stand for others of its bucket."""
        if self.exemplars is None:
            self.exemplars = {}
        place = bisect_left(self._bounds, value)
        self.exemplars[place] = Exemplar(value, trace_id, span_id, timestamp_s)

    def observe(self, value: float) -> None:
        """Record a value, in the unit that is recorded."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_all(self, values: NDArray[np.int64]) -> None:
        """Record many values at once."""
        places = np.searchsorted(self._bounds, values)
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self.total += int(values.sum())

    def cumulative(self) -> Sequence[int]:
        """How many values are at or below each bound, and last how many there are at all."""
        return tuple(accumulate(self._counts))
