"""The last reports of one replica, and the mean of what they say. Pure.

The HPA looks once in 15 s, and a report says what the last five seconds were: of one report alone, two bursts of three
would be missed (docs/scaling.md).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from batcher.scaler.metrics import Metric, Value
from batcher.scaler.report import MAX_MODELS, Report

READINGS: Final = 5
"""Reports that are kept of the time that is averaged, beside the last one: with the default of 15 s one each 3 s, and
each is of 5 s, so that nothing is missed."""


@dataclass(slots=True)
class Reading:
    """A report that was believed, and when."""

    at_ns: int
    report: Report
    _values: dict[str, Value | None] = field(default_factory=dict)

    def value(self, metric: Metric, model: str) -> Value | None:
        """What it says of a metric; None: not known."""
        if model:
            return metric.read(self.report, model)
        if metric.name not in self._values:
            self._values[metric.name] = metric.read(self.report, "")
        return self._values[metric.name]

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
            kept[0].at_ns <= now_ns - self._average_ns
            # Bounds the memory that a replica takes with large reports.
            or sum(each.size for each in kept) > MAX_MODELS
        ):
            kept.popleft()

    def mean(self, metric: Metric, model: str = "") -> Value | None:
        """The mean of what the reports say; None if the last one does not know it, or there is none."""
        last = self._kept[-1].value(metric, model) if self._kept else None
        if last is None:
            return None
        known = [found for each in self._kept if (found := each.value(metric, model)) is not None]
        return Value(sum(each.value for each in known) / len(known), last.weight)


def _go_together(before: Report, report: Report) -> bool:
    return before.start_id == report.start_id and before.ready and report.ready
