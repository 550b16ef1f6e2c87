"""One `ModelStreamInfer` call: requests in, answers out, and what it holds meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from grpc import aio

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.errors import BufferFull, InvalidRequest
from batcher.server import messages
from batcher.server.calls import Context

Made: TypeAlias = bytes | memoryview
"""A serialized answer."""
Answer: TypeAlias = Callable[[bytes], Coroutine[Any, Any, Made]]

RETRY_ROOM_NS = SECOND
"""What a caller is told to wait for whose messages there is no room."""

REQUEST_BYTES = 1024
"""What a request of a stream counts for in `max_buffered` beside its bytes, until its answer is
written: a task and what it refers to."""


REQUESTS_A_TURN, REQUESTS_AT_ONCE = 256, 16
"""Requests of all streams together that begin in one turn of the event loop: 20 ms. More than a batch
takes, as what comes in one turn is batched together; 64 cost a tenth of the throughput. One stream gets
so many at once."""


class Turns:
    """Lets so many requests begin in each turn of the event loop, and the others wait for the next."""

    def __init__(self) -> None:
        self._left = self._most = REQUESTS_A_TURN // REQUESTS_AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def taken(self) -> None:
        """Returns when `REQUESTS_AT_ONCE` more may begin; whoever waits longest is the first."""
        loop = asyncio.get_running_loop()
        if not self._left:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
            return
        if self._left == self._most:
            loop.call_soon(self._begin)
        self._left -= 1

    def _begin(self) -> None:
        """The next turn."""
        self._left = self._most
        while self._left and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # or its stream has ended
                waiter.set_result(None)
                self._left -= 1
        if self._left < self._most:
            asyncio.get_running_loop().call_soon(self._begin)


def no_room(buffers: Buffers, size: int) -> BufferFull:
    """What a request is answered for which, or for whose answer, there is no room; it is counted."""
    buffers.refused += 1
    return BufferFull(
        f"no room for {size} bytes: requests and answers together may take {buffers.limit} bytes"
        " (server.max_buffered); try again later",
        retry_after_ns=RETRY_ROOM_NS,
    )


class StreamCharges:
    """What the requests and answers of one stream hold in `Buffers`.

    A request is charged until it is answered, its answer until it is written: a transport that
    charges by itself does so from then on.
    """

    def __init__(self, buffers: Buffers, *, transport_charges: bool) -> None:
        self._buffers = buffers
        self._transport_charges = transport_charges
        self._held = 0
        self._released = False

    def taken(self, data: bytes) -> bool:
        """A request was read; returns whether there is room for it."""
        size = len(data) + REQUEST_BYTES
        if not self._buffers.reserve(size):
            return False
        self._held += size
        return True

    def refused(self, data: bytes) -> bytes:
        """The answer to a request for which there is no room."""
        self._held += REQUEST_BYTES
        self._buffers.charge(REQUEST_BYTES)
        return self._error(no_room(self._buffers, len(data)), data)

    def answered(self, answer: Made, size: int) -> Made:
        """A request of that size was answered; returns what is to be written."""
        if self._released:
            return answer
        self._let_go(size)
        if not self._buffers.has_room(len(answer)):
            answer = self._error(no_room(self._buffers, len(answer)), b"")
        self._held += len(answer)
        self._buffers.charge(len(answer))
        return answer

    async def written(self, answer: Made, context: Context) -> None:
        """Write an answer."""
        size = len(answer) + REQUEST_BYTES
        if self._transport_charges:
            self._let_go(size)
        await context.write(answer)
        if not self._transport_charges:
            self._let_go(size)

    def release(self) -> None:
        """The stream has ended: nothing is held any more."""
        self._released = True
        self._let_go(self._held)

    def _let_go(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._buffers.release(size)

    @staticmethod
    def _error(error: BufferFull, data: bytes) -> bytes:
        request_id = ""
        if len(data) <= messages.LARGE_MESSAGE:
            with contextlib.suppress(InvalidRequest):
                request_id = messages.parse(data).id
        return messages.stream_error(str(error), request_id=request_id)


class StreamPump:
    """Reads requests and writes answers of one stream at the same time.

    `answer` never raises. At most `max_in_flight` requests are being answered; reading pauses
    there, which the peer feels as flow control.
    """

    def __init__(
        self,
        context: Context,
        answer: Answer,
        charges: StreamCharges,
        max_in_flight: int,
        turns: Turns,
        *,
        ordered: bool,
    ) -> None:
        self._turns = turns
        self._context = context
        self._answer = answer
        self._charges = charges
        self._ordered = ordered
        self._room = asyncio.Semaphore(max_in_flight)
        self._answers: asyncio.Queue[asyncio.Task[Made] | None] = asyncio.Queue()
        self._open: set[asyncio.Task[Made]] = set()
        self._reader: asyncio.Task[None] | None = None
        self.ended = False
        """Whether `end` cut the reading short."""

    def end(self) -> None:
        """Take in no more requests; `run` returns when those taken in are answered."""
        self.ended = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Pump until the caller has half-closed and every request is answered."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._all_read)
        task: asyncio.Task[Made] | None = None
        try:
            while (task := await self._answers.get()) is not None:
                await self._charges.written(await task, self._context)
                self._room.release()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            task = None
            self._give_up()

    def _give_up(self) -> None:
        """End the tasks, and know them no more.

        What they raise knows the frames that it passed, and those know this pump: if it knew the
        tasks too, messages and all would wait for the garbage collector.
        """
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        for task in self._open:
            task.cancel()
        while not self._answers.empty():
            self._answers.get_nowait()
        self._charges.release()

    async def _read(self) -> None:
        for place in itertools.cycle(range(REQUESTS_AT_ONCE)):
            await self._room.acquire()
            if not place:
                await self._turns.taken()
            data = await self._context.read()
            if data is aio.EOF:
                break
            self._begin(data)

    def _all_read(self, _: asyncio.Task[None]) -> None:
        # Of a task that is cancelled before its first step not even a `finally` runs.
        if self._ordered or not self._open:
            self._answers.put_nowait(None)
        else:
            last = asyncio.gather(*self._open, return_exceptions=True)
            last.add_done_callback(lambda _: self._answers.put_nowait(None))

    async def _made(self, data: bytes, *, taken: bool) -> Made:
        if not taken:
            return self._charges.answered(self._charges.refused(data), 0)
        return self._charges.answered(await self._answer(data), len(data))

    def _begin(self, data: bytes) -> None:
        task = asyncio.create_task(self._made(data, taken=self._charges.taken(data)))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        if self._ordered:
            self._answers.put_nowait(task)
        else:
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Made]) -> None:
        if self._reader is not None:
            self._answers.put_nowait(task)
