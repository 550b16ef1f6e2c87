"""Which points are worth having, and what the same on-time fraction costs with each signal.

A point is on the front if no other has as many requests on time for fewer replica-hours. Between two points of a
signal's front replica-hours are interpolated over the logarithm of what is *not* on time: from 90 to 99 % as far as
from 99 to 99.9 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Final

from batcher.simulation.autoscale.points import Point
from batcher.simulation.fleet.signals import Signal

FRACTIONS: Final = (0.9, 0.95, 0.99, 0.995)
"""The on-time fractions at which signals are compared."""

LEAST_MISSED: Final = 1e-6
"""Less than this that is not on time counts as this: no run is long enough to tell."""


def front(points: Iterable[Point]) -> list[Point]:
    """Returns the points that no other is better than, by rising replica-hours and on-time fraction."""
    found: list[Point] = []
    ordered = sorted(points, key=lambda point: (point.replica_hours, -point.on_time_fraction))
    for point in ordered:
        if not found or point.on_time_fraction > found[-1].on_time_fraction:
            found.append(point)
    return found


def hours_at(points: Sequence[Point], fraction: float) -> float | None:
    """Returns the replica-hours that a front needs for at least this on-time fraction; None if it has none.

    Below the front's first point these are the hours of that point: nothing cheaper was found.
    """
    return _between(points, fraction, lambda point: point.replica_hours)


def set_point_at(points: Sequence[Point], fraction: float) -> float | None:
    """Returns the set-point that belongs to `hours_at`."""
    return _between(points, fraction, lambda point: point.set_point)


def _between(
    points: Sequence[Point], fraction: float, what: Callable[[Point], float]
) -> float | None:
    if points and fraction <= points[0].on_time_fraction:
        return what(points[0])
    for before, after in pairwise(points):
        if before.on_time_fraction <= fraction <= after.on_time_fraction:
            low, high = _missed(before.on_time_fraction), _missed(after.on_time_fraction)
            part = (low - _missed(fraction)) / (low - high) if low > high else 0.0
            return what(before) + part * (what(after) - what(before))
    return None


def _missed(fraction: float) -> float:
    return log(max(1.0 - fraction, LEAST_MISSED))


def by_signal(points: Iterable[Point]) -> dict[Signal, list[Point]]:
    """Returns the points of each signal, in their order."""
    found: dict[Signal, list[Point]] = {}
    for point in points:
        found.setdefault(point.signal, []).append(point)
    return found


def extra_hours(
    points: Iterable[Point], fractions: Sequence[float] = FRACTIONS
) -> Mapping[Signal, Mapping[float, float | None]]:
    """Returns by signal and on-time fraction how many more replica-hours it needs than the best signal.

    0.05 is 5 % more. None: no point of this signal has so many on time.
    """
    fronts = {signal: front(mine) for signal, mine in by_signal(points).items()}
    found: dict[Signal, dict[float, float | None]] = {signal: {} for signal in fronts}
    for fraction in fractions:
        hours = {signal: hours_at(mine, fraction) for signal, mine in fronts.items()}
        best = min([each for each in hours.values() if each is not None], default=None)
        for signal, each in hours.items():
            known = each is not None and best is not None
            found[signal][fraction] = each / best - 1.0 if known and each and best else None
    return found
