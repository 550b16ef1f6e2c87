"""Measures the service times of an executor, loaded and warmed up as in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from batcher.clock import SECOND, Clock
from batcher.core.events import Shapes
from batcher.errors import ModelLoadError, describe
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import Worker
from batcher.runtime.instances.fitted_load import worker_of
from batcher.runtime.instances.load_attempt import LoadAttempt
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.sample import Sample, plain_shapes
from batcher.runtime.instances.warmup import at_once, run_batch, warm_up, warm_up_buckets
from batcher.runtime.interface.layout import Layout, layout_of
from batcher.runtime.interface.padding_rules import NOTHING_PADDED, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.row_axis import with_row_axes

Measured: TypeAlias = tuple[int | None, int, list[Slice]]
"""A batch that is measured: its bucket, its rows, what is in it."""


async def measure(
    plan: InstancePlan,
    sizes: Sequence[int],
    repeats: int,
    clock: Clock,
    on_batch: Callable[[], None],
    rules: PaddingRules = NOTHING_PADDED,
) -> dict[int | None, dict[int, list[int]]]:
    """Return bucket -> rows -> the times of `repeats` batches of that size, in nanoseconds.

    Loads an instance of its own and executes one batch at a time. A time is from the start of the
    batch until its result is back on the event loop, as in an idle server. Sizes alternate,
    so that a drift of the device affects all of them. `on_batch` is called after each batch.

    A bucket is named by the length of its longest padded axis; without padding there is one, None.
    Of several padded axes with different buckets, no more combinations are measured than by a warm-up.
    Raises `ModelLoadError`.
    """
    loop = asyncio.get_running_loop()
    worker = worker_of(replace(plan, fail_nan=False), loop, clock)
    try:
        measured = await _measure(worker, plan, sizes, repeats, clock, on_batch, rules)
    except ModelLoadError:
        worker.abandon()
        raise
    except Exception as error:
        worker.abandon()
        raise ModelLoadError(
            f"model {plan.context.model!r}: the executor could not load: {describe(error)}"
        ) from error
    await worker.close(plan.execute_timeout_ns / SECOND)
    return measured


async def _measure(
    worker: Worker,
    plan: InstancePlan,
    sizes: Sequence[int],
    repeats: int,
    clock: Clock,
    on_batch: Callable[[], None],
    rules: PaddingRules,
) -> dict[int | None, dict[int, list[int]]]:
    attempt = LoadAttempt(plan.context.model, plan.load_timeout_ns)
    async with attempt.bounded():
        layout, batches = await _warm(worker, plan, sizes, rules, attempt)
    model = plan.context.model
    measured: dict[int | None, dict[int, list[int]]] = {}
    for bucket, rows, _ in batches:
        measured.setdefault(bucket, {})[rows] = []
    for _ in range(repeats):
        for bucket, rows, slices in batches:
            began_ns = clock()
            executed = await run_batch(worker, slices, layout)
            measured[bucket][rows].append(clock() - began_ns)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(f"{model}: a batch of {rows} rows failed: {executed.failure}")
            on_batch()
    return measured


async def _warm(
    worker: Worker,
    plan: InstancePlan,
    sizes: Sequence[int],
    rules: PaddingRules,
    attempt: LoadAttempt,
) -> tuple[Layout, list[Measured]]:
    """Load and warm up; returns the layout of batches, and those to measure."""
    model = plan.context.model
    loaded = await worker.load(plan.context)
    most = loaded.max_batch_size
    if most is not None and max((plan.context.max_batch_size, *sizes)) > most:
        raise ModelLoadError(
            f"{model}: the executor's backend takes batches of at most {most} rows; allowed: sizes up to"
            f" that, and batching.max_batch_size: {most} in the configuration"
        )
    batch_sizes = plan.batch_sizes or loaded.batch_sizes
    if batch_sizes and max(sizes) > batch_sizes[-1]:
        known = ", ".join(map(str, batch_sizes))
        raise ModelLoadError(
            f"{model}: batches are executed with {known} rows; allowed: sizes up to the largest, and"
            f" batching.max_batch_size: {batch_sizes[-1]} in the configuration"
        )
    metadata = with_row_axes(loaded, plan.context, worker.capabilities)
    layout = replace(layout_of(metadata), batch_sizes=batch_sizes)
    warmup = replace(plan.warmup, batch_sizes=tuple(sizes))
    turn = attempt.turn(at_once)
    padding = resolve_padding(model, rules, metadata)
    buckets: dict[int | None, Shapes]
    if padding is None:
        await warm_up(worker, model, metadata, layout, warmup, turn)
        buckets = {None: plain_shapes(metadata.inputs, warmup.length)}
    else:
        await warm_up_buckets(worker, model, metadata, layout, warmup, padding, turn)
        buckets = {
            max(
                shapes[each.input][each.axis - 1] for each in padding.axes if shapes[each.input]
            ): shapes
            for shapes in padding.warm_buckets(warmup.length, warmup.inputs)
        }
    sample = Sample(model, metadata.inputs, warmup.inputs)
    return layout, [
        (bucket, rows, [Slice(sample.request(rows, shapes), 0, rows)])
        for bucket, shapes in buckets.items()
        for rows in sizes
    ]
