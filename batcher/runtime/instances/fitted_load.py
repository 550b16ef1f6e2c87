"""Loads an executor for the batches that it and the configuration agree on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from batcher.clock import SECOND, Clock
from batcher.config import ExecutorBatches
from batcher.errors import ModelLoadError
from batcher.executor import ModelMetadata
from batcher.executor.classes import ExecutorPath
from batcher.runtime.execution.worker import Worker, make_worker
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.interface.declared import check_executor


def worker_of(plan: InstancePlan, loop: asyncio.AbstractEventLoop, clock: Clock) -> Worker:
    """A worker with a new executor, not yet loaded.

    Raises `ModelLoadError` for an executor that cannot run as configured; a child says so when it loads.
    """
    executor = plan.make_executor()
    if not isinstance(executor, ExecutorPath):
        check_executor(executor, plan.context.model, plan.isolation, plan.max_in_flight)
    return make_worker(
        executor,
        plan.name,
        loop,
        clock,
        fail_nan=plan.fail_nan,
        isolation=plan.isolation,
        max_in_flight=plan.max_in_flight,
        pipelining=plan.pipelining,
    )


async def load_fitted(
    plan: InstancePlan, make: Callable[[], Worker]
) -> tuple[Worker, ModelMetadata, InstancePlan]:
    """A worker with a loaded executor, what it returned, and the plan that fits its batches.

    What batches it takes is known when it is loaded. Where its context said another `max_batch_size`,
    another executor is loaded with that. Raises what the load raises, and `ModelLoadError` where the
    configuration asks for batches that it cannot execute.
    """
    for last in (False, True):
        worker = make()
        try:
            metadata = await worker.load(plan.context)
            capabilities = worker.capabilities
            fitted = plan
            if plan.fit is not None:
                fitted = plan.fit(_batches(metadata, full=not capabilities.dynamic_rows))
                # Buckets may have changed in place since the configuration was read.
                context = replace(fitted.context, buckets=plan.context.buckets)
                fitted = replace(fitted, context=context)
            sizes = plan.context.max_batch_size, fitted.context.max_batch_size
            if sizes[0] == sizes[1]:
                if not capabilities.dynamic_rows and sizes[0] and not metadata.batch_sizes:
                    metadata = replace(metadata, batch_sizes=(sizes[0],))
                known = fitted.batch_sizes or metadata.batch_sizes
                return worker, metadata, replace(fitted, fit=plan.fit, batch_sizes=known)
            await worker.close(plan.execute_timeout_ns / SECOND)
        except BaseException:
            worker.abandon()
            raise
        if last:
            break
        plan = replace(fitted, fit=plan.fit)
    raise ModelLoadError(
        f"{plan.context.model}: the executor's backend says another max_batch_size each time:"
        f" {sizes[0]}, then {sizes[1]}"
    )


def _batches(metadata: ModelMetadata, *, full: bool) -> ExecutorBatches:
    return ExecutorBatches(
        metadata.max_batch_size, metadata.preferred_batch_sizes, metadata.batch_sizes, full
    )
