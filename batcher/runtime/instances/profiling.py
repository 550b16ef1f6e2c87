"""Measures the service times of an executor, loaded and warmed up as in the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from batcher.clock import SECOND, Clock
from batcher.errors import ModelLoadError, describe
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.worker import Worker, make_worker
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.sample import Sample, plain_shapes
from batcher.runtime.instances.warmup import run_batch, warm_up
from batcher.runtime.interface.layout import layout_of
from batcher.runtime.interface.row_axis import with_row_axes


async def measure(
    plan: InstancePlan,
    sizes: Sequence[int],
    repeats: int,
    clock: Clock,
    on_batch: Callable[[], None],
) -> dict[int, list[int]]:
    """Return rows -> the times of `repeats` batches of that size, in nanoseconds.

    Loads an instance of its own and executes one batch at a time. A time is from the start of the
    batch until its result is back on the event loop, as the scheduler measures it. Sizes alternate,
    so that a drift of the device affects all of them. `on_batch` is called after each batch. Raises
    `ModelLoadError`.
    """
    loop = asyncio.get_running_loop()
    worker = make_worker(plan.make_executor(), plan.name, loop, clock)
    try:
        measured = await _measure(worker, plan, sizes, repeats, clock, on_batch)
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
) -> dict[int, list[int]]:
    model = plan.context.model
    metadata = with_row_axes(await worker.load(plan.context), plan.context)
    layout = layout_of(metadata)
    warmup = replace(plan.warmup, batch_sizes=tuple(sizes))
    await warm_up(worker, model, metadata, layout, warmup)
    sample = Sample(model, metadata.inputs, warmup.inputs)
    shapes = plain_shapes(metadata.inputs, warmup.length)
    batches = {rows: [Slice(sample.request(rows, shapes), 0, rows)] for rows in sizes}
    measured: dict[int, list[int]] = {rows: [] for rows in sizes}
    for _ in range(repeats):
        for rows, slices in batches.items():
            began_ns = clock()
            executed = await run_batch(worker, slices, layout)
            measured[rows].append(clock() - began_ns)
            executed.release()
            if executed.result is None:
                raise ModelLoadError(f"{model}: a batch of {rows} rows failed: {executed.failure}")
            on_batch()
    return measured
