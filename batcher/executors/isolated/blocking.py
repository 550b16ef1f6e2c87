"""Runs a blocking executor in the child: on its main thread, one batch after the other."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

from batcher.errors import describe, on_one_line
from batcher.executor import BatchResult, Executor, LoadContext, ModelMetadata
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
)
from batcher.executors.isolated.tensors import Items, inline, placed


def serve_blocking(
    executor: Executor, context: LoadContext, connection: Connection, mapped: Mapped
) -> None:
    """Load it, and run batches until the server says CLOSE."""
    try:
        metadata = executor.load(context)
        message = loaded(metadata)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        connection.send(not_loaded(context, error))
        return
    connection.send(message)
    _Blocking(executor, metadata, connection, mapped).run()


class _Blocking:
    def __init__(
        self, executor: Executor, metadata: ModelMetadata, connection: Connection, mapped: Mapped
    ) -> None:
        self._executor = executor
        self._metadata = metadata
        self._connection = connection
        self._mapped = mapped

    def run(self) -> None:
        while True:
            message = self._connection.next()
            if message[0] == RUN:
                self._run(message)
            elif message[0] == HEALTHY:
                self._connection.send([HEALTH, message[1], self._health()])
            elif message[0] == CLOSE:
                self._connection.send([CLOSED, closed(self._executor)])
                return

    def _run(self, message: list[Any]) -> None:
        batch_id = message[1]
        if self._connection.cancelled(batch_id):
            self._connection.send([SKIPPED, batch_id])
            return
        began_ns, start_ns = monotonic_ns(), 0
        result = None
        try:
            batch = batch_of(message, self._mapped)
            start_ns = monotonic_ns()
            result = self._executor.execute(batch)
            end_ns = monotonic_ns()
            items, nbytes = outputs_of(result, batch, self._metadata)
            tensors = self._sent(batch_id, items, nbytes, message[9], message[10])
            times = [began_ns, 0, start_ns, end_ns, monotonic_ns()]
            self._connection.send([RESULT, batch_id, times, tensors, errors_of_rows(result)])
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            self._connection.send(failed(batch_id, began_ns, start_ns, error))
        finally:
            if isinstance(result, BatchResult):
                released(result)

    def _sent(
        self, batch_id: int, items: Items, nbytes: int, offset: int, room: int
    ) -> list[list[Any]]:
        """The tensors of a result for its message, where they are large after they were copied."""
        if not nbytes:
            return inline(items)
        if nbytes > room:
            self._connection.send([NEEDS_ROOM, batch_id, nbytes])
            offset = self._connection.next_of(ROOM, batch_id)[2]
        return placed(items, self._mapped, in_arena(offset, nbytes))

    def _health(self) -> str:
        try:
            return reason(self._executor.healthy())  # type: ignore[attr-defined] # the server asks only where it is
        except BaseException as error:  # noqa: BLE001 - an exception counts as a reason
            return describe(error)


def reason(outcome: object) -> str:
    """Why an executor is unhealthy, from what its `healthy` returned; empty if healthy."""
    if outcome is None:
        return ""
    if isinstance(outcome, str):
        return on_one_line(outcome)
    return f"healthy() returned {on_one_line(repr(outcome))}, not a text or None"


def released(result: BatchResult) -> None:
    """Give the executor its memory back."""
    try:
        result.release()
    except BaseException:  # noqa: BLE001 - a plugin may raise anything
        log.exception("an executor's release() raised: a mistake of its plugin")


def closed(executor: Executor) -> str:
    """Close it; returns what that raised."""
    try:
        executor.close()
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        log.exception("the executor's close() raised; the instance is gone all the same")
        return describe(error)
    return ""
