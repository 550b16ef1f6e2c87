"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median
from time import monotonic_ns

import numpy as np

from batcher.core.events import Profile, Shapes
from batcher.core.record import record
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.dispatch import Executed, Slice
from batcher.runtime.padding import Padding
from batcher.runtime.request import InferenceRequest
from batcher.runtime.workers import Worker
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

TIMED_BATCHES = 3
"""How often a batch of each size is timed, after one that is not."""

TIMED_NS = 1_000_000_000
"""A size that has taken so long already is not timed again."""

BUCKETS_NS = 10_000_000_000
"""The warm-up of a padded model begins with no further bucket after this; what is left out is
estimated from the others."""


@record
class WarmupPlan:
    """Rows of each warm-up batch, and the length to give to variable axes that are not padded."""

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
    shapes = zero_shapes(metadata.inputs, plan.length)
    return await _warm_up(worker, model, metadata, datatypes, plan.batch_sizes, shapes, TIMED_NS)


async def warm_up_buckets(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    datatypes: Mapping[str, str],
    plan: WarmupPlan,
    padding: Padding,
) -> tuple[tuple[Shapes, Profile], ...]:
    """The same for the buckets of a padded model, within `BUCKETS_NS` and one bucket more.

    The largest and the smallest come first: what lies between them can be estimated best.
    """
    buckets = padding.warm_buckets(plan.length)
    order = [*buckets[:-2:-1], *buckets[:-1]]
    timed_ns = TIMED_NS // len(order)
    profiles: list[tuple[Shapes, Profile]] = []
    began_ns = monotonic_ns()
    for bucket in order:
        if not plan.batch_sizes or monotonic_ns() - began_ns >= BUCKETS_NS:
            break
        profile = await _warm_up(
            worker, model, metadata, datatypes, plan.batch_sizes, bucket, timed_ns
        )
        profiles.append((bucket, profile))
    return tuple(profiles)


async def _warm_up(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    datatypes: Mapping[str, str],
    batch_sizes: Sequence[int],
    shapes: Shapes,
    timed_ns: int,
) -> Profile:
    profile: list[tuple[int, int]] = []
    for rows in batch_sizes:
        slices = [Slice(zeros(model, metadata.inputs, rows, shapes), 0, rows)]
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
                if sum(took_ns) >= timed_ns:
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


def zero_shapes(specs: Sequence[TensorSpec], length: int) -> Shapes:
    """The shapes of a request whose every variable axis has this length."""
    return tuple(tuple(length if size < 0 else size for size in spec.shape[1:]) for spec in specs)


def zeros(model: str, specs: Sequence[TensorSpec], rows: int, shapes: Shapes) -> InferenceRequest:
    """A request of zeros, or of empty texts, of those shapes; optional inputs are absent."""
    inputs = {
        spec.name: Tensor(spec.datatype, _zero_array(spec, (rows, *shape)))
        for spec, shape in zip(specs, shapes, strict=True)
        if not spec.optional
    }
    return InferenceRequest(model, inputs, arrival_ns=0)


def _zero_array(spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=np.object_)
    return np.zeros(shape, DTYPES[spec.datatype])
