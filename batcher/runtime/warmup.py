"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median
from time import monotonic_ns
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


TIMED_BATCHES = 3
"""How often a batch of each size is timed, after one that is not."""

TIMED_NS = 1_000_000_000
"""A size that has taken so long already is not timed again."""


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
    """Execute batches of zeros of every size: the first warms up, the others are timed.

    The time of a size is the median, from handing the batch over until its result is back, as the
    scheduler will see it. Raises `ModelLoadError` when a batch fails.
    """
    profile: list[tuple[int, int]] = []
    for rows in plan.batch_sizes:
        slices = [Slice(zeros(model, metadata.inputs, rows, plan.length), 0, rows)]
        took_ns: list[int] = []
        for repeat in range(1 + TIMED_BATCHES):
            began_ns = monotonic_ns()
            executed = await run_batch(worker, slices, datatypes)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(
                    f"{model}: the warm-up batch of {rows} rows failed: {executed.failure}"
                )
            if repeat:
                took_ns.append(monotonic_ns() - began_ns)
                if sum(took_ns) >= TIMED_NS:
                    break
        profile.append((rows, int(median(took_ns))))
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
