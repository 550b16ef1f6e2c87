"""What every worker offers, and the choice between thread and event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Protocol

from batcher.clock import Clock
from batcher.executor import AsyncExecutor, Executor, LoadContext, ModelMetadata
from batcher.runtime.execution.execute import Done
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.loop_worker import LoopWorker
from batcher.runtime.execution.thread_worker import ThreadWorker
from batcher.runtime.interface.layout import Layout


class Worker(Protocol):
    """An executor that can be loaded, run and closed; every method is called on the loop.

    `queues` says whether a batch that it gets while it executes waits until that is over.
    """

    queues: bool

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model, once. Raises `ModelLoadError`, or what a coroutine executor raises."""
        ...

    asks: bool
    """Whether its executor says by itself how it is."""

    asked_ns: int
    """Since when it has been asked without an answer, on a thread that does nothing else meanwhile; 0 where
    it has answered."""

    async def healthy(self, timeout_s: float) -> str:
        """Ask the executor; returns why it is not well, empty where it is. Only while no batch runs."""
        ...

    def run(
        self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool = False
    ) -> None:
        """Execute one batch. `done` is called on the loop, once, however the batch ends.

        With `alone` it runs beside no other, whatever the executor can take at once.

        The exception: once the worker is abandoned, `done` is never called, and a result that
        comes late is released here.
        """
        ...

    async def close(self, timeout_s: float) -> None:
        """Let the running batches end, close the executor, free everything.

        Raises TimeoutError when that takes longer than `timeout_s` seconds; the worker is then
        abandoned. What the executor's `close` raises is logged.
        """
        ...

    def abandon(self) -> None:
        """Wait for nothing any more: a call hangs. The executor is closed if ever that ends."""
        ...


def make_worker(
    executor: Executor | AsyncExecutor,
    name: str,
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
    *,
    fail_nan: bool = False,
) -> Worker:
    """The worker for an executor, by the kind of its `execute`.

    With `fail_nan`, rows of an answer that hold NaN count as failed.
    """
    if inspect.iscoroutinefunction(executor.execute):
        return LoopWorker(executor, name, loop, clock, fail_nan=fail_nan)  # type: ignore[arg-type] # Protocols differ in async only
    return ThreadWorker(executor, name, loop, clock, fail_nan=fail_nan)  # type: ignore[arg-type] # see above
