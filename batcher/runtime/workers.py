"""One incarnation of an executor, and where its calls run.

A blocking `Executor` gets a thread of its own; an `AsyncExecutor` runs on the event loop. Beyond
this file nobody knows which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from batcher.clock import Clock
from batcher.core.events import FailureCause
from batcher.executor import AsyncExecutor, Executor, LoadContext, ModelMetadata
from batcher.executors.threaded import ThreadedExecutor
from batcher.runtime.dispatch import Executed, Slice, blame, check, execute, gather

Done = Callable[[Executed], None]


class Worker(Protocol):
    """An executor that can be loaded, run and closed; every method is called on the loop."""

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load the model. Raises `ModelLoadError`."""
        ...

    def run(self, slices: Sequence[Slice], datatypes: Mapping[str, str], done: Done) -> None:
        """Execute one batch; `done` is called on the loop, whatever happens."""
        ...

    async def close(self, timeout_s: float) -> None:
        """Free everything; a call that hangs is left behind after `timeout_s` seconds."""
        ...

    def abandon(self) -> None:
        """Never wait for it again: a call hangs."""
        ...


class ThreadWorker:
    """A blocking executor on its own thread."""

    def __init__(
        self, executor: Executor, name: str, loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        self._clock = clock
        self._thread = ThreadedExecutor(executor, name, loop)

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the thread."""
        return await self._thread.load(context)

    def run(self, slices: Sequence[Slice], datatypes: Mapping[str, str], done: Done) -> None:
        """Execute on the thread."""
        clock = self._clock
        self._thread.submit(
            lambda executor: execute(executor, slices, datatypes, clock),
            lambda outcome: done(self._executed(outcome)),
        )

    async def close(self, timeout_s: float) -> None:
        """Close on the thread and join it."""
        await self._thread.close(timeout_s)

    def abandon(self) -> None:
        """Leave the thread to its call."""
        self._thread.abandon()

    def _executed(self, outcome: Executed | BaseException) -> Executed:
        if isinstance(outcome, Executed):
            return outcome
        executed = Executed(self._clock())
        blame(executed, outcome)
        executed.cause = FailureCause.DEVICE
        return executed


class LoopWorker:
    """A coroutine executor on the event loop."""

    def __init__(
        self, executor: AsyncExecutor, loop: asyncio.AbstractEventLoop, clock: Clock
    ) -> None:
        self._executor = executor
        self._loop = loop
        self._clock = clock
        self._tasks: set[asyncio.Task[Executed]] = set()

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the loop."""
        return await self._executor.load(context)

    def run(self, slices: Sequence[Slice], datatypes: Mapping[str, str], done: Done) -> None:
        """Execute as a task."""
        task = self._loop.create_task(self._execute(slices, datatypes))
        self._tasks.add(task)

        def finished(task: asyncio.Task[Executed]) -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                done(task.result())

        task.add_done_callback(finished)

    async def close(self, timeout_s: float) -> None:
        """Wait for what runs, then close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self.abandon()
        await self._executor.close()

    def abandon(self) -> None:
        """Cancel what runs."""
        for task in self._tasks:
            task.cancel()

    async def _execute(self, slices: Sequence[Slice], datatypes: Mapping[str, str]) -> Executed:
        executed = Executed(self._clock())
        try:
            batch = gather(slices)
            executed.execute_start_ns = self._clock()
            result = await self._executor.execute(batch)
            executed.execute_end_ns = self._clock()
            check(result, batch, datatypes)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            executed.execute_end_ns = executed.execute_end_ns or self._clock()
            blame(executed, error)
        else:
            executed.result = result
        return executed


def make_worker(
    executor: Executor | AsyncExecutor,
    name: str,
    loop: asyncio.AbstractEventLoop,
    clock: Clock,
) -> Worker:
    """The worker for an executor, by the kind of its `execute`."""
    if asyncio.iscoroutinefunction(executor.execute):
        return LoopWorker(executor, loop, clock)  # type: ignore[arg-type] # Protocols differ in async only
    return ThreadWorker(executor, name, loop, clock)  # type: ignore[arg-type] # see above
