"""Runs a blocking executor in the child: on its main thread, one batch after the other.

Batches of an executor that splits `execute` (`Pipelines`) are submitted there and collected on a second
thread. The main thread alone receives messages, and so it never waits for the other one without receiving.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from time import monotonic_ns
from typing import Any, Final

import numpy as np

from batcher.errors import describe
from batcher.executor import (
    Array,
    Batch,
    BatchResult,
    Executor,
    LoadContext,
    ModelMetadata,
    Pipelines,
)
from batcher.executors.input_buffers import BatchBuffers, input_buffers
from batcher.executors.isolated.arena import Mapped
from batcher.executors.isolated.connection import Connection
from batcher.executors.isolated.messages import (
    CLOSE,
    CLOSED,
    HEALTH,
    HEALTHY,
    NEEDS_ROOM,
    RESULT,
    ROOM,
    RUN,
    SKIPPED,
)
from batcher.executors.isolated.outcomes import (
    batch_of,
    errors_of_rows,
    failed,
    in_arena,
    loaded,
    log,
    not_loaded,
    outputs_of,
    reason,
    released,
)
from batcher.executors.isolated.tensors import inline, placed

MOST_SUBMITTED: Final = 2
"""Batches that are submitted and not collected: one computes, one is copied in."""


def serve_blocking(
    executor: Executor,
    context: LoadContext,
    connection: Connection,
    mapped: Mapped,
    *,
    pipelining: bool,
) -> None:
    """Load it, and run batches until the server says CLOSE."""
    try:
        metadata = executor.load(context)
        pipelined = pipelining and isinstance(executor, Pipelines)
        message = loaded(metadata, pipelined=pipelined)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        connection.send(not_loaded(context, error))
        return
    connection.send(message)
    blocking = _Blocking(executor, metadata, context, connection, mapped)
    if pipelined and isinstance(executor, Pipelines):
        _Pipelined(blocking, executor).run()
    else:
        blocking.run()


@dataclass(slots=True)
class _Taken:
    """A batch that the child has taken up. Times are monotonic nanoseconds."""

    message: list[Any]
    began_ns: int
    submitted_ns: int = 0
    start_ns: int = 0
    end_ns: int = 0
    batch: Batch | None = None
    handle: Any = None
    buffers: BatchBuffers | None = None
    error: BaseException | None = None

    @property
    def id(self) -> int:
        """Its number."""
        return int(self.message[1])

    @property
    def times(self) -> list[int]:
        """What is said of them (`replies.Times`), but for when all is done."""
        return [self.began_ns, self.submitted_ns, self.start_ns, self.end_ns or monotonic_ns()]


class _Blocking:
    """One batch after the other, each by one call of `execute`."""

    def __init__(
        self,
        executor: Executor,
        metadata: ModelMetadata,
        context: LoadContext,
        connection: Connection,
        mapped: Mapped,
    ) -> None:
        self.executor = executor
        self.connection = connection
        self._metadata = metadata
        self._mapped = mapped
        self._buffers = input_buffers(executor, context.max_batch_size)
        self._shared = {spec.name for spec in metadata.inputs if not spec.batched}
        self._shared |= {name for name, batched in context.batched.items() if not batched}

    def run(self) -> None:
        """Serve until CLOSE."""
        while True:
            message = self.connection.next()
            if message[0] == RUN:
                self._run(message)
            elif not self.other(message):
                self.close()
                return

    def other(self, message: list[Any]) -> bool:
        """Handle what is no batch; False for CLOSE."""
        if message[0] == HEALTHY:
            self.connection.send([HEALTH, message[1], self._health()])
        return bool(message[0] != CLOSE)

    def close(self) -> None:
        """Close the executor, and tell the server."""
        if self._buffers is not None:
            self._buffers.clear()
        self.connection.send([CLOSED, _closed(self.executor)])

    def taken(self, message: list[Any]) -> _Taken | None:
        """The batch of a RUN message, with its arrays; None if it was cancelled meanwhile."""
        if self.connection.cancelled(message[1]):
            self.connection.send([SKIPPED, message[1]])
            return None
        taken = _Taken(message, monotonic_ns())
        try:
            batch = batch_of(message, self._mapped)
            if self._buffers is not None:
                taken.buffers = self._buffers.lend()
                batch = self._copied(batch, taken.buffers)
            taken.batch = batch
        except BaseException as error:  # noqa: BLE001 - `allocate` is a plugin's
            taken.error = error
        taken.start_ns = monotonic_ns()
        return taken

    def answer(self, taken: _Taken, result: object, room: Callable[[int, int], int]) -> None:
        """Send a batch's result or failure. `room` returns where outputs go that need more than was given."""
        try:
            self.connection.send(self._answer(taken, result, room))
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self.connection.send(failed(taken.id, taken.times, error))
        finally:
            if isinstance(result, BatchResult):
                released(result)
            if taken.buffers is not None:
                taken.buffers.give_back()

    def _answer(self, taken: _Taken, result: object, room: Callable[[int, int], int]) -> list[Any]:
        if taken.error is not None or taken.batch is None:
            raise taken.error or RuntimeError("no batch")
        made, items, nbytes = outputs_of(result, taken.batch, self._metadata)
        offset, given = taken.message[9:11]
        if nbytes > given:
            self.connection.send([NEEDS_ROOM, taken.id, nbytes])
            offset = room(taken.id, nbytes)
        tensors = placed(items, self._mapped, offset) if nbytes else inline(items)
        times = [*taken.times, monotonic_ns()]
        return [RESULT, taken.id, times, tensors, errors_of_rows(made)]

    def _run(self, message: list[Any]) -> None:
        taken, result = self.taken(message), None
        if taken is None:
            return
        if taken.batch is not None:
            try:
                result = self.executor.execute(taken.batch)
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                taken.error = error
            taken.end_ns = monotonic_ns()
        self.answer(taken, result, self._room)

    def _room(self, batch_id: int, nbytes: int) -> int:
        return in_arena(self.connection.next_of(ROOM, batch_id)[2], nbytes)

    def _copied(self, batch: Batch, buffers: BatchBuffers) -> Batch:
        """The batch in memory that the executor has allocated, as far as it has."""
        inputs: dict[str, Array] = {}
        for name, array in batch.inputs.items():
            own = None
            if name not in self._shared:
                own = buffers.rows(name, len(array), array.shape[1:], array.dtype)
            if own is not None:
                np.copyto(own, array)
            inputs[name] = array if own is None else own
        return replace(batch, inputs=inputs)

    def _health(self) -> str:
        """Why it is unhealthy; that a child answers at all says something, too."""
        healthy = getattr(self.executor, "healthy", None)
        if healthy is None:
            return ""
        try:
            return reason(healthy())
        except BaseException as error:  # noqa: BLE001 - an exception counts as a reason
            return describe(error)


