"""The batches of one child process: sent in the order in which they came, and ended as it answers."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from batcher.clock import Clock
from batcher.errors import describe
from batcher.executor import Batch, BatchResult, ExecutionError
from batcher.executors.isolated import replies
from batcher.executors.isolated.arena import Arena, ArenaFullError
from batcher.executors.isolated.messages import CANCEL, ROOM, RUN
from batcher.executors.isolated.replies import LyingChildError, Times, parts
from batcher.executors.isolated.tensors import OBJECTS, nbytes_of
from batcher.runtime.execution.child_inputs import ChildInputs
from batcher.runtime.execution.child_outputs import NO_ROOM, ChildOutputs, Room
from batcher.runtime.execution.execute import (
    Cancel,
    Done,
    ExecutedBatch,
    cancelled,
    check_result,
    nbytes_of_slices,
    set_failure,
)
from batcher.runtime.execution.gather import LARGE_BATCH, Slice, gather
from batcher.runtime.execution.nan import check_nan
from batcher.runtime.interface.layout import Layout

log = logging.getLogger(__name__)

IDLE_S: Final = 30.0
"""Seconds without a batch after which the memory that is shared with a child goes back to the system. To take
it again costs 0.2 ms for a megabyte."""

_NO_BATCH: Final = Batch({}, 0)


@dataclass(slots=True)
class _Running:
    """A batch between `run` and its end."""

    id: int
    slices: Sequence[Slice]
    layout: Layout
    done: Done
    started_ns: int
    alone: bool
    waits: bool
    """Whether others ran when it came: then it has begun when the child took it up."""
    inputs: ChildInputs
    batch: Batch = _NO_BATCH
    """Its rows and outputs, once it is gathered; without the inputs."""
    message: list[Any] | None = None
    failure: BaseException | None = None
    """Why it could not be gathered or sent."""
    given_ns: int = 0
    """When it was sent to the child; 0 before that."""
    room: Room = NO_ROOM
    """Where the child may put its outputs."""
    answered: bool = False


class ChildBatches:
    """Runs batches in a child. Call every method on the loop.

    `send` sends a message, `lied` is told of an answer that cannot be true where that shows late.
    """

    def __init__(
        self,
        arena: Arena,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        send: Callable[[list[Any]], None],
        lied: Callable[[LyingChildError], None],
        *,
        fail_nan: bool,
        queues: bool,
    ) -> None:
        self._arena = arena
        self._loop = loop
        self._clock = clock
        self._send_message = send
        self._lied = lied
        self._fail_nan = fail_nan
        self._queues = queues
        self._outputs = ChildOutputs(arena)
        self._next_id = 0
        self._running: dict[int, _Running] = {}
        self._to_send: deque[_Running] = deque()
        self._threads: set[asyncio.Task[None]] = set()
        self._when_sent: Callable[[], None] | None = None
        self._why = ""
        """Why no batch can run any more."""
        self._dropped = False
        self._last_s = 0.0
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """Batches that have not ended."""
        return len(self._running)

    def run(self, slices: Sequence[Slice], layout: Layout, done: Done, *, alone: bool) -> Cancel:
        """Gather a batch, at once or on another thread where it is large, and send it to the child."""
        self._next_id += 1
        inputs = ChildInputs(self._arena)
        running = _Running(
            self._next_id, slices, layout, done, self._clock(), alone, bool(self._running), inputs
        )
        self._running[running.id] = running
        if self._why:
            running.failure = ExecutionError(self._why, cause="device")
            self._loop.call_soon(self._failed_here, running)
            return lambda: False
        self._to_send.append(running)
        if nbytes_of_slices(slices) > LARGE_BATCH:
            self._spawn(self._prepare_in_thread(running))
        else:
            self._prepare(running)
            self._send_prepared()
        return partial(self._cancel, running)

    def after_all(self, then: Callable[[], None]) -> None:
        """Call it when every batch that was started has been sent."""
        self._when_sent = then
        self._send_prepared()

    def fail_all(self, why: str) -> None:
        """End every batch, because the child is gone; later ones end so, too."""
        self._why = why
        self._to_send.clear()
        for running in list(self._running.values()):
            running.failure = ExecutionError(why, cause="device")
            self._failed_here(running)
        self._stop()

    def drop_all(self) -> None:
        """Forget every batch: `done` is not called for them."""
        self._why = self._why or "it was abandoned"
        self._dropped = True
        self._to_send.clear()
        self._running.clear()
        self._stop()

    # What is sent

    async def _prepare_in_thread(self, running: _Running) -> None:
        await asyncio.to_thread(self._prepare, running)
        self._send_prepared()

    def _prepare(self, running: _Running) -> None:
        """Gather a batch and make its message. Any thread may call it; never raises."""
        try:
            batch = gather(running.slices, running.layout, running.inputs)
            message = [
                RUN,
                running.id,
                batch.rows,
                running.inputs.tensors(batch.inputs),
                None if batch.outputs is None else list(batch.outputs),
                batch.deadline_ns,
                batch.parameters,
                batch.metadata,
                [(row.id, row.slot, row.start, row.end) for row in batch.sequences],
            ]
            running.batch = Batch({}, batch.rows, outputs=batch.outputs)
            running.message = message
        except ArenaFullError as error:
            running.failure = ExecutionError(str(error), cause="memory")
        except BaseException as error:  # noqa: BLE001 - it fails this batch alone
            running.failure = error

    def _send_prepared(self) -> None:
        """Send the batches that are gathered, in the order in which they came."""
        waiting = self._to_send
        while waiting:
            running = waiting[0]
            if running.message is None and running.failure is None:
                return
            waiting.popleft()
            if running.id not in self._running:  # it was cancelled
                running.inputs.free()
            elif running.failure is not None:
                self._loop.call_soon(self._failed_here, running)
            else:
                self._send(running)
        if self._when_sent is not None:
            then, self._when_sent = self._when_sent, None
            then()

    def _send(self, running: _Running) -> None:
        assert running.message is not None  # noqa: S101 - it is gathered
        running.room = self._outputs.expected(running.batch.rows)
        running.given_ns = self._clock()
        try:
            self._send_message([*running.message, *running.room, running.alone])
        except (TypeError, ValueError, OverflowError) as error:
            self._outputs.free(running.room)
            running.failure = ExecutionError(
                f"the batch cannot be sent to its child process: {describe(error)}"
            )
            self._loop.call_soon(self._failed_here, running)
        running.message = None

    def _cancel(self, running: _Running) -> bool:
        if self._running.get(running.id) is not running or running.failure is not None:
            return False
        if not running.given_ns:
            # Its inputs are free when they are gathered.
            del self._running[running.id]
            self._loop.call_soon(self._tell, running, cancelled(self._clock))
        elif self._queues and running is next(iter(self._running.values())):
            return False  # it is being executed
        else:
            self._send_message([CANCEL, running.id])
        return True

    # What the child answers

    def result(self, message: list[Any]) -> None:
        """Take RESULT."""
        batch_id, said, tensors, errors = parts(message, int, list, list, dict)
        running = self._answered(batch_id)
        times = replies.times(said, running.given_ns, self._clock())
        errors = replies.row_errors(errors, running.batch.rows)
        made = partial(self._executed, running, times, tensors, errors)
        if nbytes_of(tensors, OBJECTS if not self._fail_nan else None) > LARGE_BATCH:
            self._spawn(self._result_in_thread(running, made))
        else:
            self._end(running, made())

    def failure(self, message: list[Any]) -> None:
        """Take FAILED."""
        batch_id = parts(message, int, list, str, str, object)[0]
        running = self._answered(batch_id)
        failure = replies.failure(message, running.given_ns, self._clock())
        executed = self._timed(running, failure.times)
        error = ExecutionError(
            failure.message, cause=failure.cause, retry_after_ns=failure.retry_after_ns
        )
        set_failure(executed, error, self._clock)
        self._outputs.free(running.room)
        self._end(running, executed)

    def skipped(self, message: list[Any]) -> None:
        """Take SKIPPED."""
        (batch_id,) = parts(message, int)
        running = self._answered(batch_id)
        self._outputs.free(running.room)
        self._end(running, cancelled(self._clock))

    def needs_room(self, message: list[Any]) -> None:
        """Take NEEDS_ROOM."""
        batch_id, nbytes = parts(message, int, int)
        running = self._running.get(batch_id)
        if running is None or not running.given_ns or running.answered:
            raise LyingChildError("outputs of a batch that does not run")
        if nbytes <= running.room[1]:
            raise LyingChildError(f"outputs of {nbytes} bytes, after room for {running.room[1]}")
        self._outputs.free(running.room)
        running.room = NO_ROOM
        try:
            running.room = self._outputs.room(nbytes, running.batch.rows)
        except ArenaFullError:
            log.debug("no room for outputs of %d bytes", nbytes)
        self._send_message([ROOM, batch_id, *running.room])

    def _answered(self, batch_id: int) -> _Running:
        running = self._running.get(batch_id)
        if running is None or not running.given_ns or running.answered:
            raise LyingChildError("an answer to a batch that does not run")
        running.answered = True
        return running

    async def _result_in_thread(self, running: _Running, made: Callable[[], ExecutedBatch]) -> None:
        try:
            executed = await asyncio.to_thread(made)
        except LyingChildError as error:
            self._lied(error)
        else:
            self._end(running, executed)

    def _executed(
        self, running: _Running, times: Times, tensors: list[Any], errors: dict[int, str]
    ) -> ExecutedBatch:
        """The batch with its result. Any thread may call it; raises `LyingChildError`."""
        executed = self._timed(running, times)
        outputs = self._outputs.read(tensors, running.room)
        try:
            executed.result = check_result(
                BatchResult(outputs, errors),
                running.batch,
                running.layout,
                running.slices[0].padded,
            )
        except ExecutionError as error:
            set_failure(executed, error, self._clock)
        if self._fail_nan:
            check_nan(executed, running.layout, running.slices, self._clock)
        return executed

    def _timed(self, running: _Running, times: Times) -> ExecutedBatch:
        return ExecutedBatch(
            times.began_ns if running.waits else running.started_ns,
            times.execute_start_ns,
            times.execute_end_ns,
            ended_ns=times.ended_ns,
            submitted_ns=times.submitted_ns,
        )

    # Their end

    def _failed_here(self, running: _Running) -> None:
        """End a batch that no child has executed."""
        assert running.failure is not None  # noqa: S101 - it has failed
        executed = ExecutedBatch(running.started_ns)
        set_failure(executed, running.failure, self._clock)
        executed.ended_ns = executed.execute_end_ns
        self._end(running, executed)

    def _end(self, running: _Running, executed: ExecutedBatch) -> None:
        if self._running.pop(running.id, None) is None:
            return  # dropped meanwhile
        running.inputs.free()
        self._last_s = self._loop.time()
        if self._trimming is None and not self._why:
            self._trimming = self._loop.call_later(IDLE_S, self._trim)
        self._tell(running, executed)

    def _tell(self, running: _Running, executed: ExecutedBatch) -> None:
        if self._dropped:
            return
        try:
            running.done(executed)
        except Exception:
            log.exception("internal error: the end of a batch was not reported")

    def _trim(self) -> None:
        """Give back the memory of an idle child."""
        self._trimming = None
        left_s = IDLE_S if self._running else self._last_s + IDLE_S - self._loop.time()
        if left_s > 0:
            self._trimming = self._loop.call_later(left_s, self._trim)
        else:
            self._outputs.take_back()
            self._arena.trim()

    def _stop(self) -> None:
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._threads.add(task)
        task.add_done_callback(self._threads.discard)
