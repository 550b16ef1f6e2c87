"""Connections that send questions and say how each ended: gRPC over HTTP/2, JSON over HTTP/1.1.

Both cost 40 to 80 microseconds a request, so that one core sends more than any of the servers
takes. A call has ended well only if its answer holds what its question expects.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol as Interface
from typing import cast

import http1
from http2 import Call, Connection, Request, Settled
from questions import MARK, Grpc, Http, Protocol, Question

from batcher.http2.sansio.frames import PADDED

Settle = Callable[[int, int, str], None]
"""Called with a request's place, when it ended, and why it failed (empty where it did not)."""

GRPC_CONNECTIONS = 4
HTTP_CONNECTIONS = 32
"""Opened beforehand; more are opened where all wait for an answer."""
MOST_HTTP_CONNECTIONS = 512
"""What is sent beyond waits for a connection, and its time counts."""


class Caller(Interface):
    """Sends questions over connections of one protocol."""

    async def open(self) -> None:
        """Connect. Raises OSError where nothing listens."""

    def send(self, place: int, due_ns: int, question: Question) -> None:
        """Send one; does not wait."""

    async def close(self) -> None:
        """Close the connections, whatever is still open on them."""


def caller(address: tuple[str, int], protocol: Protocol, settle: Settle) -> Caller:
    """The one for that protocol."""
    if isinstance(protocol, Grpc):
        return GrpcCaller(address, protocol, settle)
    return HttpCaller(address, protocol, settle)


@dataclass(slots=True)
class Asked(Call):
    """A call with a question of its own."""

    question: Question | None = None
    body: list[bytes] = field(default_factory=list)


class AskingConnection(Connection):
    """HTTP/2 whose calls have a message each, of one length, and whose answers are compared."""

    def __init__(self, request: Request) -> None:
        super().__init__(request, 0)
        *self._before, self._last = request.pieces
        self._mark = MARK.tobytes()

    def _begin(self) -> None:
        waiting = self._waiting
        while waiting and self._window >= self._size and len(self._open) < self._most:
            stream = self._next
            self._next += 2
            self._window -= self._size
            call = self._open[stream] = cast("Asked", waiting.popleft())
            assert call.question is not None
            last = self._last.replace(self._mark, call.question.sent)
            self._out.append(stream.to_bytes(4, "big").join((*self._before, last)))

    def _data(
        self, stream: int, flags: int, data: bytes, start: int, stop: int, settled: Settled
    ) -> None:
        call = self._open.get(stream)
        if call is not None:
            padding = data[start] if flags & PADDED else 0
            first = start + 1 if flags & PADDED else start
            cast("Asked", call).body.append(data[first : stop - padding])
        super()._data(stream, flags, data, start, stop, settled)

    def _end(self, stream: int, failure: str, settled: Settled) -> None:
        call = cast("Asked | None", self._open.pop(stream, None))
        if call is None:
            return
        assert call.question is not None
        if not failure and call.question.expected not in b"".join(call.body):
            failure = "a wrong answer"
        settled.append((call, failure))


class _Link(asyncio.Protocol):
    """Such a connection on its socket; what one turn of the loop sends leaves in one write."""

    def __init__(self, connection: AskingConnection, settle: Settle) -> None:
        self.connection = connection
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        self._report(self.connection.receive(data), now_ns)
        self._flush()
        if self.connection.settings_received and not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._report(self.connection.leave("connection lost"), time.monotonic_ns())
        for waiter in (self.ready, self._closed):
            if not waiter.done():
                waiter.set_result(None)

    def send(self, call: Asked) -> None:
        self.connection.send(call)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        await self._closed

    def _report(self, settled: Settled, now_ns: int) -> None:
        for call, failure in settled:
            self._settle(call.place, now_ns, failure)

    def _flush(self) -> None:
        self._flushing = False
        out = self.connection.take()
        if out and self._transport is not None:
            self._transport.write(out)


