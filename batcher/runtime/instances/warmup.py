"""Executes the first batches of an instance, which warm it up and give its first service times."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from statistics import median
from time import monotonic_ns
from typing import TypeAlias

from batcher.core.events import UNTOLD, FailureCause, Profile, Shapes
from batcher.core.record import record
from batcher.errors import BackendUnavailable, ModelLoadError, OutOfMemory
from batcher.executor import ModelMetadata
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import Worker
from batcher.runtime.instances.sample import DEFAULT_LENGTH, Sample, WarmupPlan, plain_shapes
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padding
from batcher.runtime.interface.padding_rules import Axis
from batcher.tensors import TensorSpec

log = logging.getLogger(__name__)

Copies: TypeAlias = dict[Shapes, Profile]
"""By bucket, or for `()`: (rows, nanoseconds) of gathering a batch and copying it to its device."""


@record
class WarmupTimes:
    """Service times that the warm-up measured: of the model, or of each bucket if it is padded."""

    profile: Profile = ()
    buckets: tuple[tuple[Shapes, Profile], ...] = ()
    copies: tuple[tuple[Shapes, Profile], ...] = ()
    """Times of copying them, by bucket or for `()`, where batches are pipelined."""
    began_ns: int = 0
    """When it began."""


Turn: TypeAlias = Callable[[int], AbstractAsyncContextManager[bool]]
"""Makes the context in which a warm-up batch of so many rows runs, which has the device then. It gives whether others use
that, too: then one timed batch of each size has to do."""


def at_once(_rows: int) -> AbstractAsyncContextManager[bool]:
    """The context where no other uses the device."""
    return nullcontext(False)


TIMED_BATCHES = 3
"""Timed batches of each size, after one that is not timed."""


TIMED_NS = 1_000_000_000
"""Nanoseconds: after this much, a size is not timed again."""


BUCKETS_NS = 10_000_000_000
"""Nanoseconds after which the warm-up of a padded model starts no further bucket; the rest are
estimated from those measured."""


async def warm_up(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
    turn: Turn = at_once,
    copies: Copies | None = None,
) -> Profile:
    """Return the service time of each batch size, after a warm-up batch of that size.

    It is the median of the batch's own time on the instance, as the scheduler learns it. Where batches are
    pipelined, `copies` is filled with the times of gathering and copying them, under `()`. Raises
    `ModelLoadError` if a batch fails or if `plan.inputs` do not suit the model. Each batch runs within a
    context that `turn` makes.
    """
    _check_length(model, metadata.inputs, plan, frozenset())
    sample = Sample(model, metadata.inputs, plan.inputs)
    shapes = plain_shapes(metadata.inputs, plan.length)
    profile, copied = await _warm_up(
        worker, sample, layout, plan.batch_sizes, shapes, TIMED_NS, turn
    )
    _note(copies, (), copied)
    return profile


async def warm_up_buckets(
    worker: Worker,
    model: str,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
    padding: Padding,
    turn: Turn = at_once,
    copies: Copies | None = None,
) -> tuple[tuple[Shapes, Profile], ...]:
    """Return the service times of the buckets of a padded model, until `BUCKETS_NS` are over.

    Where batches are pipelined, `copies` is filled with the times of gathering and copying them. The
    largest and the smallest bucket are measured first, so that the others can be estimated.
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
        profile, copied = await _warm_up(
            worker, sample, layout, plan.batch_sizes, bucket, timed_ns, turn
        )
        profiles.append((bucket, profile))
        _note(copies, bucket, copied)
    return tuple(profiles)


async def _warm_up(
    worker: Worker,
    sample: Sample,
    layout: Layout,
    batch_sizes: Sequence[int],
    shapes: Shapes,
    timed_ns: int,
    turn: Turn,
) -> tuple[Profile, Profile]:
    """The times of batches, and of copying them where they are pipelined."""
    profile: list[tuple[int, int]] = []
    copies: list[tuple[int, int]] = []
    inner: dict[str, tuple[int, tuple[int, ...]]] = {}
    for rows in batch_sizes:
        slices = [Slice(sample.request(rows, shapes), 0, rows)]
        took_ns: list[int] = []
        copied_ns: list[int] = []
        for repeat in range(1 + TIMED_BATCHES):
            async with turn(rows) as shared:
                executed = await run_batch(worker, slices, layout)
                executed.release()
            if executed.result is None:
                raise load_error(executed.cause)(
                    sample.failed(rows, executed.failure, executed.cause)
                )
            refused = executed.result.row_errors
            if refused and not repeat:
                log.warning("%s", sample.failed(rows, next(iter(refused.values()))))
            if layout.batched and not repeat:
                sample.check_rows(rows, executed.result, inner)
            if repeat:
                took_ns.append(executed.own_ns)
                if executed.submitted_ns:
                    copied_ns.append(executed.submitted_ns - executed.started_ns)
                if sum(took_ns) + sum(copied_ns) >= timed_ns or shared:
                    break
        profile.append((rows, int(median(took_ns))))
        if copied_ns:
            copies.append((rows, int(median(copied_ns))))
    return tuple(profile), tuple(copies)


def _note(copies: Copies | None, bucket: Shapes, measured: Profile) -> None:
    if copies is not None and measured:
        copies[bucket] = measured


async def run_batch(
    worker: Worker, slices: Sequence[Slice], layout: Layout, *, alone: bool = False
) -> ExecutedBatch:
    """Execute one batch. The caller must release the result."""
    future: asyncio.Future[ExecutedBatch] = asyncio.get_running_loop().create_future()

    def done(executed: ExecutedBatch) -> None:
        if future.cancelled():
            executed.release()
        else:
            future.set_result(executed)

    worker.run(slices, layout, done, alone=alone)
    return await future


async def run_test_batch(
    worker: Worker,
    metadata: ModelMetadata,
    layout: Layout,
    plan: WarmupPlan,
    model: str,
    padding: Padding | None,
) -> str:
    """Execute the smallest warm-up batch, alone; returns why it failed, empty if it did not."""
    sample = Sample(model, metadata.inputs, plan.inputs)
    if padding is None:
        shapes = plain_shapes(metadata.inputs, plan.length)
    else:
        shapes = padding.warm_buckets(plan.length, plan.inputs)[0]
    rows = min(plan.batch_sizes)
    slices = [Slice(sample.request(rows, shapes), 0, rows)]
    executed = await run_batch(worker, slices, layout, alone=True)
    executed.release()
    return "" if executed.result is not None else executed.failure


def _check_length(
    model: str, specs: Sequence[TensorSpec], plan: WarmupPlan, padded: frozenset[Axis]
) -> None:
    """Raise `ModelLoadError` if `warmup.length` is set and no axis needs it."""
    takes = any(
        size < 0 and (spec.name, axis) not in padded
        for spec in specs
        if not spec.optional or spec.name in plan.inputs
        for axis, size in enumerate(spec.inner, len(spec.shape) - len(spec.inner))
    )
    if plan.batch_sizes and plan.length != DEFAULT_LENGTH and not takes:
        raise ModelLoadError(
            f"model {model!r}: warmup.length: got {plan.length}; allowed: a length only where an"
            " input has a variable axis that is not padded; this model has none, so leave it out"
        )


def load_error(cause: FailureCause) -> type[ModelLoadError]:
    """The error of a load whose warm-up failed for this cause."""
    if cause is FailureCause.MEMORY:
        return OutOfMemory
    # A backend that turns a batch away may take it later: the load is repeated.
    return BackendUnavailable if cause in UNTOLD else ModelLoadError
