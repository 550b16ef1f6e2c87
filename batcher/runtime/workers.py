"""One incarnation of an executor, and where its calls run.

A blocking `Executor` gets a thread of its own; an `AsyncExecutor` runs on the event loop. Beyond
this file nobody knows which.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from batcher.clock import Clock
from batcher.errors import ModelLoadError, describe, on_one_line
from batcher.executor import AsyncExecutor, Executor, LoadContext, ModelMetadata
from batcher.executors.threaded import ThreadedExecutor
from batcher.runtime.dispatch import LARGE_BATCH, Executed, Slice, blame, execute, execute_async
from batcher.runtime.layout import Layout
from batcher.runtime.nan import fail_nan_rows

log = logging.getLogger(__name__)

Done = Callable[[Executed], None]

HANDOVER_S = 0.002
"""How long the loop waits for an idle thread to begin with a batch. It takes a twentieth of that."""


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


class ThreadWorker:
    """A blocking executor on its own thread.

    After handing a batch to an idle thread the loop stands still until the executor has it. Else it
    would go on holding the interpreter, and on one core the processor: it has the last batch's
    answers to send, and the device would wait for that (1 ms for 32 answers).
    """

    queues = True

    def __init__(
        self,
        executor: Executor,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        fail_nan: bool = False,
    ) -> None:
        self._clock = clock
        self._fail_nan = fail_nan
        self._thread = ThreadedExecutor(executor, name, loop)
        self._any_rows = executor.capabilities.dynamic_rows
        self._full = 0
        self._ended: deque[Executed] = deque()  # on the thread, and not handed on by the loop yet
        self._abandoned = False
        self._in_hand = 0
        self.asks = _asks(executor)
        self.asked_ns = 0
        self._asked: asyncio.Future[object] | None = None

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the thread."""
        self._full = 0 if self._any_rows else context.max_batch_size
        return await self._thread.load(context)

    async def healthy(self, timeout_s: float) -> str:
        """Ask on the thread; a call that has not ended is not made a second time."""
        asked = self._asked
        if asked is None:
            asked = self._asked = asyncio.get_running_loop().create_future()
            self.asked_ns = self._clock()
            told = asked
            self._thread.submit(
                lambda executor: executor.healthy(),  # type: ignore[attr-defined] # see _asks
                lambda outcome: None if told.done() else told.set_result(outcome),
            )
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await asyncio.shield(asked)
        except TimeoutError:
            return _no_answer(timeout_s)
        self._asked = None
        self.asked_ns = 0
        return _verdict(outcome)

    def run(
        self,
        slices: Sequence[Slice],
        layout: Layout,
        done: Done,
        *,
        alone: bool = False,  # noqa: ARG002 - on one thread it always is
    ) -> None:
        """Execute on the thread."""
        begun = threading.Lock()
        begun.acquire()

        def ended(outcome: BaseException | None) -> None:
            self._in_hand -= 1
            done(self._ended.popleft() if outcome is None else _lost(outcome, self._clock))

        self._thread.submit(partial(self._execute, slices, layout, begun.release), ended)
        self._in_hand += 1
        if self._in_hand == 1:
            begun.acquire(timeout=HANDOVER_S)

    async def close(self, timeout_s: float) -> None:
        """Close on the thread and join it."""
        await self._thread.close(timeout_s)

    def abandon(self) -> None:
        """Leave the thread to its call."""
        # The thread sees the mark when its call returns, so one of the two releases each result,
        # and before the executor is closed.
        self._abandoned = True
        self._release_ended()
        self._thread.abandon()

    def _execute(
        self,
        slices: Sequence[Slice],
        layout: Layout,
        begun: Callable[[], None],
        executor: Executor,
    ) -> None:
        if self._full:
            layout = replace(layout, full=self._full)
        executed = execute(executor, slices, layout, self._clock, begun)
        if self._fail_nan:
            _check_nan(executed, layout, slices, self._clock)
        self._ended.append(executed)
        if self._abandoned:
            self._release_ended()

    def _release_ended(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._ended.popleft().release()


class LoopWorker:
    """A coroutine executor on the event loop."""

    queues = False

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
        self._name = name
        self._loop = loop
        self._clock = clock
        self._fail_nan = fail_nan
        self._tasks: set[asyncio.Task[Executed]] = set()
        self._to_close = False
        self._last: asyncio.Task[None] | None = None
        self._full = 0
        self._free = asyncio.Event()
        """Not set while a batch runs that has to run alone."""
        self._free.set()
        self._executing = 0
        self._quiet = asyncio.Event()
        """Set when the last of the batches that execute has ended."""
        self.asks = _asks(executor)
        self.asked_ns = 0  # a question that takes too long is cancelled

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the loop."""
        if not self._executor.capabilities.dynamic_rows:
            self._full = context.max_batch_size
        try:
            metadata = await self._executor.load(context)
        except Exception:
            raise
        except BaseException as error:
            if _given_up():
                raise
            raise ModelLoadError(
                f"model {context.model!r}: the executor could not load: {describe(error)}"
            ) from error
        self._to_close = True
        return metadata

    async def healthy(self, timeout_s: float) -> str:
        """Ask on the loop."""
        try:
            async with asyncio.timeout(timeout_s) as bound:
                return _verdict(await self._executor.healthy())  # type: ignore[attr-defined] # see _asks
        except BaseException as error:
            if _given_up():
                raise
            return _no_answer(timeout_s) if bound.expired() else _verdict(error)

    def run(
        self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool = False
    ) -> None:
        """Execute as a task."""
        call = self._alone(slices, layout) if alone else self._execute(slices, layout)
        task = self._loop.create_task(call, name=self._name)
        self._tasks.add(task)

        def ended(task: asyncio.Task[Executed]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                return  # before it began; a call that has begun ends with a result
            error = task.exception()
            executed = task.result() if error is None else _lost(error, self._clock)
            if self._last is None:
                done(executed)
            else:
                executed.release()

        task.add_done_callback(ended)

    async def _alone(self, slices: Sequence[Slice], layout: Layout) -> Executed:
        await self._free.wait()
        self._free.clear()
        try:
            while self._executing:
                self._quiet.clear()
                await self._quiet.wait()
            return await self._execute_now(slices, layout)
        finally:
            self._free.set()

    async def _execute(self, slices: Sequence[Slice], layout: Layout) -> Executed:
        while not self._free.is_set():
            await self._free.wait()
        return await self._execute_now(slices, layout)

    async def _execute_now(self, slices: Sequence[Slice], layout: Layout) -> Executed:
        if self._full:
            layout = replace(layout, full=self._full)
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
                await asyncio.to_thread(_check_nan, executed, layout, slices, self._clock)
            else:
                _check_nan(executed, layout, slices, self._clock)
        return executed

    async def close(self, timeout_s: float) -> None:
        """Wait for what runs, then close."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._end()
        except TimeoutError:
            self.abandon()
            raise TimeoutError(f"{self._name} did not close within {timeout_s:g} s") from None

    def abandon(self) -> None:
        """Cancel what runs, and close behind everybody's back."""
        if self._last is not None:
            return
        for task in self._tasks:
            task.cancel()
        self._last = self._loop.create_task(self._end(), name=f"{self._name} abandoned")

    async def _end(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)
        if not self._to_close:
            return
        self._to_close = False
        try:
            await self._executor.close()
        except BaseException:
            if _given_up():
                raise
            log.exception("%s: the executor raised when it was closed", self._name)


def _given_up() -> bool:
    """Whether somebody cancels the task that runs.

    What a plugin awaits is cancelled for other reasons, and then it has merely failed; and its
    `SystemExit` would end the event loop.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _asks(executor: Executor | AsyncExecutor) -> bool:
    """Whether an executor is one that `ReportsHealth`."""
    return callable(getattr(executor, "healthy", None))


def _verdict(outcome: object) -> str:
    """What an executor's `healthy` returned or raised, as why it is not well."""
    if outcome is None:
        return ""
    if isinstance(outcome, BaseException):
        return describe(outcome)
    if isinstance(outcome, str):
        return on_one_line(outcome)
    return f"healthy() returned {on_one_line(repr(outcome))}, not a text or None"


def _no_answer(timeout_s: float) -> str:
    return f"healthy() has not answered within {timeout_s:g} s"


def _check_nan(executed: Executed, layout: Layout, slices: Sequence[Slice], clock: Clock) -> None:
    """Note rows that hold NaN; a result in which they cannot be looked for has failed."""
    try:
        fail_nan_rows(executed, layout, slices)
    except Exception as error:  # noqa: BLE001 - arrays are a plugin's own
        executed.release()
        executed.result = None
        blame(executed, error, clock)


def _lost(error: BaseException, clock: Clock) -> Executed:
    """How a batch ended whose call raised what no call of ours should."""
    executed = Executed(clock())
    blame(executed, error, clock)
    return executed


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