class GrpcCaller:
    """Calls go round a few connections."""

    def __init__(self, address: tuple[str, int], protocol: Grpc, settle: Settle) -> None:
        self._address = address
        host, port = address
        self._request = Request.encode(f"{host}:{port}", protocol.method, protocol.message)
        self._settle = settle
        self._links: list[_Link] = []

    async def open(self) -> None:
        """Connect, and wait for the settings of each connection."""
        loop = asyncio.get_running_loop()
        for _ in range(GRPC_CONNECTIONS):
            _, link = await loop.create_connection(
                lambda: _Link(AskingConnection(self._request), self._settle), *self._address
            )
            self._links.append(link)
            await asyncio.wait_for(link.ready, 10)

    def send(self, place: int, due_ns: int, question: Question) -> None:
        """Send one; does not wait."""
        link = self._links[place % len(self._links)]
        if link.connection.gone:
            self._settle(place, time.monotonic_ns(), link.connection.gone)
        else:
            link.send(Asked(place, due_ns, question=question))

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            await link.close()
        self._links.clear()


class _Line(asyncio.Protocol):
    """One HTTP/1.1 connection: one request at a time."""

    def __init__(self, pool: HttpCaller) -> None:
        self._pool = pool
        self._reader = http1.AnswerReader()
        self._transport: asyncio.Transport | None = None
        self.asked: tuple[int, Question] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, place: int, question: Question) -> None:
        assert self._transport is not None
        self.asked = place, question
        self._transport.write(self._pool.encode(question))

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        try:
            answer = self._reader.feed(data)
        except http1.BadAnswerError:
            self.abort()  # what was asked has failed: a part of its answer is here
            return
        if answer is None or self.asked is None:
            return
        (place, question), self.asked = self.asked, None
        failure = "" if answer.status == 200 else f"HTTP {answer.status}"
        if not failure and question.expected not in answer.body.replace(b" ", b""):
            failure = "a wrong answer"
        self._pool.settled(self, place, now_ns, failure, answer.keep)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._pool.lost(self, began=self._reader.began)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class HttpCaller:
    """Each request takes a connection that waits for none; the one used last first."""

    def __init__(self, address: tuple[str, int], protocol: Http, settle: Settle) -> None:
        self._address = address
        host, port = address
        self._body = protocol.body
        self._head = (
            f"POST {protocol.path} HTTP/1.1\r\nhost: {host}:{port}\r\n"
            "content-type: application/json\r\naccept: application/json\r\ncontent-length: "
        ).encode()
        self._settle = settle
        self._idle: list[_Line] = []
        self._all: set[_Line] = set()
        self._opening = 0
        self._waiting: deque[tuple[int, Question]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def encode(self, question: Question) -> bytes:
        """A whole request."""
        body = self._body.replace(b"%s", question.sent)
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)

    async def open(self) -> None:
        """Open the first connections."""
        for _ in range(HTTP_CONNECTIONS):
            self._idle.append(await self._connect())

    def send(self, place: int, due_ns: int, question: Question) -> None:
        """Send one on an idle connection, or as soon as there is one."""
        del due_ns
        if self._idle:
            self._idle.pop().ask(place, question)
            return
        self._waiting.append((place, question))
        self._more()

    def settled(self, line: _Line, place: int, now_ns: int, failure: str, keep: bool) -> None:
        """A connection has its answer, and is free for the next request."""
        self._settle(place, now_ns, failure)
        if not keep:
            line.abort()
        elif self._waiting:
            line.ask(*self._waiting.popleft())
        else:
            self._idle.append(line)

    def lost(self, line: _Line, *, began: bool) -> None:
        """A connection was closed; a request that it had taken before any answer goes to another."""
        self._all.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        if self._closed or line.asked is None:
            return
        (place, question), line.asked = line.asked, None
        if began:
            self._settle(place, time.monotonic_ns(), "connection lost")
        else:
            self._waiting.appendleft((place, question))
            self._more()

    async def close(self) -> None:
        """Close the connections."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for line in list(self._all):
            line.abort()
        await asyncio.sleep(0)

    def _more(self) -> None:
        if len(self._all) + self._opening < MOST_HTTP_CONNECTIONS:
            self._opening += 1
            task = asyncio.create_task(self._one_more())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one_more(self) -> None:
        try:
            line = await self._connect()
        except OSError as error:
            if self._waiting:
                place, _ = self._waiting.popleft()
                self._settle(place, time.monotonic_ns(), f"no connection: {error.strerror}")
            return
        finally:
            self._opening -= 1
        if self._waiting:
            line.ask(*self._waiting.popleft())
        else:
            self._idle.append(line)

    async def _connect(self) -> _Line:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: _Line(self), *self._address)
        self._all.add(line)
        return line
