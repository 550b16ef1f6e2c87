"""Service times of batches, learned from a recorded log.

A `Sampler` is a curve through the medians by size, and the ratio of every recorded time to it. A
draw takes the ratio of a recorded batch of about the same size and moment, so that a device that was
slow for a while is slow again, and noise has the recorded distribution. Times are kept by model,
shapes and how many other batches ran on the device; where one of these kinds has too few samples, the
next wider kind is used.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, Generic, TypeAlias, TypeVar

import numpy as np

from batcher.core.events import FailureCause, Shapes
from batcher.simulation.engine.service_time import Curve, from_table

LEAST: Final = 16
"""A kind with fewer samples uses those of the next wider kind."""

NEAREST: Final = 32
"""A draw is one of this many samples, those nearest in time."""

POOLED: Final = 8
"""Adjacent sizes share a median until it is that of this many samples."""

_DRAWS_AT_ONCE: Final = 4096

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Sample:
    """One recorded batch: when it began, its rows, its service time, and why it failed if it did."""

    at_ns: int
    rows: int
    took_ns: int
    cause: FailureCause | None = None


Uniform: TypeAlias = Callable[[], float]
"""Draws from 0 to below 1."""


def uniform(draw: np.random.Generator) -> Uniform:
    """A function that returns the next draw at each call."""
    stock: list[float] = []

    def one() -> float:
        if not stock:
            stock.extend(draw.random(_DRAWS_AT_ONCE).tolist())
        return stock.pop()

    return one


class Sampler:
    """The times of one kind of batch; at least one sample."""

    def __init__(self, samples: Iterable[Sample], max_rows: int) -> None:
        ordered = sorted(samples, key=lambda sample: sample.at_ns)
        self.curve: Curve = from_table(_medians(ordered), max_rows)
        self._all = self._ratios(ordered)
        by_size: dict[int, list[Sample]] = {}
        for sample in ordered:
            by_size.setdefault(sample.rows.bit_length(), []).append(sample)
        self._by_size = {
            size: self._ratios(mine) for size, mine in by_size.items() if len(mine) >= NEAREST
        }

    def draw(self, now_ns: int, rows: int, chance: Uniform) -> tuple[int, FailureCause | None]:
        """The service time of a batch that begins now, and why it fails if it does."""
        moments, ratios, causes = self._by_size.get(rows.bit_length(), self._all)
        last = max(0, len(moments) - NEAREST)
        first = min(last, max(0, bisect_left(moments, now_ns) - NEAREST // 2))
        place = first + int(chance() * min(NEAREST, len(moments)))
        curve = self.curve
        expected_ns = curve[rows] if rows < len(curve) else curve[-1] * rows / (len(curve) - 1)
        return max(1, round(expected_ns * ratios[place])), causes[place]

    def quantile(self, share: float) -> float:
        """How many times their median batches take, at this share of them."""
        return float(np.quantile(self._all[1], share))

    def _ratios(
        self, samples: list[Sample]
    ) -> tuple[list[int], list[float], list[FailureCause | None]]:
        curve = self.curve
        return (
            [sample.at_ns for sample in samples],
            [sample.took_ns / curve[sample.rows] for sample in samples],
            [sample.cause for sample in samples],
        )


def _medians(samples: list[Sample]) -> dict[int, int]:
    """Rows to nanoseconds. Failed batches may have ended early, and count only if all failed."""
    well = [sample for sample in samples if sample.cause is None] or samples
    table: dict[int, int] = {}
    pool: list[Sample] = []
    for sample in sorted(well, key=lambda each: each.rows):
        if len(pool) >= POOLED and sample.rows != pool[-1].rows:
            _add(table, pool)
            pool = []
        pool.append(sample)
    _add(table, pool)
    return table


def _add(table: dict[int, int], pool: list[Sample]) -> None:
    rows = max(1, round(median(sample.rows for sample in pool)))
    table[rows] = max(1, round(median(sample.took_ns for sample in pool)))


class Kinds(Generic[Kind]):
    """Samplers by kind, from the narrowest to the widest."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        """The largest batch that is asked for; may grow before the first `find`."""
        self._samples: dict[Kind, list[Sample]] = {}
        self._made: dict[Kind, Sampler] = {}

    def add(self, sample: Sample, *kinds: Kind) -> None:
        """Add a sample to these kinds."""
        for kind in kinds:
            self._samples.setdefault(kind, []).append(sample)

    def __contains__(self, kind: Kind) -> bool:
        """Whether there are samples of this kind."""
        return kind in self._samples

    def largest(self, kind: Kind) -> int:
        """Rows of the largest batch of this kind; 0 where there is none."""
        return max((sample.rows for sample in self._samples.get(kind, ())), default=0)

    def find(self, *kinds: Kind) -> Sampler | None:
        """The sampler of the first kind that has enough samples, else of the last that has any."""
        found: Kind | None = None
        for kind in kinds:
            count = len(self._samples.get(kind, ()))
            if count:
                found = kind
            if count >= LEAST:
                break
        if found is None:
            return None
        sampler = self._made.get(found)
        if sampler is None:
            sampler = self._made[found] = Sampler(self._samples[found], self.max_rows)
        return sampler


BatchKind: TypeAlias = tuple[str, Shapes | None, int | None]
"""Model, shapes and other batches on the device; None is any."""


@dataclass(frozen=True, slots=True)
class Learned:
    """All times that a log shows. `late_ns` is how late timers were."""

    batches: Kinds[BatchKind]
    replies: Kinds[str]
    """By model, the time from a batch's end until its answers were sent."""
    profiles: Mapping[str, Mapping[int, int]]
    """By model, rows to nanoseconds: what instances measured when they came up."""
    late_ns: list[int]

    def batch(self, model: str, shapes: Shapes, beside: int) -> Sampler | None:
        """The service times of such batches; None where none of the model is known."""
        return self.batches.find(
            (model, shapes, beside), (model, shapes, None), (model, None, None)
        )
