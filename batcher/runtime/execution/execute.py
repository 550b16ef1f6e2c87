"""Executes one batch and checks the executor's result against its contract.

Nothing here raises what an executor raises: a failure is an `ExecutedBatch` without a result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from batcher.clock import Clock
from batcher.core.events import SEARCHED, FailureCause
from batcher.errors import describe, on_one_line
from batcher.executor import (
    CAUSES,
    DTYPES,
    MAX_RETRY_AFTER_NS,
    Array,
    AsyncExecutor,
    Batch,
    BatchResult,
    ExecutionError,
    Executor,
    OutOfMemory,
    nothing_to_release,
)
from batcher.executors.input_buffers import BatchBuffers, InputBuffers
from batcher.runtime.execution.gather import LARGE_BATCH, Slice, gather
from batcher.runtime.execution.scatter import own_copy
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded

log = logging.getLogger(__name__)

_CAUSES: Final = {cause: FailureCause(cause) for cause in CAUSES}


@dataclass(slots=True)
class ExecutedBatch:
    """How a batch ended: with a result, or with a failure and its cause.

    Times are monotonic nanoseconds; `ended_ns` is when the instance was done with all of it. Its last
    user must call `release` once.
    """

    started_ns: int
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    result: BatchResult | None = None
    cause: FailureCause = FailureCause.UNKNOWN
    failure: str = ""
    ended_ns: int = 0
    submitted_ns: int = 0
    """Where batches are pipelined: when it was on the device. Then `execute_start_ns` is when the device
    could begin with it: when that was free, too."""
    retry_after_ns: int | None = None
    """When an overloaded or unavailable backend wants callers to come back, if it says."""

    @property
    def own_ns(self) -> int:
        """How long the instance was busy with it; where batches are pipelined, how long its device was."""
        if self.submitted_ns:
            return self.execute_end_ns - self.execute_start_ns
        return self.ended_ns - self.started_ns

    @property
    def what_follows(self) -> str:
        """What becomes of the requests of a batch that has failed, for the log."""
        if self.cause is FailureCause.MEMORY:
            return "they run again in smaller batches, or fail"
        return "they run again in parts, or fail" if self.cause in SEARCHED else "they fail"

    @property
    def input_ns(self) -> int:
        """How long its inputs were gathered; where batches are pipelined, and copied to the device."""
        return (self.submitted_ns or self.execute_start_ns) - self.started_ns

    def abandon(self) -> None:
        """Drop what a cancelled batch has given all the same, and why it failed."""
        self.release()
        self.result = None
        self.cause = FailureCause.ABANDONED
        self.failure = "it was cancelled: no request waited for it any more"

    def release(self) -> None:
        """Give the executor its buffers back. The arrays of the result must not be read after this."""
        if self.result is not None:
            release(self.result)


Done = Callable[[ExecutedBatch], None]

Cancel = Callable[[], bool]
"""Cancels a batch that was started; returns False if it goes on all the same. Never raises."""


def execute(
    executor: Executor,
    slices: Sequence[Slice],
    layout: Layout,
    clock: Clock,
    begun: Callable[[], None],
    buffers: InputBuffers | None = None,
) -> ExecutedBatch:
    """Gather and execute one batch; call it on the instance's thread. Never raises.

    `begun` is called just before the executor is called, and not if gathering fails. `buffers` are
    the executor's, if it allocates the memory of its inputs.
    """
    executed = ExecutedBatch(clock())
    lent = None if buffers is None else buffers.lend()
    try:
        batch = gather(slices, layout, lent)
        executed.execute_start_ns = clock()
        begun()
        result = executor.execute(batch)
        executed.execute_end_ns = clock()
        executed.result = copied_if_reused(
            check_result(result, batch, layout, slices[0].padded),
            layout.outputs if batch.outputs is None else batch.outputs,
            lent,
        )
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        set_failure(executed, error, clock)
    finally:
        if lent is not None:
            lent.give_back()
    return executed


async def execute_async(
    executor: AsyncExecutor, slices: Sequence[Slice], layout: Layout, clock: Clock
) -> ExecutedBatch:
    """Gather and execute one batch on the event loop. Never raises; a cancelled call has failed."""
    executed = ExecutedBatch(clock())
    try:
        if nbytes_of_slices(slices) > LARGE_BATCH:
            batch = await asyncio.to_thread(gather, slices, layout)
        else:
            batch = gather(slices, layout)
        executed.execute_start_ns = clock()
        result = await executor.execute(batch)
        executed.execute_end_ns = clock()
        executed.result = check_result(result, batch, layout, slices[0].padded)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        set_failure(executed, error, clock)
    return executed


def nbytes_of_slices(slices: Sequence[Slice]) -> int:
    """The bytes of all inputs of a batch's requests."""
    return sum(tensor.nbytes for s in slices for tensor in s.request.inputs.values())


