"""The reply time: how long handing answers to the transport takes, per row, as a quantile of recent batches.

The instance does not wait for it, but callers do: answers are handed over one after another, in the
order of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable

REPLY_SAMPLES = 64
"""The quantile is that of so many recent batches."""

REPLY_QUANTILE = 0.95
"""Which quantile. A few stalls of the event loop must not make every batch look longer."""

REPLY_FORGET_NS, REPLY_KEEP = 1_000_000_000, 4
"""Nanoseconds after which a sample is forgotten, but for so many of the newest."""

REPLY_CAP, REPLY_CAP_NS = 4.0, 200_000.0
"""A sample is a stall, and counts only so much, beyond this many reply times plus this (a row)."""


class ReplyTimes:
    """Recent samples: (moment, nanoseconds per row)."""

    __slots__ = ("_recent",)

    def __init__(self) -> None:
        self._recent: list[tuple[int, float]] = []

    def add(self, row_ns: float, known_ns: float, now_ns: int) -> float:
        """Add a sample per row; returns the reply time per row. `known_ns`: what it was before."""
        recent = self._recent
        recent.append((now_ns, min(row_ns, REPLY_CAP * known_ns + REPLY_CAP_NS)))
        while len(recent) > REPLY_SAMPLES or (
            len(recent) > REPLY_KEEP and recent[0][0] < now_ns - REPLY_FORGET_NS
        ):
            del recent[0]
        times = sorted([sample_ns for _, sample_ns in recent])
        # Rounded down: among few samples the longest may be a stall, too.
        return times[int(REPLY_QUANTILE * (len(times) - 1))]

    def capture(self) -> tuple[tuple[int, float], ...]:
        """The samples, for `restore`."""
        return tuple(self._recent)

    def restore(self, state: Iterable[tuple[int, float]]) -> None:
        """Continue from what `capture` returned."""
        self._recent = list(state)
