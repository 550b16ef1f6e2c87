"""The health checks of one incarnation: what is asked of its worker, and when that takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from batcher.clock import SECOND, Clock
from batcher.executor import ModelMetadata
from batcher.runtime.execution.worker import Worker
from batcher.runtime.instances.children import ChildWorker
from batcher.runtime.instances.health_checks import HealthChecks
from batcher.runtime.instances.plan import InstancePlan
from batcher.runtime.instances.warmup import run_test_batch
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padding

Hung = Callable[[str, int, str], None]
"""Called with what did not end, the nanoseconds that it had, and the setting that these follow from."""


def instance_checks(
    worker: Worker,
    metadata: ModelMetadata,
    layout: Layout,
    padding: Padding | None,
    plan: InstancePlan,
    clock: Clock,
    *,
    idle: Callable[[], bool],
    changed: Callable[[], None],
    hung: Hung,
    restart: Callable[[str], Awaitable[None]],
) -> HealthChecks:
    """The checks, not yet started.

    `hung` is called when a call does not return, `restart` when it was unhealthy for too long. A child process is asked also if its executor does not tell its health: one that has stopped is found
    while it is idle, and not by the next batch.
    """
    # A test batch waits for the running batch, which may take execute_timeout itself.
    timeout_ns, limit = 2 * plan.execute_timeout_ns, "twice execute_timeout"
    asked_ns, asked_limit = timeout_ns, limit
    if isinstance(worker, ChildWorker):
        asked_ns = plan.checks.interval_ns + plan.checks.timeout_ns
        asked_limit = "health.interval and health.timeout"

    async def ask() -> str:
        why = await worker.healthy(plan.checks.timeout_ns / SECOND)
        # A batch that runs comes before the answer, and has a time of its own.
        limit_ns, of = (asked_ns, asked_limit) if idle() else (timeout_ns, limit)
        if worker.asked_ns and clock() - worker.asked_ns > limit_ns:
            hung("a health check was not answered", limit_ns, of)
        return why

    async def test() -> str:
        try:
            async with asyncio.timeout(timeout_ns / SECOND):
                return await run_test_batch(
                    worker, metadata, layout, plan.warmup, plan.context.model, padding
                )
        except TimeoutError:
            hung("a test batch did not end", timeout_ns, limit)
            return f"it did not end within {timeout_ns / SECOND:g} s"

    return HealthChecks(
        plan.name,
        plan.checks,
        ask=ask if worker.asks or isinstance(worker, ChildWorker) else None,
        test=test if plan.warmup.batch_sizes else None,
        idle=idle,
        changed=changed,
        only_asked=not worker.asks,
        answered=lambda: not worker.asked_ns,
        restart=restart,
    )
