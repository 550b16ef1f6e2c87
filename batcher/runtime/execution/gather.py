"""Gathers the rows of a batch's requests: into one array per input, or as they are on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np

from batcher.core.record import record
from batcher.executor import (
    Array,
    Batch,
    SequenceRow,
)
from batcher.protocol.raw_tensor import encoded, raw_contents, raw_rows
from batcher.runtime.interface.forwarded import forwarded
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded
from batcher.runtime.request import InferenceRequest

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
"""Shared by all batches: no executor can write to it."""

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
    row: SequenceRow | None = None
    """Which step of which sequence it is, for a model with sequences."""


class RowArrays(Protocol):
    """Has memory that a batch is gathered into."""

    def rows(
        self, name: str, rows: int, row_shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Array | None:
        """An array of so many rows for an input; None if there is none for it."""
        ...


def gather(slices: Sequence[Slice], layout: Layout, buffers: RowArrays | None = None) -> Batch:
    """The batch for the executor: one array per input (or its contents), rows in the order of the slices.

    All requests must have the same inputs and parameters, and equal inputs without a batch axis;
    the scheduler's batch groups guarantee that. A batch of one whole request is not copied if its
    arrays are aligned and contiguous, as runtimes require (a view of a gRPC message may start at
    any byte). Inputs shorter than the batch's bucket are padded. For an executor that runs certain
    batch sizes only, the batch is filled up to the next with copies of its last row, whose outputs
    are dropped.

    With `buffers`, inputs with rows are gathered into memory of the executor's, as far as there is
    such. Raises `ExecutionError` where the executor's `allocate` does not keep its contract.
    """
    first = slices[0].request
    rows = sum(s.stop - s.start for s in slices)
    filled = layout.filled(rows) if layout.batch_sizes else rows
    given = first.parameters or {}
    parameters = {name: given[name] for name in layout.parameters if name in given}
    metadata = forwarded(layout.metadata, first.metadata) if layout.metadata else {}
    inputs: Mapping[str, Array] = _NONE
    raw: Mapping[str, Sequence[memoryview]] = _NONE
    shapes: Mapping[str, tuple[int, ...]] = _NONE
    if layout.raw:
        raw, shapes = _contents(slices, rows, filled, layout)
    else:
        inputs = _arrays(slices, rows, filled, layout, buffers)
    return Batch(
        inputs,
        filled,
        parameters,
        _wanted(slices),
        _deadline_ns(slices),
        metadata,
        raw,
        shapes,
        tuple([s.row for s in slices if s.row is not None]) if slices[0].row is not None else (),
    )


def _arrays(
    slices: Sequence[Slice],
    rows: int,
    filled: int,
    layout: Layout,
    buffers: RowArrays | None,
) -> dict[str, Array]:
    first, padded = slices[0].request, slices[0].padded
    inputs: dict[str, Array] = {}
    for name, tensor in first.inputs.items():
        if name in layout.shared:
            inputs[name] = _aligned(tensor.array)
            continue
        pieces = [_rows_of(s.request.inputs[name].array, s.start, s.stop) for s in slices]
        padding = None if padded is None or _fit(pieces, padded.shapes[name]) else padded
        if buffers is not None:
            inner = pieces[0].shape[1:] if padding is None else padding.shapes[name]
            target = buffers.rows(name, filled, inner, pieces[0].dtype)
            if target is not None:
                if padding is None:
                    np.concatenate(pieces, out=target[:rows])
                else:
                    _pad_into(target[:rows], pieces, padding.values[name])
                target[rows:] = target[rows - 1]
                inputs[name] = target
                continue
        if padding is None:
            array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        else:
            array = _padded(pieces, rows, padding.shapes[name], padding.values[name])
        inputs[name] = _aligned(array) if rows == filled else _filled(array, filled)
    return inputs


def _contents(
    slices: Sequence[Slice], rows: int, filled: int, layout: Layout
) -> tuple[dict[str, Sequence[memoryview]], dict[str, tuple[int, ...]]]:
    """The contents of each input in pieces, and its shape: the encoding of what `_arrays` makes.

    Nothing is copied but what is padded, or has an array alone.
    """
    padded, missing = slices[0].padded, filled - rows
    raw: dict[str, Sequence[memoryview]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in slices[0].request.inputs.items():
        if name in layout.shared:
            raw[name], shapes[name] = (raw_contents(tensor),), tensor.shape
            continue
        tensors = [s.request.inputs[name] for s in slices]
        inner = tensor.shape[1:] if padded is None else padded.shapes[name]
        if padded is None or all(each.shape[1:] == inner for each in tensors):
            pieces = [
                raw_rows(each, s.start, s.stop) for each, s in zip(tensors, slices, strict=True)
            ]
            stop = slices[-1].stop
            pieces += [raw_rows(tensors[-1], stop - 1, stop)] * missing if missing else ()
        else:
            arrays = [
                _rows_of(each.array, s.start, s.stop)
                for each, s in zip(tensors, slices, strict=True)
            ]
            array = _padded(arrays, rows, inner, padded.values[name])
            whole = encoded(tensor.datatype, array)
            pieces = [whole.raw, *[whole.rows(rows - 1, rows)] * missing]
        raw[name], shapes[name] = pieces, (rows + missing, *inner)
    return raw, shapes


def _filled(array: Array, rows: int) -> Array:
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
    array = np.empty((rows, *shape), pieces[0].dtype)
    _pad_into(array, pieces, value)
    return array


def _pad_into(array: Array, pieces: Sequence[Array], value: Any) -> None:
    array[...] = value
    start = 0
    for piece in pieces:
        stop = start + len(piece)
        array[(slice(start, stop), *map(slice, piece.shape[1:]))] = piece
        start = stop


def count_elements(slices: Sequence[Slice], layout: Layout) -> tuple[int, int]:
    """(elements of the requests, elements of padding) in a batch.

    Counted are the padded inputs and, where batches are filled up to certain sizes, all inputs with
    rows: then padding includes the rows that the batch was filled up with.
    """
    padded, inputs = slices[0].padded, slices[0].request.inputs
    shapes = {} if padded is None else padded.shapes
    if layout.batch_sizes:
        names = [name for name in inputs if name not in layout.shared]
    elif padded is None:
        return 0, 0
    else:
        names = [name for name in padded.values if name in inputs]
    rows = sum(s.stop - s.start for s in slices)
    executed = layout.filled(rows)
    own = counted = 0
    for name in names:
        counted += executed * prod(shapes.get(name, inputs[name].shape[1:]))
        for s in slices:
            own += (s.stop - s.start) * prod(s.request.inputs[name].shape[1:])
    return own, counted - own


def _deadline_ns(slices: Sequence[Slice]) -> int | None:
    """When the last of the callers stops waiting; None if one of them waits for ever."""
    last_ns = 0
    for s in slices:
        deadline_ns = s.request.deadline_ns
        if deadline_ns is None:
            return None
        last_ns = max(last_ns, deadline_ns)
    return last_ns


def _wanted(slices: Sequence[Slice]) -> frozenset[str] | None:
    """The outputs that at least one request asked for; None (all) if one asked for all."""
    wanted: set[str] = set()
    for s in slices:
        if s.request.outputs is None:
            return None
        wanted.update(s.request.outputs)
    return frozenset(wanted)
