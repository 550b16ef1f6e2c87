"""One `ModelStreamInfer` call: reads requests, writes answers, and charges both to `Buffers`."""

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
from batcher.errors import AnswerLoss, BufferFull, InvalidRequest
from batcher.http2.call import Call
from batcher.server import messages
from batcher.server.calls import Context
from batcher.service import Exchange

Made: TypeAlias = bytes | memoryview
"""A serialized answer."""
Answer: TypeAlias = Callable[[bytes], Coroutine[Any, Any, tuple[Made, Exchange]]]
"""Answers a message. Where it raises, it has ended the exchange."""
Finished: TypeAlias = tuple[Made, "Exchange | None"]
"""An answer, and the request that ends when it is written; None where it was never begun."""

BUFFER_FULL_RETRY_NS = SECOND
"""The retry hint for a caller whose message does not fit `max_buffered`."""

REQUEST_BYTES = 1024
"""Bytes that a request of a stream counts in `max_buffered` in addition to its own, until its answer
is written: an asyncio task and what it refers to."""


REQUESTS_PER_ITERATION, REQUESTS_AT_ONCE = 256, 16
"""Requests of all streams together that begin in one iteration of the event loop (which takes 20 ms), and
requests that one stream begins at once. The first is larger than a batch, because requests of one
iteration are batched together: 64 cost a tenth of the throughput."""


class StreamPacer:
    """Limits how many requests begin in an iteration of the event loop; others wait for the next one."""

    def __init__(self) -> None:
        self._left = self._most = REQUESTS_PER_ITERATION // REQUESTS_AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def may_begin(self) -> None:
        """Wait until `REQUESTS_AT_ONCE` more requests may begin, in order of arrival."""
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
        """Let waiting streams begin, in the next iteration of the event loop."""
        self._left = self._most
        while self._left and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # or its stream has ended
                waiter.set_result(None)
                self._left -= 1
        if self._left < self._most:
            asyncio.get_running_loop().call_soon(self._begin)


Link: TypeAlias = tuple["asyncio.Future[None] | None", "asyncio.Future[None]"]
"""What goes before a message, and what is done when it and all before it have had their turns."""


class StreamTurns:
    """Has the steps of sequences on one stream admitted in the order in which they were read.

    Large messages are read on another thread, and would be overtaken by smaller ones behind them.
    """

    def __init__(self) -> None:
        self._last: asyncio.Future[None] | None = None

    def enter(self) -> Link:
        """Note a message that is not admitted at once. `leave` must follow."""
        before = self._last
        self._last = own = asyncio.get_running_loop().create_future()
        return before, own

    async def turn(self, link: Link | None) -> None:
        """Wait until everything that was read before has had its turn; admit the step before the next await."""
        if link is None:
            if self._last is None or self._last.done():
                return
            link = self.enter()
        before, _ = link
        try:
            if before is not None and not before.done():
                # Waiting for it in another way would cancel it when this stream's task is cancelled.
                await asyncio.wait((before,))
        finally:
            self.leave(link)

    @staticmethod
    def leave(link: Link) -> None:
        """A message has had its turn, or needs none."""
        before, own = link
        if before is None or before.done():
            if not own.done():
                own.set_result(None)
        else:
            before.add_done_callback(lambda _: None if own.done() else own.set_result(None))


def no_room(buffers: Buffers, size: int) -> BufferFull:
    """The error for a request, or its answer, that does not fit `max_buffered`. Counts the refusal."""
    buffers.refused += 1
    return BufferFull(
        f"no room for {size} bytes: requests and answers together may take {buffers.limit} bytes"
        " (server.max_buffered); try again later",
        retry_after_ns=BUFFER_FULL_RETRY_NS,
    )


