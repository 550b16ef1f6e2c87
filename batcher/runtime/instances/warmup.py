"""The first batches of an instance: they warm it up and give its first service times."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from statistics import median
from time import monotonic_ns

from batcher.core.events import Profile, Shapes
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import Worker
from batcher.runtime.instances.sample import DEFAULT_LENGTH, Sample, WarmupPlan, plain_shapes
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.padding_rules import Axis
from batcher.tensors import TensorSpec

log = logging.getLogger(__name__)


TIMED_BATCHES = 3
"""How often a batch of each size is timed, after one that is not."""


TIMED_NS = 1_000_000_000
"""A size that has taken so long already is not timed again."""


BUCKETS_NS = 10_000_000_000
"""The warm-up of a padded model begins with no further bucket after this; what is left out is
estimated from the others."""


async def warm_up(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
) -> Profile:
    """Execute batches of every size: the first warms up, the others are timed.

    The time of a size is the median, from handing the batch over until its result is back, as the
    scheduler will see it. Raises `ModelLoadError` when a batch fails, or when `plan.inputs` do not
    fit the model.
    """
    _check_length(model, metadata.inputs, plan, frozenset())
    sample = Sample(model, metadata.inputs, plan.inputs)
    shapes = plain_shapes(metadata.inputs, plan.length)
    return await _warm_up(worker, sample, layout, plan.batch_sizes, shapes, TIMED_NS)


async def warm_up_buckets(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
    padding: Padding,
) -> tuple[tuple[Shapes, Profile], ...]:
    """The same for the buckets of a padded model, within `BUCKETS_NS` and one bucket more.

    The largest and the smallest come first: what lies between them can be estimated best.
    """
    padded = frozenset((rule.input, rule.axis) for rule in padding.rules.axes)
    _check_length(model, metadata.inputs, plan, padded)
    sample = Sample(model, metadata.inputs, plan.inputs)
    buckets = padding.warm_buckets(plan.length, plan.inputs)
    order = [*buckets[:-2:-1], *buckets[:-1]]
    timed_ns = TIMED_NS // len(order)
    profiles: list[tuple[Shapes, Profile]] = []
    began_ns = monotonic_ns()
    for bucket in order:
        if not plan.batch_sizes or monotonic_ns() - began_ns >= BUCKETS_NS:
            break
        profile = await _warm_up(worker, sample, layout, plan.batch_sizes, bucket, timed_ns)
        profiles.append((bucket, profile))
    return tuple(profiles)


async def _warm_up(
    worker: Worker,
    sample: Sample,
    layout: Layout,
    batch_sizes: Sequence[int],
    shapes: Shapes,
    timed_ns: int,
) -> Profile:
    profile: list[tuple[int, int]] = []
    inner: dict[str, tuple[int, tuple[int, ...]]] = {}
    for rows in batch_sizes:
        slices = [Slice(sample.request(rows, shapes), 0, rows)]
        took_ns: list[int] = []
        for repeat in range(1 + TIMED_BATCHES):
            began_ns = monotonic_ns()
            executed = await run_batch(worker, slices, layout)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(sample.failed(rows, executed.failure, executed.cause))
            refused = executed.result.row_errors
            if refused and not repeat:
                log.warning("%s", sample.failed(rows, next(iter(refused.values()))))
            if layout.batched and not repeat:
                sample.check_rows(rows, executed.result, inner)
            if repeat:
                took_ns.append(monotonic_ns() - began_ns)
                if sum(took_ns) >= timed_ns:
                    break
        profile.append((rows, int(median(took_ns))))
    return tuple(profile)


async def run_batch(
    worker: Worker, slices: Sequence[Slice], layout: Layout, *, alone: bool = False
) -> ExecutedBatch:
    """Execute one batch and wait for its end; whoever gets the result owes its release."""
    future: asyncio.Future[ExecutedBatch] = asyncio.get_running_loop().create_future()

    def done(executed: ExecutedBatch) -> None:
        if future.cancelled():
            executed.release()
        else:
            future.set_result(executed)

    worker.run(slices, layout, done, alone=alone)
    return await future


async def run_canary(
    worker: Worker, metadata: ModelMetadata, plan: WarmupPlan, model: str, padding: Padding | None
) -> str:
    """Execute the smallest batch of the warm-up beside no other; returns why it failed, or nothing."""
    sample = Sample(model, metadata.inputs, plan.inputs)
    if padding is None:
        shapes = plain_shapes(metadata.inputs, plan.length)
    else:
        shapes = padding.warm_buckets(plan.length, plan.inputs)[0]
    rows = min(plan.batch_sizes)
    slices = [Slice(sample.request(rows, shapes), 0, rows)]
    executed = await run_batch(worker, slices, layout_of(metadata), alone=True)
    executed.release()
    return "" if executed.result is not None else executed.failure


def _check_length(
    model: str, specs: Sequence[TensorSpec], plan: WarmupPlan, padded: frozenset[Axis]
) -> None:
    """Raise `ModelLoadError` where a length is asked for and no axis of the warm-up takes one."""
    takes = any(
        size < 0 and (spec.name, axis) not in padded
        for spec in specs
        if not spec.optional or spec.name in plan.inputs
        for axis, size in enumerate(spec.inner, len(spec.shape) - len(spec.inner))
    )
    if plan.batch_sizes and plan.length != DEFAULT_LENGTH and not takes:
        raise ModelLoadError(
            f"model {model!r}: warmup.length: got {plan.length}; allowed: where an axis of an input"
            " varies that is not padded; here none does, so leave it out"
        )
