"""The padded axes of one model: the shapes of a bucket, and what is trimmed from its outputs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import prod
from typing import Any, Final

from batcher.core.events import Shapes
from batcher.core.queueing.padding import volume
from batcher.core.record import record
from batcher.core.settings import PaddedAxis
from batcher.errors import InvalidRequest
from batcher.runtime.interface.padding_rules import PaddingRules
from batcher.tensors import TensorSpec

MAX_WARMUP_BUCKETS: Final = 16
"""The most buckets that a warm-up measures, of the combinations of several padded axes."""


@record
class Padded:
    """The arrays of one bucket: what inputs are padded to, and how long outputs must then be.

    `shapes`: input -> its axes after the batch axis. `values`: input -> its pad value. `outputs`:
    output -> its (axis, length) pairs.
    """

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, Any]
    outputs: Mapping[str, tuple[tuple[int, int], ...]]


class Padding:
    """The padding of one model. Made by `resolve_padding`."""

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorSpec],
        rules: PaddingRules,
        values: Mapping[str, Any],
        follows: Mapping[str, tuple[tuple[int, int, int], ...]],
    ) -> None:
        self.rules = rules
        self._model = model
        self._names = [spec.name for spec in inputs]
        self._specs = tuple(inputs)
        self._values = values
        self._follows = follows
        self._padded = [name in values for name in self._names]
        self.axes = tuple(
            PaddedAxis(self._names.index(rule.input), rule.axis, rule.buckets)
            for rule in rules.axes
        )
        """The padded axes, as scheduler settings."""

    def check(self, shapes: Shapes) -> None:
        """Raise `InvalidRequest` for a request that is longer than the largest bucket."""
        for axis in self.axes:
            shape = shapes[axis.input]
            if shape and shape[axis.axis - 1] > axis.buckets[-1]:
                raise InvalidRequest(
                    f"{self._model}: input {self._names[axis.input]!r} has length"
                    f" {shape[axis.axis - 1]} on axis {axis.axis};"
                    f" allowed: at most {axis.buckets[-1]}, the largest bucket (padding)"
                )

    def of(self, bucket: Shapes) -> Padded:
        """The arrays of a batch of this bucket."""
        return Padded(
            dict(zip(self._names, bucket, strict=True)),
            self._values,
            {
                output: tuple([(axis, bucket[i][at - 1]) for axis, i, at in axes if bucket[i]])
                for output, axes in self._follows.items()
            },
        )

    def cuts(self, shapes: Shapes) -> dict[str, tuple[slice, ...]]:
        """Output -> the slices that trim it to the length of a request with these shapes."""
        cuts: dict[str, tuple[slice, ...]] = {}
        for output, axes in self._follows.items():
            cut = [slice(None)] * (1 + max(axis for axis, _, _ in axes))
            for axis, place, at in axes:
                if shapes[place]:
                    cut[axis] = slice(shapes[place][at - 1])
            cuts[output] = tuple(cut)
        return cuts

    def elements(self, shapes: Shapes) -> int:
        """The elements in one row of the padded inputs."""
        return volume([s for s, counts in zip(shapes, self._padded, strict=True) if counts])

    def warm_buckets(self, length: int, given: Container[str] = ()) -> list[Shapes]:
        """The buckets to warm up with, smallest first; variable axes without buckets have `length`.

        Axes with equal buckets are assumed to vary together. Optional inputs are absent, except
        those in `given`.
        """
        lists = list(dict.fromkeys(axis.buckets for axis in self.axes))
        # There may be millions, so only those that are used are made.
        count = prod(map(len, lists))
        steps = min(count, MAX_WARMUP_BUCKETS) - 1
        places = [step * (count - 1) // steps for step in range(steps + 1)] if steps else [0]
        found = [self._shapes(_combination(lists, place), length, given) for place in places]
        found.sort(key=volume)
        return found

    def _shapes(
        self, lengths: Mapping[tuple[int, ...], int], length: int, given: Container[str]
    ) -> Shapes:
        shapes = [
            []
            if spec.optional and spec.name not in given
            else [length if size < 0 else size for size in spec.inner]
            for spec in self._specs
        ]
        for axis in self.axes:
            if shapes[axis.input]:
                shapes[axis.input][axis.axis - 1] = lengths[axis.buckets]
        return tuple(tuple(shape) for shape in shapes)


def _combination(lists: Sequence[tuple[int, ...]], place: int) -> dict[tuple[int, ...], int]:
    """List -> one of its elements: the combination number `place` of `itertools.product`."""
    chosen: dict[tuple[int, ...], int] = {}
    for each in reversed(lists):
        place, at = divmod(place, len(each))
        chosen[each] = each[at]
    return chosen
