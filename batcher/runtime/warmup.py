"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from batcher.core.record import record
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.dispatch import Executed, Slice
from batcher.runtime.request import InferenceRequest
from batcher.runtime.workers import Worker
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

Profile: TypeAlias = tuple[tuple[int, int], ...]
"""Service times: (rows, nanoseconds) pairs."""


@record
class WarmupPlan:
    """Rows of each warm-up batch, and the length to give to variable axes."""

    batch_sizes: tuple[int, ...]
    length: int


async def warm_up(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    datatypes: Mapping[str, str],
    plan: WarmupPlan,
) -> Profile:
    """Execute a batch of zeros of every size, twice: the first warms up, the second is timed.

    Raises `ModelLoadError` when a batch fails.
    """
    profile: list[tuple[int, int]] = []
    for rows in plan.batch_sizes:
        slices = [Slice(zeros(model, metadata.inputs, rows, plan.length), 0, rows)]
        for _ in range(2):
            executed = await run_batch(worker, slices, datatypes)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(
                    f"{model}: the warm-up batch of {rows} rows failed: {executed.failure}"
                )
        profile.append((rows, executed.execute_end_ns - executed.started_ns))
    return tuple(profile)


async def run_batch(
    worker: Worker, slices: Sequence[Slice], datatypes: Mapping[str, str]
) -> Executed:
    """Execute one batch and wait for its end; whoever gets the result owes its release."""
    future: asyncio.Future[Executed] = asyncio.get_running_loop().create_future()

    def done(executed: Executed) -> None:
        if future.cancelled():
            executed.release()
        else:
            future.set_result(executed)

    worker.run(slices, datatypes, done)
    return await future


def zeros(model: str, specs: Sequence[TensorSpec], rows: int, length: int) -> InferenceRequest:
    """A request of zeros, or of empty texts; every variable axis has this length."""
    inputs = {
        spec.name: Tensor(spec.datatype, _zero_array(spec, rows, length))
        for spec in specs
        if not spec.optional
    }
    return InferenceRequest(model, inputs, arrival_ns=0)


def _zero_array(spec: TensorSpec, rows: int, length: int) -> Array:
    shape = (rows, *(length if size < 0 else size for size in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, DTYPES[spec.datatype])
