"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np

from batcher.core.record import record
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.dispatch import Executed, Slice
from batcher.runtime.request import InferenceRequest
from batcher.runtime.workers import Worker
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec


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
) -> tuple[tuple[int, int], ...]:
    """Execute a batch of zeros of every size, twice: the first warms up, the second is timed.

    Returns (rows, nanoseconds) pairs. Raises `ModelLoadError` when a batch fails.
    """
    profile: list[tuple[int, int]] = []
    for rows in plan.batch_sizes:
        slices = [Slice(_zeros(model, metadata.inputs, rows, plan.length), 0, rows)]
        for _ in range(2):
            executed = await _run(worker, slices, datatypes)
            if executed.result is None:
                raise ModelLoadError(
                    f"{model}: the warm-up batch of {rows} rows failed: {executed.failure}"
                )
            executed.result.release()
        profile.append((rows, executed.execute_end_ns - executed.started_ns))
    return tuple(profile)


async def _run(worker: Worker, slices: Sequence[Slice], datatypes: Mapping[str, str]) -> Executed:
    future: asyncio.Future[Executed] = asyncio.get_running_loop().create_future()
    worker.run(slices, datatypes, lambda e: None if future.done() else future.set_result(e))
    return await future


def _zeros(model: str, specs: Sequence[TensorSpec], rows: int, length: int) -> InferenceRequest:
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
