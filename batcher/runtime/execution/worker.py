"""The interface of a worker, and the choice of the one that an executor needs."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeAlias

from batcher.clock import Clock
from batcher.executor import AsyncExecutor, Capabilities, Executor, LoadContext, ModelMetadata
from batcher.executor.classes import ExecutorPath
from batcher.executors.isolated.hosted import ChildEnd
from batcher.runtime.execution.execute import Cancel, Done
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.inline_worker import InlineWorker
from batcher.runtime.execution.loop_worker import LoopWorker, WatchCall
from batcher.runtime.execution.process_worker import ProcessWorker
from batcher.runtime.execution.thread_worker import ThreadWorker
from batcher.runtime.interface.layout import Layout

Isolation: TypeAlias = Literal["inline", "thread", "process"]
"""Where the calls of a blocking executor run: on the event loop, on a thread, in a child process."""


class Worker(Protocol):
    """An executor that can be loaded, run and closed. Call every method on the event loop."""

    queues: bool
    """Whether batches run one after the other (True), or at the same time."""

    prefetches: bool
    """Whether it takes one batch more than runs, and begins it when the one before has ended: a thread
    does, and so does a backend of an executor that has several calls in flight."""

    overlaps: bool
    """Whether it may begin that one before: batches are pipelined, or the backend has it. Known once loaded."""

    @property
    def hangs(self) -> bool:
        """Whether it was abandoned, and a thread of this process is still in one of its calls."""
        ...

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model, once. Raises `ModelLoadError`, or what an async executor raises."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What its executor's class declares; of a child's, once it is loaded."""
        ...

    asks: bool
    """Whether its executor implements `ReportsHealth`."""

    watch: WatchCall | None
    """Its executor's `watch`, a coroutine function; None if it has none."""

    asked_ns: int
    """When the `healthy` call began that blocks its thread (nanoseconds); 0 if none does."""

    lost: Callable[[ChildEnd], None] | None
    """Called once when a child process is gone that was not told to end; set it after `load`.
    Its batches fail after that, unless the worker is abandoned in the call. A thread is never lost."""

    async def healthy(self, timeout_s: float) -> str:
        """Call the executor's `healthy`; returns why it is unhealthy, empty if healthy.

        Call it only while no batch runs.
        """
        ...

    def run(
        self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool = False
    ) -> Cancel:
        """Start one batch. `done` is called once on the event loop, however the batch ends.

        What it returns cancels the batch. A coroutine is cancelled, and `done` is called when it has
        ended; a batch that waits for a thread never begins. What a thread executes goes on.

        With `alone`, it runs at the same time as no other batch. Once the worker is abandoned,
        `done` is not called, and a result that still arrives is released here.
        """
        ...

    async def close(self, timeout_s: float) -> None:
        """Let the running batches end, then close the executor.

        Raises `TimeoutError` if that takes longer than `timeout_s` seconds; the worker is then
        abandoned. An exception of the executor's `close` is logged.
        """
        ...

    def abandon(self) -> None:
        """Give up a worker whose call hangs. The executor is closed if that call ever returns."""
        ...


def make_worker(
    executor: Executor | AsyncExecutor | ExecutorPath,
    name: str,
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
    *,
    fail_nan: bool = False,
    isolation: Isolation = "thread",
    max_in_flight: int = 1,
    pipelining: bool = True,
) -> Worker:
    """The worker for an executor that is to run where `isolation` says.

    As `process` a child makes an executor of the same class (`ProcessWorker`). Else, with coroutines it
    runs on the event loop (`LoopWorker`), and so it does as `inline`, or it runs on a thread.
    With `fail_nan`, rows whose outputs contain NaN count as failed. `pipelining`: whether the batches of
    an executor that implements `Pipelines` overlap. `max_in_flight` is the model's: a child does not load
    with more than its executor can run. Raises `ModelLoadError`.
    """
    if isinstance(executor, ExecutorPath) or isolation == "process":
        where = executor if isinstance(executor, ExecutorPath) else ExecutorPath.of(type(executor))
        return ProcessWorker(
            where.path,
            name,
            loop,
            clock,
            fail_nan=fail_nan,
            max_in_flight=max_in_flight,
            pipelining=pipelining,
        )
    if inspect.iscoroutinefunction(executor.execute):
        return LoopWorker(executor, name, loop, clock, fail_nan=fail_nan)  # type: ignore[arg-type] # Protocols differ in async only
    if isolation == "inline":
        return InlineWorker(executor, name, loop, clock, fail_nan=fail_nan)  # type: ignore[arg-type] # see above
    return ThreadWorker(executor, name, loop, clock, fail_nan=fail_nan, pipelining=pipelining)  # type: ignore[arg-type] # see above
