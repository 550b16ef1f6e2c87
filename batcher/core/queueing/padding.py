"""Buckets: the shape that a request's batch is padded to.

Each padded axis has ascending bucket lengths; a request belongs to the least one that holds it, on
each axis by itself. Requests of one bucket wait in one batch group and can share a batch. What no bucket
holds keeps its own length (admission refuses it; settings can change while it waits), and so does an
axis that is not padded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import prod
from typing import Final

from batcher.core.events import Shapes
from batcher.core.settings import PaddedAxis

MOST_KNOWN: Final = 4096
"""Shapes whose bucket is remembered; beyond that all are forgotten and found again."""


class Buckets:
    """One model's padded axes. Without any, every shape is its own bucket."""

    __slots__ = ("_axes", "_known")

    def __init__(self, axes: Iterable[PaddedAxis]) -> None:
        self._axes = tuple(axes)
        self._known: dict[Shapes, Shapes] = {}

    def of(self, shapes: Shapes) -> Shapes:
        """The bucket of a request of these shapes."""
        bucket = self._known.get(shapes)
        if bucket is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            bucket = self._known[shapes] = self._find(shapes)
        return bucket

    def _find(self, shapes: Shapes) -> Shapes:
        found = [list(shape) for shape in shapes]
        for axis in self._axes:
            place = axis.axis - 1
            # An optional input that is absent has no axes here.
            if axis.input < len(found) and place < len(found[axis.input]):
                lengths = found[axis.input]
                least = bisect_left(axis.buckets, lengths[place])
                if least < len(axis.buckets):
                    lengths[place] = axis.buckets[least]
        return tuple([tuple(lengths) for lengths in found])

    def holds(self, bucket: Shapes, other: Shapes) -> bool:
        """Whether what belongs to the bucket `other` can be padded to `bucket` as well."""
        if len(bucket) != len(other):
            return False
        padded = {(axis.input, axis.axis - 1) for axis in self._axes}
        for place, (large, small) in enumerate(zip(bucket, other, strict=True)):
            if len(large) != len(small):
                return False
            for axis, (most, length) in enumerate(zip(large, small, strict=True)):
                if length != most and (length > most or (place, axis) not in padded):
                    return False
        return True


def volume(shapes: Iterable[tuple[int, ...]]) -> int:
    """Elements of one row of these shapes, over all inputs."""
    return sum([prod(shape) for shape in shapes])


def estimate(at: int, known: Sequence[tuple[int, float]]) -> float:
    """What a batch of the volume `at` takes, from (volume, time) pairs of the same rows.

    A straight line between the volumes that were measured and beyond them. One alone is taken for
    half overhead, half volume: the truth is in between.
    """
    points = sorted(known)
    if len(points) == 1:
        only, took_ns = points[0]
        return took_ns * (1.0 + at / max(only, 1)) / 2.0
    place = min(max(bisect_left(points, (at, 0.0)), 1), len(points) - 1)
    (left, left_ns), (right, right_ns) = points[place - 1], points[place]
    slope = (right_ns - left_ns) / max(right - left, 1)
    least_ns = points[0][1] * min(1.0, at / max(points[0][0], 1))
    return max(left_ns + slope * (at - left), least_ns)
