"""The last five minutes of one model, a value a second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

HISTORY_S: Final = 300
"""Seconds that are kept of each model: three numbers each, 20 KiB a model."""


@dataclass(frozen=True, slots=True)
class Point:
    """One second."""

    age_s: float | None
    """The highest age that the oldest unanswered request had; None where it is not known."""
    arrived: float | None
    """Requests that arrived."""
    unserved: float | None
    """Requests that ended without an answer in time: late, refused, expired or failed."""


_UNKNOWN: Final = Point(None, None, None)


class History:
    """At most `HISTORY_S` points; the last one is the last second."""

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=HISTORY_S)

    def add(self, point: Point, skipped: int = 0) -> None:
        """Add the last second, after `skipped` seconds of which nothing is known."""
        for _ in range(min(skipped, HISTORY_S)):
            self._points.append(_UNKNOWN)
        self._points.append(point)

    def __len__(self) -> int:
        return len(self._points)

    def last(self) -> Point:
        """The last second, with three digits; nothing is known of it before the second sample."""
        last = self._points[-1] if self._points else _UNKNOWN
        return Point(_rounded(last.age_s), _rounded(last.arrived), _rounded(last.unserved))

    def columns(self) -> dict[str, list[float | None]]:
        """Each number as a list, the oldest second first."""
        return {
            "age_seconds": [_rounded(point.age_s) for point in self._points],
            "arrived": [_rounded(point.arrived) for point in self._points],
            "unserved": [_rounded(point.unserved) for point in self._points],
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")
