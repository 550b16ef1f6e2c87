"""Gathers the rows of a batch's requests into one array per input."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np

from batcher.core.record import record
from batcher.executor import (
    Array,
    Batch,
)
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded
from batcher.runtime.request import InferenceRequest

LARGE_BATCH: Final = 1024 * 1024
"""Bytes: a larger batch is copied on another thread, so as not to block the event loop."""


@record
class Slice:
    """Rows `start` to `stop` (exclusive) of one request in a batch.

    `padded` are the batch's padded shapes: the same for all its slices, None without padding.
    """

    request: InferenceRequest
    start: int
    stop: int
    padded: Padded | None = None


def gather(slices: Sequence[Slice], layout: Layout) -> Batch:
    """The batch for the executor: one array per input, rows in the order of the slices.

    All requests must have the same inputs and parameters, and equal inputs without a batch axis;
    the scheduler's batch groups guarantee that. A batch of one whole request is not copied if its
    arrays are aligned and contiguous, as runtimes require (a view of a gRPC message may start at
    any byte). Inputs shorter than the batch's bucket are padded. For an executor that takes full
    batches only, the batch is filled with copies of its last row, whose outputs are dropped.
    """
    first, padded = slices[0].request, slices[0].padded
    rows = sum(s.stop - s.start for s in slices)
    inputs: dict[str, Array] = {}
    for name, tensor in first.inputs.items():
        if name in layout.shared:
            inputs[name] = _aligned(tensor.array)
            continue
        pieces = [_rows_of(s.request.inputs[name].array, s.start, s.stop) for s in slices]
        if padded is None or _fit(pieces, padded.shapes[name]):
            array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        else:
            array = _padded(pieces, rows, padded.shapes[name], padded.values[name])
        inputs[name] = _aligned(array) if rows >= layout.full else _full(array, layout.full)
    given = first.parameters or {}
    parameters = {name: given[name] for name in layout.parameters if name in given}
    return Batch(inputs, max(rows, layout.full), parameters, _wanted(slices))


def _full(array: Array, rows: int) -> Array:
    """The array with `rows` rows; the missing ones are copies of the last."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _aligned(array: Array) -> Array:
    flags = array.flags
    return array if flags.aligned and flags.c_contiguous else array.copy()


def _rows_of(array: Array, start: int, stop: int) -> Array:
    return array if stop - start == len(array) else array[start:stop]


def _fit(pieces: Sequence[Array], shape: tuple[int, ...]) -> bool:
    return all(piece.shape[1:] == shape for piece in pieces)


def _padded(pieces: Sequence[Array], rows: int, shape: tuple[int, ...], value: Any) -> Array:
    """The pieces below each other in an array of rows of that shape, padded with `value`."""
    array = np.full((rows, *shape), value, pieces[0].dtype)
    start = 0
    for piece in pieces:
        stop = start + len(piece)
        array[(slice(start, stop), *map(slice, piece.shape[1:]))] = piece
        start = stop
    return array


def count_elements(slices: Sequence[Slice]) -> tuple[int, int]:
    """(elements of the requests, elements of padding) in the padded inputs of a batch."""
    padded = slices[0].padded
    if padded is None:
        return 0, 0
    own = filled = 0
    for name in padded.values:
        if name not in slices[0].request.inputs:
            continue
        size = prod(padded.shapes[name])
        for s in slices:
            rows = s.stop - s.start
            row = prod(s.request.inputs[name].array.shape[1:])
            own += rows * row
            filled += rows * (size - row)
    return own, filled


def _wanted(slices: Sequence[Slice]) -> frozenset[str] | None:
    """The outputs that at least one request asked for; None (all) if one asked for all."""
    wanted: set[str] = set()
    for s in slices:
        if s.request.outputs is None:
            return None
        wanted.update(s.request.outputs)
    return frozenset(wanted)
