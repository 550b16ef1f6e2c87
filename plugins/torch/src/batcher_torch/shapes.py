"""The shapes of the batches that a model gets, where the configuration fixes them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final

from batcher.errors import ModelLoadError
from batcher.executor import LoadContext, TensorSpec

Shapes = dict[str, tuple[int, ...]]
"""Input -> the shape of its array in a batch."""

MOST_SHAPES: Final = 256
"""The most shapes that a model is compiled or recorded for: each takes time and memory when it loads.

At one second each, which a small model takes to compile, they take more than four minutes.
"""


def sizes_in_use(context: LoadContext, limit: int) -> tuple[int, ...]:
    """The sizes of batches: what the configuration says, or else the powers of two up to the largest.

    `limit` is the most rows that the model takes, 0 if it does not say.
    """
    if context.batch_sizes or not context.max_batch_size:
        return context.batch_sizes
    most = min(context.max_batch_size, limit or context.max_batch_size)
    powers = [1 << place for place in range(most.bit_length()) if 1 << place < most]
    return (*powers, most)


def shapes_in_use(
    context: LoadContext, inputs: Sequence[TensorSpec], sizes: Sequence[int], where: str
) -> list[Shapes]:
    """The shapes of all batches, the largest first. `where` names the option that needs to know them.

    Raises `ModelLoadError` for an axis that may have any length, and for more than `MOST_SHAPES`.
    """
    lengths: dict[object, tuple[int, ...]] = {}
    for spec in inputs:
        for axis in _variable(spec, context):
            buckets = context.buckets.get(spec.name, {}).get(axis, ())
            if not buckets:
                raise ModelLoadError(
                    f"{where}: axis {axis} of input {spec.name!r} may have any length: pad it to "
                    "buckets (models[].padding), or leave this option out"
                )
            lengths[_key(spec, axis)] = tuple(buckets)
    count = max(1, len(sizes))
    for each in lengths.values():
        count *= len(each)
    if count > MOST_SHAPES:
        raise ModelLoadError(
            f"{where}: batching.batch_sizes and the buckets of padding make {count} shapes; allowed: "
            f"up to {MOST_SHAPES}"
        )
    found = []
    for chosen in product(*[each[::-1] for each in lengths.values()]):
        by_key = dict(zip(lengths, chosen, strict=True))
        found += [
            {spec.name: _shape(spec, context, rows, by_key) for spec in inputs}
            for rows in (sorted(sizes, reverse=True) or (0,))
        ]
    return found


def _variable(spec: TensorSpec, context: LoadContext) -> list[int]:
    first = 1 if spec.batched and context.max_batch_size else 0
    return [axis for axis in range(first, len(spec.shape)) if spec.shape[axis] < 0]


def _key(spec: TensorSpec, axis: int) -> object:
    """What axes that are equally long have in common: their name."""
    name = spec.dims[axis] if spec.dims else None
    return name if name is not None else (spec.name, axis)


def _shape(
    spec: TensorSpec, context: LoadContext, rows: int, lengths: dict[object, int]
) -> tuple[int, ...]:
    shape = list(spec.shape)
    for axis in _variable(spec, context):
        shape[axis] = lengths[_key(spec, axis)]
    if spec.batched and context.max_batch_size:
        shape[0] = rows
    return tuple(shape)
