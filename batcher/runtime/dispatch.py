"""Tensors in, tensors out: the only place where a payload is touched.

`gather` puts the rows of a batch's requests into one array per input, `execute` runs it on the
instance's own thread and holds the executor to its contract, `scatter` cuts one request's rows out
of the result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from batcher.clock import Clock
from batcher.core.events import FailureCause
from batcher.core.record import record
from batcher.errors import describe, on_one_line
from batcher.executor import (
    DTYPES,
    Array,
    AsyncExecutor,
    Batch,
    BatchResult,
    ExecutionError,
    Executor,
    nothing_to_release,
)
from batcher.runtime.layout import Layout
from batcher.runtime.padding import Padded
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor

log = logging.getLogger(__name__)

LARGE_BATCH: Final = 1024 * 1024
"""Bytes of a batch from which on it is not copied on the event loop."""


@record
class Slice:
    """Rows `start` to `stop` (exclusive) of one request, and the shape of the batch they go into.

    `padded` is the same for all slices of a batch, None for a model without padding.
    """

    request: InferenceRequest
    start: int
    stop: int
    padded: Padded | None = None


@dataclass(slots=True)
class Executed:
    """How a batch ended: a result, or a failure with its cause. Stamps in monotonic nanoseconds.

    Whoever has it last owes one call of `release`.
    """

    started_ns: int
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    result: BatchResult | None = None
    cause: FailureCause = FailureCause.UNKNOWN
    failure: str = ""

    def release(self) -> None:
        """Give the executor its buffers back: the arrays of the result are not read any more."""
        if self.result is not None:
            release(self.result)


def gather(slices: Sequence[Slice], layout: Layout) -> Batch:
    """One array per input, rows in the order of the slices.

    All requests have the same inputs and parameters, and shared inputs that are equal: the
    scheduler saw to that. A batch of one whole request is passed on as it came, without a copy,
    where its memory is what runtimes insist on: aligned and contiguous. A view of a message may
    start anywhere. An input that is shorter than the batch's bucket is filled up; where all have
    its length, nothing is. An executor that takes full batches only gets such, the answers to rows
    that fill them up being nobody's.
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
            array = _filled_up(pieces, rows, padded.shapes[name], padded.values[name])
        inputs[name] = _aligned(array) if rows >= layout.full else _full(array, layout.full)
    given = first.parameters or {}
    parameters = {name: given[name] for name in layout.parameters if name in given}
    return Batch(inputs, max(rows, layout.full), parameters, _wanted(slices))


def _full(array: Array, rows: int) -> Array:
    """So many rows, the missing ones copies of the last."""
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])


def _aligned(array: Array) -> Array:
    flags = array.flags
    return array if flags.aligned and flags.c_contiguous else array.copy()


def _rows_of(array: Array, start: int, stop: int) -> Array:
    return array if stop - start == len(array) else array[start:stop]


def _fit(pieces: Sequence[Array], shape: tuple[int, ...]) -> bool:
    return all(piece.shape[1:] == shape for piece in pieces)


def _filled_up(pieces: Sequence[Array], rows: int, shape: tuple[int, ...], value: Any) -> Array:
    """The pieces below each other in an array of that shape, the rest of it `value`."""
    array = np.full((rows, *shape), value, pieces[0].dtype)
    start = 0
    for piece in pieces:
        stop = start + len(piece)
        array[(slice(start, stop), *map(slice, piece.shape[1:]))] = piece
        start = stop
    return array


def elements(slices: Sequence[Slice]) -> tuple[int, int]:
    """Elements of the padded inputs of a batch: the requests' own, and those that fill up."""
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
    """The union of what the requests asked for; None when one of them asked for everything."""
    wanted: set[str] = set()
    for s in slices:
        if s.request.outputs is None:
            return None
        wanted.update(s.request.outputs)
    return frozenset(wanted)


def execute(
    executor: Executor,
    slices: Sequence[Slice],
    layout: Layout,
    clock: Clock,
    begun: Callable[[], None],
) -> Executed:
    """Gather and run one batch, on the instance's thread. Never raises: a failure is a result.

    `begun` is called when the executor gets the batch, unless it cannot be gathered.
    """
    executed = Executed(clock())
    try:
        batch = gather(slices, layout)
        executed.execute_start_ns = clock()
        begun()
        result = executor.execute(batch)
        executed.execute_end_ns = clock()
        executed.result = _copied(
            accept(result, batch, layout, slices[0].padded),
            layout.outputs if batch.outputs is None else batch.outputs,
        )
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        blame(executed, error, clock)
    return executed


async def execute_async(
    executor: AsyncExecutor, slices: Sequence[Slice], layout: Layout, clock: Clock
) -> Executed:
    """The same for a coroutine executor, on the event loop; a cancelled call has failed, too."""
    executed = Executed(clock())
    try:
        if _nbytes(slices) > LARGE_BATCH:
            batch = await asyncio.to_thread(gather, slices, layout)
        else:
            batch = gather(slices, layout)
        executed.execute_start_ns = clock()
        result = await executor.execute(batch)
        executed.execute_end_ns = clock()
        executed.result = accept(result, batch, layout, slices[0].padded)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        blame(executed, error, clock)
    return executed


