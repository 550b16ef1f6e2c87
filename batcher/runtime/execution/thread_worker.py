"""Runs a blocking `Executor` on a thread of its own, or on two where its batches are pipelined."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from batcher.clock import Clock
from batcher.executor import Executor, LoadContext, ModelMetadata
from batcher.executors.input_buffers import InputBuffers, input_buffers
from batcher.executors.isolated.hosted import ChildEnd
from batcher.executors.threaded import ThreadedExecutor
from batcher.runtime.execution.execute import (
    Cancel,
    Done,
    ExecutedBatch,
    call_failed,
    cancelled,
    execute,
)
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.loop_worker import WatchCall
from batcher.runtime.execution.nan import check_nan
from batcher.runtime.execution.pipelining import (
    MOST_SUBMITTED,
    Collector,
    Submitted,
    collect,
    pipelines,
    submit,
)
from batcher.runtime.execution.reports_health import health_reason, no_answer, reports_health
from batcher.runtime.interface.layout import Layout, LayoutFor

START_TIMEOUT_S = 0.002
"""Seconds that the event loop waits for an idle thread to call the executor; it takes 0.1 ms."""


class _Skipped:
    """The outcome of a batch that was cancelled before the thread came to it."""


class _Submitted:
    """The outcome of the first half of a batch whose end the collector reports."""


class ThreadWorker:
    """A blocking executor on its own thread.

    After it gives a batch to an idle thread, the event loop waits until the executor has it.
    Otherwise the loop would keep the interpreter (and on one core the processor) to send the
    previous batch's replies, while the device waits: 1 ms for 32 replies.
    """

    queues = True
    prefetches = True

    def __init__(
        self,
        executor: Executor,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        fail_nan: bool = False,
        pipelining: bool = True,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._fail_nan = fail_nan
        self._executor = executor
        self._pipelining = pipelining
        self._collector = Collector(f"{name} collector", self._collect)
        self._free_ns = 0
        """When the batch that was collected last ended; the collector's own."""
        self._thread = ThreadedExecutor(executor, name, loop, self._before_close)
        self._fitted = LayoutFor(executor.capabilities)
        self._buffers: InputBuffers | None = None
        self._ended: deque[ExecutedBatch] = deque()  # executed, and not yet passed to `done`
        self._abandoned = False
        self._submitted = 0
        self.overlaps = False
        self.capabilities = executor.capabilities
        self.asks = reports_health(executor)
        self.lost: Callable[[ChildEnd], None] | None = None
        self.watch: WatchCall | None = None  # a coroutine, and this executor has no event loop
        self.asked_ns = 0
        self._asked: asyncio.Future[object] | None = None

    @property
    def hangs(self) -> bool:
        """Whether it was abandoned, and its thread is still in a call."""
        return self._thread.hangs

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the thread."""
        self._fitted.loaded(context.max_batch_size)
        metadata = await self._thread.load(context)
        self._buffers = input_buffers(self._executor, context.max_batch_size)
        self._pipelining = self.overlaps = self._pipelining and pipelines(self._executor)
        return metadata

    async def healthy(self, timeout_s: float) -> str:
        """Call `healthy` on the thread; a call that has not returned is not repeated."""
        asked = self._asked
        if asked is None:
            asked = self._asked = asyncio.get_running_loop().create_future()
            self.asked_ns = self._clock()
            answered = asked
            self._thread.submit(
                lambda executor: executor.healthy(),  # type: ignore[attr-defined] # see reports_health
                lambda outcome: None if answered.done() else answered.set_result(outcome),
            )
        try:
            async with asyncio.timeout(timeout_s):
                outcome = await asyncio.shield(asked)
        except TimeoutError:
            return no_answer(timeout_s)
        self._asked = None
        self.asked_ns = 0
        return health_reason(outcome)

    def run(
        self,
        slices: Sequence[Slice],
        layout: Layout,
        done: Done,
        *,
        alone: bool = False,
    ) -> Cancel:
        """Execute on the thread."""
        begun = threading.Lock()
        begun.acquire()
        # What takes the one element decides: the thread executes the batch, or it is cancelled.
        turn = [slices]

        def ended(outcome: BaseException | _Skipped | _Submitted | None) -> None:
            if isinstance(outcome, _Submitted):
                return
            self._submitted -= 1
            if outcome is None:
                done(self._ended.popleft())
            elif not isinstance(outcome, _Skipped):
                done(call_failed(outcome, self._clock))

        job: Callable[[Executor], _Skipped | _Submitted | None]
        if self._pipelining:
            places = MOST_SUBMITTED if alone else 1
            job = partial(self._submit, turn, layout, begun.release, ended, places)
        else:
            job = partial(self._execute, turn, layout, begun.release)
        self._thread.submit(job, ended)
        self._submitted += 1
        if self._submitted == 1:
            begun.acquire(timeout=START_TIMEOUT_S)

        def cancel() -> bool:
            try:
                turn.pop()
            except IndexError:
                return False
            self._loop.call_soon(lambda: None if self._abandoned else done(cancelled(self._clock)))
            return True

        return cancel

    async def close(self, timeout_s: float) -> None:
        """Close on the thread and join it; the batches that were started end before."""
        try:
            await self._thread.close(timeout_s)
        except TimeoutError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Abandon the thread that hangs."""
        # The thread checks this flag when its call returns, so each result is released once, here or
        # there, and before the executor is closed.
        self._abandoned = True
        self._release_ended()
        self._thread.abandon()
        self._collector.abandon()

    def _execute(
        self,
        turn: list[Sequence[Slice]],
        layout: Layout,
        begun: Callable[[], None],
        executor: Executor,
    ) -> _Skipped | None:
        try:
            slices = turn.pop()
        except IndexError:
            return _Skipped()
        layout = self._fitted(layout)
        executed = execute(executor, slices, layout, self._clock, begun, self._buffers)
        self._end(executed, layout, slices)
        return None

    def _submit(
        self,
        turn: list[Sequence[Slice]],
        layout: Layout,
        begun: Callable[[], None],
        ended: Callable[[BaseException | None], None],
        places: int,
        executor: Executor,
    ) -> _Skipped | _Submitted:
        try:
            slices = turn.pop()
        except IndexError:
            return _Skipped()
        self._collector.start()
        started = ExecutedBatch(self._clock())
        submitted = Submitted(started, slices, self._fitted(layout), ended, places)
        submit(executor, submitted, self._collector, self._clock, begun, self._buffers)  # type: ignore[arg-type] # see `pipelines`
        # Also where it failed: batches end in the order in which they came.
        self._collector.put(submitted)
        return _Submitted()

    def _collect(self, submitted: Submitted) -> None:
        executed, outcome = submitted.executed, None
        try:
            collect(self._executor, submitted, self._collector, self._clock, self._free_ns)  # type: ignore[arg-type] # see `pipelines`
            self._free_ns = executed.execute_end_ns
            self._end(executed, submitted.layout, submitted.slices)
        except BaseException as error:  # noqa: BLE001 - else the request would wait for ever
            outcome = error
        self._thread.report(submitted.ended, outcome)

    def _end(self, executed: ExecutedBatch, layout: Layout, slices: Sequence[Slice]) -> None:
        """Check a batch's values, and keep it for the event loop; on the thread that executed it."""
        if self._fail_nan:
            check_nan(executed, layout, slices, self._clock)
        executed.ended_ns = self._clock()
        self._ended.append(executed)
        if self._abandoned:
            self._release_ended()

    def _before_close(self) -> None:
        """End all that was submitted: an executor is closed when neither thread is in a call."""
        self._collector.end()
        if self._buffers is not None:
            self._buffers.clear()

    def _release_ended(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._ended.popleft().release()
