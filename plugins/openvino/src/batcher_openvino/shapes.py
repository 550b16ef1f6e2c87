"""The shapes that a model is compiled for, where it is compiled for fixed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""One shape for each input, in the order of the model's ports."""

MOST_SHAPES: Final = 64
"""Models that are compiled of one: each takes memory and seconds of the load."""


def sizes_in_use(context: LoadContext) -> tuple[int, ...]:
    """The batch sizes to compile for: those of the configuration, or powers of two up to the largest."""
    most = context.max_batch_size
    if context.batch_sizes:
        return context.batch_sizes
    powers = [1 << place for place in range(most.bit_length()) if 1 << place < most]
    return (*powers, most)


def shapes_in_use(
    context: LoadContext, inputs: Sequence[TensorSpec], sizes: Sequence[int], label: str
) -> list[Shapes]:
    """The shapes of every batch that there will be.

    Axes of equal buckets are padded alike. Raises `ModelLoadError` for a variable axis without buckets,
    and for more than `MOST_SHAPES`.
    """
    lengths: dict[tuple[str, int], tuple[int, ...]] = {}
    for spec in inputs:
        for axis, length in enumerate(spec.shape):
            if length >= 0 or (spec.batched and axis == 0):
                continue
            buckets = context.buckets.get(spec.name, {}).get(axis)
            if buckets is None:
                raise ModelLoadError(
                    f"{label}: option static_shapes: axis {axis} of input {spec.name!r} has any length;"
                    f" allowed: buckets in padding, {{input: {spec.name}, axis: {axis}, buckets: [...]}}"
                )
            lengths[spec.name, axis] = buckets
    groups = list(dict.fromkeys(lengths.values()))
    count = max(1, len(sizes))
    for each in groups:
        count *= len(each)
    if count > MOST_SHAPES:
        raise ModelLoadError(
            f"{label}: option static_shapes: the batch sizes and buckets are {count} shapes;"
            f" allowed: {MOST_SHAPES}, with fewer batching.batch_sizes or buckets"
        )
    found = []
    for rows, *chosen in product(sizes or (0,), *groups):
        by_group = dict(zip(groups, chosen, strict=True))
        found.append(tuple(_shape(spec, rows, lengths, by_group) for spec in inputs))
    return found


def _shape(
    spec: TensorSpec,
    rows: int,
    lengths: Mapping[tuple[str, int], tuple[int, ...]],
    chosen: Mapping[tuple[int, ...], int],
) -> tuple[int, ...]:
    shape = [
        chosen[lengths[spec.name, axis]] if (spec.name, axis) in lengths else length
        for axis, length in enumerate(spec.shape)
    ]
    if spec.batched:
        shape[0] = rows
    return tuple(shape)