class _Pipelined:
    """One batch computes while the next is copied in."""

    def __init__(self, blocking: _Blocking, executor: Pipelines) -> None:
        self._blocking = blocking
        self._executor = executor
        self._connection = blocking.connection
        self._submitted: SimpleQueue[_Taken | None] = SimpleQueue()
        self._places = threading.Semaphore(MOST_SUBMITTED)
        self._left = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._rooms: SimpleQueue[int] = SimpleQueue()
        """The answers to what the collector has asked: it waits for one at a time."""
        self._collector = threading.Thread(target=self._collect_all, name="collector", daemon=True)
        self._free_ns = 0

    def run(self) -> None:
        """Serve until CLOSE."""
        self._collector.start()
        while True:
            message = self._connection.next()
            if message[0] == RUN:
                self._submit(message)
            elif message[0] == ROOM:
                self._rooms.put(message[2])
            elif not self._blocking.other(message):
                break
        self._submitted.put(None)
        while self._collector.is_alive():
            self._receive_rooms()
            self._collector.join(0.01)
        self._blocking.close()

    def _submit(self, message: list[Any]) -> None:
        self._take_place()
        taken = self._blocking.taken(message)
        if taken is None:
            self._places.release()
            return
        if taken.batch is not None:
            try:
                taken.handle = self._executor.submit(taken.batch)
                taken.submitted_ns = monotonic_ns()
            except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
                taken.error = error
        self._submitted.put(taken)

    def _take_place(self) -> None:
        """Wait until fewer are submitted than may be; what the collector waits for is received meanwhile."""
        poll = select.poll()
        poll.register(self._left, select.POLLIN)
        poll.register(self._connection.socket, select.POLLIN)
        while not self._places.acquire(blocking=False):
            self._receive_rooms()  # also those that arrived with the message of this batch
            poll.poll()
            with suppress(BlockingIOError):
                os.eventfd_read(self._left)

    def _receive_rooms(self) -> None:
        for message in self._connection.arrived_of(ROOM):
            self._rooms.put(message[2])

    def _collect_all(self) -> None:
        while (taken := self._submitted.get()) is not None:
            self._collect(taken)
            del taken  # its arrays

    def _collect(self, taken: _Taken) -> None:
        result = None
        try:
            if taken.error is None:
                taken.start_ns = max(taken.submitted_ns, self._free_ns)
                result = self._executor.collect(taken.handle)
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            taken.error = error
        finally:
            self._free_ns = taken.end_ns = monotonic_ns()
            taken.handle = None
            self._places.release()
            os.eventfd_write(self._left, 1)
        self._blocking.answer(taken, result, self._room)

    def _room(self, _: int, nbytes: int) -> int:
        return in_arena(self._rooms.get(), nbytes)


def _closed(executor: Executor) -> str:
    """Close it; returns what that raised."""
    try:
        executor.close()
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        log.exception("the executor's close() raised; the instance is gone all the same")
        return describe(error)
    return ""
