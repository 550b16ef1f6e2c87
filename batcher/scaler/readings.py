"""The last reports of one replica, and the mean over time of what they say. Pure.

The HPA looks once in 15 s, and a report says what the last five seconds were: of one report alone, two bursts of three
would be missed (docs/scaling.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final

from batcher.scaler.metrics import Metric, Value
from batcher.scaler.report import MAX_MODELS, Report

READINGS: Final = 20
"""Reports that are kept of the time that is averaged, beside the last one and one from before: with the default of 15 s
one each 0.75 s, which is every poll. With fewer, those between them are lost; more would be memory for nothing."""

MOST_VALUES: Final = 16
"""Values of a report that are kept once computed: each metric of all models, and some of single models. A caller that
asks for every metric of every model takes time, but no more memory than this."""


@dataclass(slots=True)
class Reading:
    """A report that was believed, and when."""

    at_ns: int
    report: Report
    _values: dict[tuple[str, str], Value | None] = field(default_factory=dict)

    def value(self, metric: Metric, model: str) -> Value | None:
        """What it says of a metric; None: not known."""
        key = metric.name, model
        if key in self._values:
            return self._values[key]
        value = metric.read(self.report, model)
        if len(self._values) < MOST_VALUES:
            self._values[key] = value
        return value

    def serves(self, model: str) -> bool:
        """Whether it says that the model is ready; of all models, always."""
        return not model or any(
            each.serves for (name, _), each in self.report.models.items() if name == model
        )

    @property
    def size(self) -> int:
        """How many models and devices it tells of."""
        return len(self.report.models) + len(self.report.devices)


class Readings:
    """Of one replica. With `average_ns` 0 only the last report counts."""

    def __init__(self, average_ns: int) -> None:
        self._average_ns = average_ns
        self._kept: deque[Reading] = deque()

    def add(self, report: Report, now_ns: int) -> None:
        """Take in a report that was believed. One of another start, or of a replica that is not ready, is alone."""
        kept = self._kept
        if kept and not _go_together(kept[-1].report, report):
            kept.clear()
        if len(kept) > 1 and kept[-1].at_ns - kept[-2].at_ns < self._average_ns // READINGS:
            kept.pop()
        kept.append(Reading(now_ns, report))
        while len(kept) > 1 and (
            # What lies before tells how it was when the time that is averaged began.
            kept[1].at_ns <= now_ns - self._average_ns
            # Bounds the memory that a replica takes with large reports.
            or sum(each.size for each in kept) > MAX_MODELS
        ):
            kept.popleft()

    def mean(self, metric: Metric, model: str, now_ns: int) -> Value | None:
        """The mean of what the reports say; None if the last one does not know it, or there is none.

        Only reports since the model began to serve count: those from before would count as none asked.
        """
        if not self._kept:
            return None
        newest = self._kept[-1]
        last = newest.value(metric, model)
        if last is None:
            return None
        serves = newest.serves(model)
        since = takewhile(lambda each: each.serves(model) is serves, reversed(self._kept))
        points = [
            (each.at_ns, found.value)
            for each in since
            if (found := each.value(metric, model)) is not None
        ]
        # A report may have come after the moment for which an answer is computed.
        return Value(_mean(points, self._average_ns, max(now_ns, newest.at_ns)), last.weight)


def _mean(points: Sequence[tuple[int, float]], span_ns: int, now_ns: int) -> float:
    """The mean over the last `span_ns`, or since the first point, of a line through the points, newest first.

    From the last point on its value stays. Nothing is known of a gap that is longer than `span_ns`: what is before
    it does not count.
    """
    begin_ns = now_ns - span_ns
    (after_ns, after), *before = points
    if after_ns <= begin_ns:
        return after
    last, area, first_ns = after, after * (now_ns - after_ns), after_ns
    for at_ns, value in before:
        gap_ns = after_ns - at_ns
        if after_ns <= begin_ns or gap_ns > span_ns:
            break
        if gap_ns:
            first_ns = max(at_ns, begin_ns)
            at_first = value + (after - value) * ((first_ns - at_ns) / gap_ns)
            area += (at_first + after) / 2 * (after_ns - first_ns)
        after_ns, after = at_ns, value
    return area / (now_ns - first_ns) if now_ns > first_ns else last


def _go_together(before: Report, report: Report) -> bool:
    return before.start_id == report.start_id and before.ready and report.ready