def copied_if_reused(
    result: BatchResult, names: Iterable[str], inputs: BatchBuffers | None = None
) -> BatchResult:
    """The result, with copies of the outputs that lie in memory which is used again.

    All are copied if the executor reuses its outputs and they are large: here, on the instance's
    thread, rather than on the event loop. Else those are that may lie in the memory of `inputs`, to
    which a batch has access no longer than it runs.
    """
    if result.release is nothing_to_release:
        return result if inputs is None else _own_outputs(result, names, inputs)
    found = {name: result.outputs[name] for name in names}
    if sum(array.nbytes for array in found.values()) <= LARGE_BATCH:
        return result if inputs is None else _own_outputs(result, found, inputs)
    try:
        outputs = {name: own_copy(array) for name, array in found.items()}
    finally:
        release(result)
    return BatchResult(outputs, result.row_errors)


def _own_outputs(result: BatchResult, names: Iterable[str], inputs: BatchBuffers) -> BatchResult:
    """The result without arrays that lie in the memory of inputs: their place have copies."""
    found = {name: result.outputs[name] for name in names}
    try:
        copies = {name: own_copy(array) for name, array in found.items() if inputs.hold(array)}
    except BaseException:
        release(result)
        raise
    return BatchResult(found | copies, result.row_errors, result.release) if copies else result


def set_failure(executed: ExecutedBatch, error: BaseException, clock: Clock) -> None:
    """Record why and when a batch failed. The traceback goes to the debug log only."""
    executed.execute_end_ns = executed.execute_end_ns or clock()
    log.debug("a batch failed", exc_info=error)
    if isinstance(error, ExecutionError):
        _set_cause(executed, error)
    else:
        executed.failure = describe(error)
        if isinstance(error, MemoryError | OutOfMemory):
            executed.cause = FailureCause.MEMORY
    # The traceback refers to frames that refer to the batch, and an executor may keep its error.
    error.__traceback__ = None


def _set_cause(executed: ExecutedBatch, error: ExecutionError) -> None:
    """Record what an `ExecutionError` says; a plugin's subclass may have none of its attributes."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, str):
        executed.cause = _CAUSES.get(cause, FailureCause.UNKNOWN)
    retry_after_ns = getattr(error, "retry_after_ns", None)
    if isinstance(retry_after_ns, int):
        executed.retry_after_ns = max(0, min(retry_after_ns, MAX_RETRY_AFTER_NS))
    try:
        executed.failure = on_one_line(str(error))
    except Exception:  # noqa: BLE001 - a plugin's own `__str__`
        executed.failure = describe(error)


def cancelled(clock: Clock) -> ExecutedBatch:
    """An `ExecutedBatch` for a batch that was cancelled before it began."""
    now_ns = clock()
    return ExecutedBatch(now_ns, 0, now_ns, None, FailureCause.ABANDONED, "it was cancelled")


def call_failed(error: BaseException, clock: Clock) -> ExecutedBatch:
    """A failed `ExecutedBatch` for a call that raised where it must not."""
    executed = ExecutedBatch(clock())
    set_failure(executed, error, clock)
    return executed


def check_result(
    result: object, batch: Batch, layout: Layout, padded: Padded | None = None
) -> BatchResult:
    """Return an executor's result if every requested output has the right type, dtype and shape.

    An output that is trimmed like a padded input must have that input's padded length. Otherwise
    the result is released, and `ExecutionError` names the output and what is wrong with it.
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
        inner = layout.inner.get(name)
        if fault is None and inner is not None and array is not None and array.shape[1:] != inner:
            fault = _shape_fault(array, inner)
        if fault is not None:
            return f"a wrong output {name!r}: {fault}"
    for row in result.row_errors:
        if row not in range(batch.rows):
            return f"an error for row {row!r} of a batch of {batch.rows} rows"
    return None


def _fault(array: object, dtype: np.dtype[Any], rows: int | None) -> str | None:
    """What is wrong with an output, None if nothing; `rows` is None without a batch axis."""
    if array is None:
        return "it is missing"
    if not isinstance(array, np.ndarray):
        return f"it is of type {type(array).__name__}, not a numpy array"
    if array.dtype != dtype:
        return f"its dtype is {array.dtype}, not {dtype}"
    if rows is not None and (array.ndim == 0 or array.shape[0] != rows):
        return f"its shape is {list(array.shape)}, and axis 0 should be {rows} long, the rows of the batch"
    return None


def _shape_fault(array: Array, inner: tuple[int, ...]) -> str | None:
    shape = array.shape[1:]
    if len(shape) == len(inner) and all(
        want in (-1, have) for want, have in zip(inner, shape, strict=True)
    ):
        return None
    rows = len(array)
    return f"its shape is {list(array.shape)}, and the model's is {[rows, *inner]} for {rows} rows"


def _length_fault(array: Array, lengths: Sequence[tuple[int, int]]) -> str | None:
    for axis, length in lengths:
        if array.ndim <= axis or array.shape[axis] != length:
            return (
                f"its shape is {list(array.shape)}, and axis {axis} should be {length} long, as the"
                " input that it follows (models[].outputs says which)"
            )
    return None


def release(result: BatchResult) -> None:
    """Call the result's `release`. An exception is logged, because the batch has ended."""
    try:
        result.release()
    except BaseException:  # a plugin may raise anything
        log.exception(
            "an executor's release() raised: a mistake of its plugin, which the traceback names; the"
            " batch is not affected"
        )