class StreamCharges:
    """Charges the requests and answers of one stream to `Buffers`.

    A request is charged until it is answered, its answer until it is written, or until the transport
    charges it by itself.
    """

    def __init__(self, buffers: Buffers, *, transport_charges: bool) -> None:
        self._buffers = buffers
        self._transport_charges = transport_charges
        self._charged = 0
        self._released = False

    def charge_request(self, data: bytes) -> bool:
        """Charge a request that was read; returns False if it does not fit."""
        size = len(data) + REQUEST_BYTES
        if not self._buffers.reserve(size):
            return False
        self._charged += size
        return True

    def refused(self, data: bytes) -> bytes:
        """The error to send for a request that does not fit."""
        self._charged += REQUEST_BYTES
        self._buffers.charge(REQUEST_BYTES)
        return self._error(no_room(self._buffers, len(data)), data)

    def answered(self, answer: Made, size: int) -> Made:
        """Charge the answer instead of its request of that size; returns the answer, or an error to send."""
        if self._released:
            return answer
        self._release(size)
        if not self._buffers.has_room(len(answer)):
            answer = self._error(no_room(self._buffers, len(answer)), b"")
        self._charged += len(answer)
        self._buffers.charge(len(answer))
        return answer

    async def written(self, answer: Made, context: Context) -> None:
        """Write an answer, and release what was charged for it; the send windows have taken it then."""
        size = len(answer) + REQUEST_BYTES
        if self._transport_charges:
            self._release(size)
        await context.write(answer)
        if not self._transport_charges:
            self._release(size)

    def release(self) -> None:
        """The stream has ended: release everything that it was charged."""
        self._released = True
        self._release(self._charged)

    def _release(self, size: int) -> None:
        size = min(size, self._charged)
        self._charged -= size
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

    `answer` must not raise. At most `max_in_flight` requests are being answered; then reading pauses,
    and HTTP/2 flow control makes the client wait.
    """

    def __init__(
        self,
        context: Context,
        answer: Answer,
        charges: StreamCharges,
        max_in_flight: int,
        pacer: StreamPacer,
        *,
        ordered: bool,
    ) -> None:
        self._pacer = pacer
        self._context = context
        self._answer = answer
        self._charges = charges
        self._ordered = ordered
        self._in_flight = asyncio.Semaphore(max_in_flight)
        self._answers: asyncio.Queue[asyncio.Task[Finished] | None] = asyncio.Queue()
        self._open: set[asyncio.Task[Finished]] = set()
        self._unsent: set[Exchange] = set()
        """Requests whose answers wait to be written."""
        self._given_up = False
        self._reader: asyncio.Task[None] | None = None
        self.ended = False
        """Whether `end` cut the reading short."""

    def end(self) -> None:
        """Read no more requests; `run` returns when those that were read are answered."""
        self.ended = True
        if self._reader is not None:
            self._reader.cancel()

    async def run(self) -> None:
        """Read and answer until the caller has half-closed and every request is answered."""
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._all_read)
        task: asyncio.Task[Finished] | None = None
        try:
            while (task := await self._answers.get()) is not None:
                answer, exchange = await task
                await self._charges.written(answer, self._context)
                if exchange is not None:
                    self._unsent.discard(exchange)
                    self._tell_written(exchange)
                del answer, exchange
                self._in_flight.release()
            if not self._reader.cancelled():
                self._reader.result()
        finally:
            task = None
            self._give_up()

    def _tell_written(self, exchange: Exchange) -> None:
        """End a request when what was written is with the socket; grpcio tells no more than `write` does."""
        if isinstance(self._context, Call):
            self._context.tell_written(exchange.ended)
        else:
            exchange.ended(None)

    def _lost(self, exchange: Exchange) -> None:
        context = self._context
        exchange.ended(context.loss if isinstance(context, Call) else AnswerLoss.LEFT)

    def _give_up(self) -> None:
        """Cancel the tasks, and drop every reference to them.

        Otherwise exceptions of tasks, which refer to their frames and so to this object, would make
        reference cycles, and messages would stay in memory until the garbage collector runs.
        """
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        for task in self._open:
            task.cancel()
        while not self._answers.empty():
            self._answers.get_nowait()
        self._given_up = True
        for exchange in self._unsent:
            self._lost(exchange)
        self._unsent.clear()
        self._charges.release()

    async def _read(self) -> None:
        for place in itertools.cycle(range(REQUESTS_AT_ONCE)):
            await self._in_flight.acquire()
            if not place:
                await self._pacer.may_begin()
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

    async def _made(self, data: bytes, *, charged: bool) -> Finished:
        if not charged:
            return self._charges.answered(self._charges.refused(data), 0), None
        answer, exchange = await self._answer(data)
        if self._given_up:
            self._lost(exchange)
        else:
            self._unsent.add(exchange)
        made = self._charges.answered(answer, len(data))
        if made is not answer:
            exchange.loss = AnswerLoss.NO_ROOM
        return made, exchange

    def _begin(self, data: bytes) -> None:
        task = asyncio.create_task(self._made(data, charged=self._charges.charge_request(data)))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        if self._ordered:
            self._answers.put_nowait(task)
        else:
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Finished]) -> None:
        if self._reader is not None:
            self._answers.put_nowait(task)
