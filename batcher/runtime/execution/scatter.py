"""Cuts the rows of one request out of a batch's outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from batcher.executor import (
    Array,
    BatchResult,
    ExecutionError,
    nothing_to_release,
)
from batcher.runtime.interface.layout import Layout
from batcher.tensors import Tensor


def scatter(
    result: BatchResult,
    start: int,
    stop: int,
    wanted: Sequence[str] | None,
    layout: Layout,
    cuts: Mapping[str, tuple[slice, ...]] | None = None,
) -> dict[str, Tensor]:
    """Rows `start` to `stop` of the outputs in `wanted` (None: all), trimmed by `cuts`.

    Views of the batch's arrays, or copies if the executor reuses its buffers (`release`).
    """
    reused = result.release is not nothing_to_release
    outputs: dict[str, Tensor] = {}
    for name in layout.outputs if wanted is None else wanted:
        rows = result.outputs[name]
        if layout.batched:
            rows = rows[start:stop]
        if cuts is not None and name in cuts:
            rows = rows[cuts[name]]
        outputs[name] = Tensor(layout.outputs[name], own_copy(rows) if reused else rows)
    return outputs


def joinable(pieces: Mapping[int, Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], ...]:
    """The outputs of the parts of a split request (by first row), in the order of their rows.

    Raises `ExecutionError` if the parts have different shapes apart from their rows.
    """
    ordered = tuple(pieces[start] for start in sorted(pieces))
    for name in ordered[0]:
        shapes = {piece[name].array.shape[1:] for piece in ordered}
        if len(shapes) > 1:
            found = " and ".join(str([-1, *shape]) for shape in sorted(shapes))
            raise ExecutionError(
                f"the request's rows were executed in {len(ordered)} batches, and output {name!r}"
                f" has different shapes in them, {found}, which cannot be joined"
            )
    return ordered


def join(pieces: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The outputs of a split request, from those of its parts (`joinable`). Copies them all."""
    return {
        name: Tensor(tensor.datatype, np.concatenate([piece[name].array for piece in pieces]))
        for name, tensor in pieces[0].items()
    }


def own_copy(array: Array) -> Array:
    """A copy that refers to no buffer of the executor, not even by elements that are views."""
    copied = array.copy()
    if copied.dtype.hasobject:
        elements = copied.reshape(-1)
        for place, element in enumerate(elements):
            if isinstance(element, (bytearray, memoryview)):
                elements[place] = bytes(element)
    return copied
