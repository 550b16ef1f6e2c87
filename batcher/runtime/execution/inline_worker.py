"""Runs a blocking `Executor` on the event loop: for rules and glue that take microseconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from batcher.clock import SECOND, Clock
from batcher.executor import Executor, LoadContext, ModelMetadata
from batcher.executors.input_buffers import InputBuffers, input_buffers
from batcher.executors.isolated.hosted import ChildEnd
from batcher.executors.threaded import ThreadedExecutor
from batcher.runtime.execution.execute import Cancel, Done, call_failed, cancelled, execute
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.loop_worker import WatchCall
from batcher.runtime.execution.nan import check_nan
from batcher.runtime.execution.reports_health import health_reason, no_answer, reports_health
from batcher.runtime.interface.layout import Layout, LayoutFor


class InlineWorker:
    """A blocking executor whose batches are executed on the event loop, without a thread between.

    `load` and `close` may take long, so a thread makes these two calls. No batch can be cut short:
    while it runs, nothing else does.
    """

    queues = True
    prefetches = False  # a batch has ended before another could begin
    overlaps = False

    def __init__(
        self,
        executor: Executor,
        name: str,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        *,
        fail_nan: bool = False,
    ) -> None:
        self._executor = executor
        self._loop = loop
        self._clock = clock
        self._fail_nan = fail_nan
        self._thread = ThreadedExecutor(executor, name, loop)
        self._fitted = LayoutFor(executor.capabilities)
        self._buffers: InputBuffers | None = None
        self._waiting = 0
        self._none_waits = asyncio.Event()
        self._none_waits.set()
        self._abandoned = False
        self.capabilities = executor.capabilities
        self.asks = reports_health(executor)
        self.lost: Callable[[ChildEnd], None] | None = None
        self.watch: WatchCall | None = None  # a coroutine, and this executor has none
        self.asked_ns = 0  # no call goes on after `healthy` has returned

    async def load(self, context: LoadContext) -> ModelMetadata:
        """Load on the thread."""
        self._fitted.loaded(context.max_batch_size)
        metadata = await self._thread.load(context)
        self._buffers = input_buffers(self._executor, context.max_batch_size)
        return metadata

    @property
    def hangs(self) -> bool:
        """Whether `load` or `close` still runs on the thread that was abandoned."""
        return self._thread.hangs

    async def healthy(self, timeout_s: float) -> str:
        """Call `healthy`; one that has taken too long counts as unhealthy."""
        began_ns = self._clock()
        outcome: object
        try:
            outcome = self._executor.healthy()  # type: ignore[attr-defined] # see reports_health
        except BaseException as error:  # noqa: BLE001 - a plugin's SystemExit must not end the event loop
            outcome = error
        if self._clock() - began_ns > timeout_s * SECOND:
            return no_answer(timeout_s)
        return health_reason(outcome)

    def run(
        self,
        slices: Sequence[Slice],
        layout: Layout,
        done: Done,
        *,
        alone: bool = False,  # noqa: ARG002 - batches run one after the other
    ) -> Cancel:
        """Execute in an iteration of the event loop of its own, so that others come in between."""
        turn = [slices]
        self._waiting += 1
        self._none_waits.clear()
        self._loop.call_soon(self._execute, turn, layout, done)

        def cancel() -> bool:
            if not turn:
                return False
            turn.clear()
            return True

        return cancel

    async def close(self, timeout_s: float) -> None:
        """Let the batches that wait be executed, then close on the thread."""
        await self._none_waits.wait()
        self._drop_buffers()
        await self._thread.close(timeout_s)

    def abandon(self) -> None:
        """Execute nothing more, and close on the thread."""
        self._abandoned = True
        self._drop_buffers()
        self._thread.abandon()

    def _execute(self, turn: list[Sequence[Slice]], layout: Layout, done: Done) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._none_waits.set()
        if self._abandoned:
            return
        if not turn:
            done(cancelled(self._clock))
            return
        slices = turn.pop()
        try:
            layout = self._fitted(layout)
            executed = execute(self._executor, slices, layout, self._clock, _nothing, self._buffers)
            if self._fail_nan:
                check_nan(executed, layout, slices, self._clock)
            executed.ended_ns = self._clock()
        except BaseException as error:  # noqa: BLE001 - else its requests would wait for ever
            executed = call_failed(error, self._clock)
        done(executed)

    def _drop_buffers(self) -> None:
        if self._buffers is not None:
            self._buffers.clear()


def _nothing() -> None:
    """For `begun`: no thread is waited for."""