def _nbytes(slices: Sequence[Slice]) -> int:
    return sum(tensor.array.nbytes for s in slices for tensor in s.request.inputs.values())


def _copied(result: BatchResult, names: Iterable[str]) -> BatchResult:
    """The result; a large one that the executor wants back is copied here, and not on the loop."""
    if result.release is nothing_to_release:
        return result
    found = {name: result.outputs[name] for name in names}
    if sum(array.nbytes for array in found.values()) <= LARGE_BATCH:
        return result
    try:
        outputs = {name: _own(array) for name, array in found.items()}
    finally:
        release(result)
    return BatchResult(outputs, result.row_errors)


def _own(array: Array) -> Array:
    """A copy that holds nothing of the executor's, views of its buffers as elements included."""
    copied = array.copy()
    if copied.dtype.hasobject:
        elements = copied.reshape(-1)
        for place, element in enumerate(elements):
            if isinstance(element, (bytearray, memoryview)):
                elements[place] = bytes(element)
    return copied


def blame(executed: Executed, error: BaseException, clock: Clock) -> None:
    """Note why a batch failed, in one line and without a traceback, and when."""
    executed.execute_end_ns = executed.execute_end_ns or clock()
    log.debug("a batch failed", exc_info=error)
    if isinstance(error, ExecutionError):
        executed.cause = FailureCause(error.cause)
        executed.failure = on_one_line(str(error))
    else:
        executed.failure = describe(error)
    # It knows the frames that know the batch, and an executor may keep its error.
    error.__traceback__ = None


def accept(
    result: object, batch: Batch, layout: Layout, padded: Padded | None = None
) -> BatchResult:
    """Hold an executor to its contract: what it returned, if every output is as it should be.

    An output that will be cut back with an input must be as long as that input was padded to.
    Raises `ExecutionError` naming the fault otherwise; the result is released then.
    """
    if not isinstance(result, BatchResult):
        kind = type(result).__name__
        raise ExecutionError(f"the executor returned {kind}, not a BatchResult")
    try:
        fault = _first_fault(result, batch, layout, padded)
    except BaseException:
        release(result)
        raise
    if fault is not None:
        release(result)
        raise ExecutionError(f"the executor returned {fault}")
    return result


def _first_fault(
    result: BatchResult, batch: Batch, layout: Layout, padded: Padded | None
) -> str | None:
    rows = batch.rows if layout.batched else None
    for name in layout.outputs if batch.outputs is None else batch.outputs:
        array = result.outputs.get(name)
        fault = _fault(array, DTYPES[layout.outputs[name]], rows)
        if fault is None and padded is not None and array is not None:
            fault = _length_fault(array, padded.outputs.get(name, ()))
        if fault is not None:
            return f"a wrong output {name!r}: {fault}"
    for row in result.row_errors:
        if row not in range(batch.rows):
            return f"an error for row {row!r} of a batch of {batch.rows} rows"
    return None


def _fault(array: object, dtype: np.dtype[Any], rows: int | None) -> str | None:
    """What is wrong with an output; `rows` is None where it has no row axis."""
    if array is None:
        return "it is missing"
    if not isinstance(array, np.ndarray):
        return f"it is of type {type(array).__name__}, not a numpy array"
    if array.dtype != dtype:
        return f"its dtype is {array.dtype}, not {dtype}"
    if rows is not None and (array.ndim == 0 or array.shape[0] != rows):
        return f"its shape is {list(array.shape)} for {rows} rows"
    return None


def _length_fault(array: Array, lengths: Sequence[tuple[int, int]]) -> str | None:
    for axis, length in lengths:
        if array.ndim <= axis or array.shape[axis] != length:
            return (
                f"its shape is {list(array.shape)}, and axis {axis} should be {length} long, as the"
                " input that it follows (models[].outputs says which)"
            )
    return None


def release(result: BatchResult) -> None:
    """Give the executor its buffers back. What it raises is logged: the batch has ended."""
    try:
        result.release()
    except BaseException:  # a plugin may raise anything
        log.exception("an executor raised when a result was released")


def scatter(
    result: BatchResult,
    start: int,
    stop: int,
    wanted: Sequence[str] | None,
    layout: Layout,
    cuts: Mapping[str, tuple[slice, ...]] | None = None,
) -> dict[str, Tensor]:
    """One request's rows of every output it asked for, without what `cuts` leaves out of each.

    Views of the batch's arrays, or copies where the executor will use its buffers again.
    """
    reused = result.release is not nothing_to_release
    outputs: dict[str, Tensor] = {}
    for name in layout.outputs if wanted is None else wanted:
        rows = result.outputs[name]
        if layout.batched:
            rows = rows[start:stop]
        if cuts is not None and name in cuts:
            rows = rows[cuts[name]]
        outputs[name] = Tensor(layout.outputs[name], _own(rows) if reused else rows)
    return outputs


def joinable(pieces: Mapping[int, Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], ...]:
    """The outputs of a request's pieces, each under its first row, in the order of their rows.

    Raises `ExecutionError` where the executor gave them different shapes beside their rows.
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
    """One request's outputs out of those of its pieces, which are `joinable`."""
    return {
        name: Tensor(tensor.datatype, np.concatenate([piece[name].array for piece in pieces]))
        for name, tensor in pieces[0].items()
    }
