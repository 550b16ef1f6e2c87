"""The counters of one model over the last seconds, as differences of two readings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub
from typing import Final

from batcher.clock import SECOND
from batcher.core.commands import Outcome
from batcher.telemetry.families import LATENCY, ROWS
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import End

WINDOW_S: Final = 10
"""Seconds that rates, percentiles, batch sizes and duty cycles are taken over. A shorter one has too few
answers for a p99 at the rates of most models; a longer one shows an incident too late."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The counters of a model at one moment."""

    at_ns: int
    ended: Mapping[End, int]
    late: int
    unanswered: int
    """Requests that wait or run. With those that have ended they are the requests that have arrived."""
    answers: Sequence[int]
    """Answered requests up to each bound of `LATENCY`, and last all of them."""
    answers_ns: float
    """The sum of their durations."""
    batches: Sequence[int]
    """Batches up to each bound of `ROWS`, and last all of them."""
    rows: float
    busy_ns: Mapping[str, int]
    """Device -> time that it ran this model's batches."""


def counts(model: ModelTelemetry, unanswered: int, now_ns: int) -> Counts:
    """The counters now. `unanswered` is what the scheduler has of the model."""
    ended = dict(model.requests)  # this folds what was answered: the others are read after it
    durations = model.durations[Outcome.OK]
    return Counts(
        now_ns,
        ended,
        model.target_missed,
        unanswered,
        durations.cumulative(),
        durations.total,
        model.batch_rows.cumulative(),
        model.batch_rows.total,
        model.busy_ns(now_ns),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two readings, each a number a second where not said otherwise."""

    seconds: float
    """How long it is: less than `WINDOW_S` after the start."""
    arrived: float
    ended: Mapping[End, float]
    """By how requests ended; those of which there were any."""
    late: float
    p50_s: float | None
    """Of answered requests; None without any. Interpolated in a bucket of the histogram."""
    p99_s: float | None
    batches: float
    batch_rows: float | None
    """Rows of a batch on average; None without any."""
    batch_sizes: Sequence[int]
    """Batches of the whole window by the bounds of `ROWS`, and last those above all."""
    busy: Mapping[str, float]
    """Device -> share of the time that it ran this model's batches, at most 1."""

    def total(self, outcome: Outcome) -> float:
        """Requests a second that ended with this outcome."""
        return sum([rate for end, rate in self.ended.items() if end[0] is outcome])


_LATENCY_BOUNDS: Final = LATENCY.limits()
_UNSERVED: Final = frozenset({Outcome.REJECTED, Outcome.EXPIRED, Outcome.FAILED})


def arrived_between(before: Counts, now: Counts) -> int:
    """Requests that arrived between two readings."""
    ended = sum(now.ended.values()) - sum(before.ended.values())
    # A generation that is dropped takes what waits with it: that is no negative arrival.
    return max(0, ended + now.unanswered - before.unanswered)


def unserved_between(before: Counts, now: Counts) -> int:
    """Requests that ended between two readings without an answer in time."""
    lost = sum([n for end, n in now.ended.items() if end[0] in _UNSERVED])
    lost -= sum([n for end, n in before.ended.items() if end[0] in _UNSERVED])
    return lost + now.late - before.late


def between(before: Counts, now: Counts) -> Window:
    """The difference of two readings of the same counters, `before` the earlier one."""
    seconds = max(1, now.at_ns - before.at_ns) / SECOND
    gone = {end: n - before.ended.get(end, 0) for end, n in now.ended.items()}
    answers = list(map(sub, now.answers, before.answers))
    batches = list(map(sub, now.batches, before.batches))
    return Window(
        seconds,
        arrived_between(before, now) / seconds,
        {end: n / seconds for end, n in gone.items() if n},
        (now.late - before.late) / seconds,
        quantile(_LATENCY_BOUNDS, answers, 0.5),
        quantile(_LATENCY_BOUNDS, answers, 0.99),
        batches[-1] / seconds,
        (now.rows - before.rows) / batches[-1] if batches[-1] else None,
        [batches[0], *(b - a for a, b in pairwise(batches))],
        {
            device: min(1.0, (ns - before.busy_ns.get(device, 0)) / SECOND / seconds)
            for device, ns in now.busy_ns.items()
        },
    )


class Windows:
    """The readings of the last `WINDOW_S` seconds of one model, one a second."""

    __slots__ = ("_readings",)

    def __init__(self) -> None:
        self._readings: deque[Counts] = deque(maxlen=WINDOW_S + 1)

    def add(self, now: Counts) -> tuple[Counts, Counts] | None:
        """The reading before this one, and the one at the start of the window; None for the first."""
        self._readings.append(now)
        # After a stall of the event loop readings are further apart: what is too old is no part of it.
        oldest_ns = now.at_ns - round((WINDOW_S + 0.5) * SECOND)
        while len(self._readings) > 2 and self._readings[0].at_ns < oldest_ns:
            self._readings.popleft()
        if len(self._readings) == 1:
            return None
        return self._readings[-2], self._readings[0]


def quantile(bounds: Sequence[float], cumulative: Sequence[int], q: float) -> float | None:
    """The value below which the share `q` of what a histogram counted lies; None if it counted nothing.

    The same as `histogram_quantile` of Prometheus: linear inside a bucket, whose values lie between its
    bounds, and the highest bound for what lies above all. `cumulative` has one more value than `bounds`.
    """
    total = cumulative[-1]
    if not total:
        return None
    rank, below, lower = q * total, 0, 0.0
    for bound, count in zip(bounds, cumulative, strict=False):
        if count >= rank and count > below:
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound
    return bounds[-1]


BATCH_BOUNDS: Final = tuple(int(bound) for bound in ROWS.bounds)
"""The upper bounds of `Window.batch_sizes`, in rows."""
