"""Runs an `AsyncExecutor` on the event loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from batcher.clock import Clock
from batcher.errors import ModelLoadError, describe
from batcher.executor import AsyncExecutor, LoadContext, ModelMetadata
from batcher.executors.isolated.hosted import ChildEnd
from batcher.runtime.execution.execute import (
    Cancel,
    Done,
    ExecutedBatch,
    call_failed,
    cancelled,
    execute_async,
)
from batcher.runtime.execution.gather import LARGE_BATCH, Slice
from batcher.runtime.execution.nan import check_nan
from batcher.runtime.execution.reports_health import health_reason, no_answer, reports_health
from batcher.runtime.interface.layout import Layout, LayoutFor

log = logging.getLogger(__name__)

WatchCall: TypeAlias = Callable[[Callable[[str], None]], Awaitable[object]]
"""The `watch` of an executor (`batcher.executor.Watches`)."""


class LoopWorker:
    """An async executor on the event loop."""

    queues = False
    hangs = False  # no thread is lost with a coroutine that does not end

    def __init__(
        self,
        executor: AsyncExecutor,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        fail_nan: bool = False,
    ) -> None:
        self._executor = executor
        self.prefetches = self.overlaps = executor.capabilities.max_in_flight > 1
        self._name = name
        self._loop = loop
        self._clock = clock
        self._fail_nan = fail_nan
        self._tasks: set[asyncio.Task[ExecutedBatch]] = set()
        self._loading: asyncio.Task[ModelMetadata | BaseException] | None = None
        self._to_close = False
        self._last: asyncio.Task[None] | None = None
        self._fitted = LayoutFor(executor.capabilities)
        self._free = asyncio.Event()
        """Clear while a batch runs alone."""
        self._free.set()
        self._executing = 0
        self._quiet = asyncio.Event()
        """Set when no batch executes."""
        self.capabilities = executor.capabilities
        self.asks = reports_health(executor)
        self.lost: Callable[[ChildEnd], None] | None = None
        watch = getattr(executor, "watch", None)
        self.watch: WatchCall | None = watch if inspect.iscoroutinefunction(watch) else None
        self.asked_ns = 0  # a call that takes too long is cancelled, so none blocks

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the event loop. If this is cancelled, the call is, too, and not waited for."""
        self._fitted.loaded(context.max_batch_size)
        call = self._loading = self._loop.create_task(self._load(context), name=self._name)
        try:
            await asyncio.wait((call,))
        except asyncio.CancelledError:
            call.cancel()
            raise
        outcome = call.result()
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, BaseException):
            raise ModelLoadError(
                f"model {context.model!r}: the executor could not load: {describe(outcome)}"
            ) from outcome
        return outcome

    async def _load(self, context: LoadContext) -> ModelMetadata | BaseException:
        try:
            metadata = await self._executor.load(context)
        except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit must not end the event loop
            return error
        self._to_close = True
        return metadata

    async def healthy(self, timeout_s: float) -> str:
        """Call `healthy` on the event loop."""
        try:
            async with asyncio.timeout(timeout_s) as bound:
                return health_reason(await self._executor.healthy())  # type: ignore[attr-defined] # see reports_health
        except BaseException as error:
            if _is_cancelled():
                raise
            return no_answer(timeout_s) if bound.expired() else health_reason(error)

    def run(
        self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool = False
    ) -> Cancel:
        """Execute as a task."""
        call = self._alone(slices, layout) if alone else self._execute(slices, layout)
        task = self._loop.create_task(call, name=self._name)
        self._tasks.add(task)

        def ended(task: asyncio.Task[ExecutedBatch]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # before it began; a call that has begun returns an ExecutedBatch
                executed = cancelled(self._clock)
            else:
                error = task.exception()
                executed = task.result() if error is None else call_failed(error, self._clock)
            if self._last is None:
                done(executed)
            else:
                executed.release()

        task.add_done_callback(ended)
        return task.cancel

    async def _alone(self, slices: Sequence[Slice], layout: Layout) -> ExecutedBatch:
        await self._free.wait()
        self._free.clear()
        try:
            while self._executing:
                self._quiet.clear()
                await self._quiet.wait()
            return await self._execute_now(slices, layout)
        finally:
            self._free.set()

    async def _execute(self, slices: Sequence[Slice], layout: Layout) -> ExecutedBatch:
        while not self._free.is_set():
            await self._free.wait()
        return await self._execute_now(slices, layout)

    async def _execute_now(self, slices: Sequence[Slice], layout: Layout) -> ExecutedBatch:
        layout = self._fitted(layout)
        self._executing += 1
        try:
            executed = await execute_async(self._executor, slices, layout, self._clock)
        finally:
            self._executing -= 1
            if not self._executing:
                self._quiet.set()
        if self._fail_nan:
            outputs = executed.result.outputs if executed.result is not None else {}
            nbytes = sum(getattr(array, "nbytes", 0) for array in outputs.values())
            if nbytes > LARGE_BATCH:
                await asyncio.to_thread(check_nan, executed, layout, slices, self._clock)
            else:
                check_nan(executed, layout, slices, self._clock)
        executed.ended_ns = self._clock()
        return executed

    async def close(self, timeout_s: float) -> None:
        """Wait for the running batches, then close."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._end()
        except TimeoutError:
            self.abandon()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s") from None

    def abandon(self) -> None:
        """Cancel the running batches, and close when they end."""
        if self._last is not None:
            return
        for task in self._tasks:
            task.cancel()
        self._last = self._loop.create_task(self._end(), name=f"{self._name} abandoned")

    async def _end(self) -> None:
        calls = self._tasks if self._loading is None else {*self._tasks, self._loading}
        if calls:
            await asyncio.wait(calls)
        if not self._to_close:
            return
        self._to_close = False
        try:
            await self._executor.close()
        except BaseException:
            if _is_cancelled():
                raise
            log.exception(
                "%s: the executor's close() raised; the instance is gone all the same", self._name
            )


def _is_cancelled() -> bool:
    """Whether the running task itself is being cancelled.

    A `CancelledError` may also come from something that the plugin awaits, which is a failure; and
    a plugin's `SystemExit` must not end the event loop.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
