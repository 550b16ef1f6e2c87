"""Executes batches in two halves: `submit` on the instance's thread, `collect` on a second one.

While a batch computes, the next one is gathered, copied to the device and started behind it:

    instance's thread   gather 1 | submit 1 | gather 2 | submit 2 |          | gather 3 | submit 3
    collector                               | collect 1 ....................| collect 2 ..........
    device                                  | batch 1 ......................| batch 2 ............

The batch that computes and the one behind it are all that is submitted at a time. Nothing here raises
what an executor raises: a failure is an `ExecutedBatch` without a result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

from batcher.clock import Clock
from batcher.executor import Batch, Executor, Pipelines
from batcher.executors.input_buffers import BatchBuffers, InputBuffers
from batcher.runtime.execution.execute import (
    ExecutedBatch,
    check_result,
    copied_if_reused,
    set_failure,
)
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.interface.layout import Layout

MOST_SUBMITTED: Final = 2
"""Batches that are submitted and not collected: one computes, one is copied in."""


@dataclass(slots=True)
class Submitted:
    """A batch between its halves; one whose first half failed has no `batch`."""

    executed: ExecutedBatch
    slices: Sequence[Slice]
    layout: Layout
    ended: Callable[[BaseException | None], None]
    """Reports its end on the event loop."""
    places: int = 1
    """Of `MOST_SUBMITTED`; all of them for a batch that runs beside no other."""
    batch: Batch | None = None
    handle: Any = None
    buffers: BatchBuffers | None = None
    """What it is gathered into, in use until it is collected."""

    def give_back(self) -> None:
        """Let other batches have its buffers: no call reads them any more."""
        if self.buffers is not None:
            self.buffers.give_back()
            self.buffers = None


class Collector:
    """The second thread of an instance: passes what was submitted to `collect`, in order.

    `collect` must not raise. Every method is called on the instance's thread, but for `abandon`.
    """

    def __init__(self, name: str, collect: Callable[[Submitted], None]) -> None:
        self._collect = collect
        self._submitted: SimpleQueue[Submitted | None] = SimpleQueue()
        self._room = threading.Semaphore(MOST_SUBMITTED)
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread, unless it runs. Raises `RuntimeError` where there can be no more threads."""
        if self._thread.ident is None:
            self._thread.start()

    def take_places(self, count: int) -> None:
        """Wait until so many of `MOST_SUBMITTED` places are free; raises `RuntimeError` once abandoned."""
        for taken in range(1, count + 1):
            self._room.acquire()
            if self._abandoned:
                self._room.release(taken)
                raise RuntimeError("the instance was abandoned")

    def leave_places(self, count: int) -> None:
        """Give places back. Called once for each `take_places`, on either thread."""
        self._room.release(count)

    def put(self, submitted: Submitted) -> None:
        """Have a batch collected, after those before it."""
        self._submitted.put(submitted)

    def abandon(self) -> None:
        """Let a `take_places` return that waits for a call which hangs."""
        self._abandoned = True
        self._room.release()

    def end(self) -> None:
        """Wait until all that was put is collected; the thread has ended then."""
        if self._thread.ident is not None:
            self._submitted.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (submitted := self._submitted.get()) is not None:
            self._collect(submitted)
            # Otherwise this frame would keep a batch's arrays until the next batch.
            del submitted


def submit(
    executor: Pipelines,
    submitted: Submitted,
    collector: Collector,
    clock: Clock,
    begun: Callable[[], None],
    buffers: InputBuffers | None = None,
) -> None:
    """Gather a batch and submit it; call it on the instance's thread. Never raises.

    `begun` is called just before the executor is called, and not if gathering fails. `buffers` are
    the executor's, if it allocates the memory of its inputs.
    """
    executed = submitted.executed
    try:
        collector.take_places(submitted.places)
        try:
            executed.started_ns = clock()
            if buffers is not None:
                submitted.buffers = buffers.lend()
            batch = gather(submitted.slices, submitted.layout, submitted.buffers)
            executed.execute_start_ns = clock()
            begun()
            submitted.handle = executor.submit(batch)
            executed.submitted_ns = clock()
            submitted.batch = batch
        except BaseException:
            submitted.give_back()
            collector.leave_places(submitted.places)
            raise
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        set_failure(executed, error, clock)


def collect(
    executor: Pipelines, submitted: Submitted, collector: Collector, clock: Clock, free_ns: int
) -> None:
    """Wait for a batch that was submitted, and check its result; call it on the collector. Never raises.

    `free_ns` is when the batch before it ended: the device could not begin this one sooner.
    """
    executed, batch, layout = submitted.executed, submitted.batch, submitted.layout
    if batch is None:
        return
    executed.execute_start_ns = max(executed.submitted_ns, free_ns)
    try:
        result = executor.collect(submitted.handle)
        executed.execute_end_ns = clock()
        executed.result = copied_if_reused(
            check_result(result, batch, layout, submitted.slices[0].padded),
            layout.outputs if batch.outputs is None else batch.outputs,
            submitted.buffers,
        )
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        set_failure(executed, error, clock)
    finally:
        submitted.handle = None
        submitted.give_back()
        collector.leave_places(submitted.places)


def pipelines(executor: Executor) -> bool:
    """Whether an executor splits `execute` (`Pipelines`). Ask when it is loaded: it may depend on that."""
    return isinstance(executor, Pipelines)
