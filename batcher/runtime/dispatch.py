"""Tensors in, tensors out: the only place where a payload is touched.

`gather` puts the rows of a batch's requests into one array per input, `execute` runs it on the
instance's own thread and holds the executor to its contract, `scatter` cuts one request's rows out
of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from batcher.clock import Clock
from batcher.core.events import FailureCause
from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    ExecutionError,
    Executor,
    nothing_to_release,
)
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` (exclusive) of one request."""

    request: InferenceRequest
    start: int
    stop: int


@dataclass(slots=True)
class Executed:
    """How a batch ended: a result, or a failure with its cause. Stamps in monotonic nanoseconds."""

    started_ns: int
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    result: BatchResult | None = None
    cause: FailureCause = FailureCause.UNKNOWN
    failure: str = ""


def gather(slices: Sequence[Slice]) -> Batch:
    """One array per input, rows in the order of the slices.

    All requests have the same inputs and parameters: the scheduler saw to that. A batch of one
    whole request is passed on as it came, without a copy, unless its memory is not aligned.
    """
    first = slices[0].request
    rows = sum(s.stop - s.start for s in slices)
    inputs: dict[str, Array] = {}
    for name in first.inputs:
        pieces = [_rows_of(s.request.inputs[name].array, s.start, s.stop) for s in slices]
        inputs[name] = _aligned(pieces[0]) if len(pieces) == 1 else np.concatenate(pieces)
    return Batch(inputs, rows, first.parameters or {}, _wanted(slices))


def _rows_of(array: Array, start: int, stop: int) -> Array:
    return array if stop - start == len(array) else array[start:stop]


def _aligned(array: Array) -> Array:
    """Views of a message start anywhere; runtimes may insist on aligned memory."""
    return array if array.flags.aligned else array.copy()


def _wanted(slices: Sequence[Slice]) -> frozenset[str] | None:
    """The union of what the requests asked for; None when one of them asked for everything."""
    wanted: set[str] = set()
    for s in slices:
        if s.request.outputs is None:
            return None
        wanted.update(s.request.outputs)
    return frozenset(wanted)


def execute(
    executor: Executor, slices: Sequence[Slice], datatypes: Mapping[str, str], clock: Clock
) -> Executed:
    """Gather and run one batch, on the instance's thread. Never raises: a failure is a result."""
    executed = Executed(clock())
    try:
        batch = gather(slices)
        executed.execute_start_ns = clock()
        result = executor.execute(batch)
        executed.execute_end_ns = clock()
        check(result, batch, datatypes)
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        executed.execute_end_ns = executed.execute_end_ns or clock()
        blame(executed, error)
    else:
        executed.result = result
    return executed


def blame(executed: Executed, error: BaseException) -> None:
    """Note why a batch failed, in one line and without a traceback."""
    if isinstance(error, ExecutionError):
        executed.cause = FailureCause(error.cause)
        executed.failure = str(error)
    else:
        executed.failure = f"{type(error).__name__}: {error}".splitlines()[0]


def check(result: BatchResult, batch: Batch, datatypes: Mapping[str, str]) -> None:
    """Hold an executor to its contract; raises `ExecutionError` naming the output."""
    for name in datatypes if batch.outputs is None else batch.outputs:
        array = result.outputs.get(name)
        if array is None:
            raise ExecutionError(f"the executor returned no output {name!r}")
        if array.ndim == 0 or array.shape[0] != batch.rows:
            got = list(array.shape)
            raise ExecutionError(
                f"the executor returned output {name!r} of shape {got} for {batch.rows} rows"
            )


def scatter(
    result: BatchResult,
    start: int,
    stop: int,
    wanted: Sequence[str] | None,
    datatypes: Mapping[str, str],
) -> dict[str, Tensor]:
    """One request's rows of every output it asked for.

    Views of the batch's arrays, or copies where the executor will use its buffers again.
    """
    reused = result.release is not nothing_to_release
    outputs: dict[str, Tensor] = {}
    for name in datatypes if wanted is None else wanted:
        rows = result.outputs[name][start:stop]
        outputs[name] = Tensor(datatypes[name], rows.copy() if reused else rows)
    return outputs
