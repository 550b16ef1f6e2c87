"""Runs an executor of coroutines in the child, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from time import monotonic_ns
from typing import Any

from batcher.errors import describe, on_one_line
from batcher.executor import AsyncExecutor, BatchResult, LoadContext, ModelMetadata
from batcher.executors.isolated.arena import Mapped
from batcher.executors.isolated.connection import Connection
from batcher.executors.isolated.messages import (
    CANCEL,
    CLOSE,
    CLOSED,
    HEALTH,
    HEALTHY,
    NEEDS_ROOM,
    RESULT,
    ROOM,
    RUN,
    SKIPPED,
    WATCH,
    WATCH_ENDED,
    WATCHED,
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
from batcher.executors.isolated.tensors import Items, inline, placed


def serve_coroutines(
    executor: AsyncExecutor, context: LoadContext, connection: Connection, mapped: Mapped
) -> None:
    """Load it, and run batches until the server says CLOSE."""
    asyncio.run(_serve(executor, context, connection, mapped))


async def _serve(
    executor: AsyncExecutor, context: LoadContext, connection: Connection, mapped: Mapped
) -> None:
    try:
        metadata = await executor.load(context)
        message = loaded(metadata)
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
        connection.send(not_loaded(context, error))
        return
    connection.send(message)
    await _Coroutines(executor, metadata, connection, mapped).run()


class _Coroutines:
    def __init__(
        self,
        executor: AsyncExecutor,
        metadata: ModelMetadata,
        connection: Connection,
        mapped: Mapped,
    ) -> None:
        self._executor = executor
        self._metadata = metadata
        self._connection = connection
        self._mapped = mapped
        self._batches: dict[int, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._rooms: dict[int, asyncio.Future[int]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._last = asyncio.Event()
        self._free = asyncio.Event()
        """Clear while a batch runs alone."""
        self._free.set()
        self._executing = 0
        self._quiet = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connection.socket.fileno(), self._read)
        self._read()
        await self._last.wait()
        if self._watch is not None:
            self._watch.cancel()
        if self._batches:
            await asyncio.wait(self._batches.values())
        loop.remove_reader(self._connection.socket.fileno())
        why = ""
        try:
            await self._executor.close()
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            log.exception("the executor's close() raised; the instance is gone all the same")
            why = describe(error)
        self._connection.send([CLOSED, why])

    def _read(self) -> None:
        for message in self._connection.arrived():
            kind = message[0]
            if kind == RUN:
                task = self._begin(self._run(message))
                self._batches[message[1]] = task
                task.add_done_callback(partial(self._ended, message[1]))
            elif kind == CANCEL:
                if message[1] in self._batches:
                    self._batches[message[1]].cancel()
            elif kind == ROOM:
                if message[1] in self._rooms:
                    self._rooms.pop(message[1]).set_result(message[2])
            elif kind == HEALTHY:
                self._begin(self._health(message[1], message[2]))
            elif kind == WATCH:
                if message[1]:
                    self._watch = self._begin(self._watching())
                elif self._watch is not None:
                    self._watch.cancel()
            elif kind == CLOSE:
                self._last.set()

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task

    def _ended(self, batch_id: int, task: asyncio.Task[None]) -> None:
        del self._batches[batch_id]
        if task.cancelled():
            self._connection.send([SKIPPED, batch_id])

    async def _run(self, message: list[Any]) -> None:
        while not self._free.is_set():
            await self._free.wait()
        if not message[11]:
            await self._execute(message)
            return
        self._free.clear()
        try:
            while self._executing:
                self._quiet.clear()
                await self._quiet.wait()
            await self._execute(message)
        finally:
            self._free.set()

    async def _execute(self, message: list[Any]) -> None:
        batch_id = message[1]
        began_ns = start_ns = monotonic_ns()
        result = None
        self._executing += 1
        try:
            batch = batch_of(message, self._mapped)
            start_ns = monotonic_ns()
            result = await self._executor.execute(batch)
            end_ns = monotonic_ns()
            made, items, nbytes = outputs_of(result, batch, self._metadata)
            tensors = await self._sent(batch_id, items, nbytes, message[9], message[10])
            times = [began_ns, 0, start_ns, end_ns, monotonic_ns()]
            self._connection.send([RESULT, batch_id, times, tensors, errors_of_rows(made)])
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything
            if _is_cancelled():
                raise asyncio.CancelledError from None
            times = [began_ns, 0, start_ns, monotonic_ns()]
            self._connection.send(failed(batch_id, times, error))
        finally:
            self._executing -= 1
            if not self._executing:
                self._quiet.set()
            if isinstance(result, BatchResult):
                released(result)

    async def _sent(
        self, batch_id: int, items: Items, nbytes: int, offset: int, room: int
    ) -> list[list[Any]]:
        if not nbytes:
            return inline(items)
        if nbytes > room:
            given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._rooms[batch_id] = given
            self._connection.send([NEEDS_ROOM, batch_id, nbytes])
            try:
                offset = await given
            finally:
                self._rooms.pop(batch_id, None)
        return placed(items, self._mapped, in_arena(offset, nbytes))

    async def _health(self, number: int, timeout_ns: int) -> None:
        healthy = getattr(self._executor, "healthy", None)
        try:
            async with asyncio.timeout(timeout_ns / 1e9) as bound:
                why = "" if healthy is None else reason(await healthy())
        except BaseException as error:  # noqa: BLE001 - an exception counts as a reason
            why = describe(error)
            if bound.expired():
                why = f"healthy() has not answered within {timeout_ns / 1e9:g} s"
        self._connection.send([HEALTH, number, why])

    async def _watching(self) -> None:
        try:
            await self._executor.watch(self._report)  # type: ignore[attr-defined] # as above
        except BaseException as error:  # noqa: BLE001 - whatever it is, the server calls it again
            if _is_cancelled():
                return
            self._connection.send([WATCH_ENDED, describe(error)])
        else:
            self._connection.send([WATCH_ENDED, ""])

    def _report(self, why: object) -> None:
        text = on_one_line(why if isinstance(why, str) else f"watch() reported {why!r}, not a text")
        self._connection.send([WATCHED, text])


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
