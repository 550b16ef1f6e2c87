"""Sends an open loop's requests, and records how each ended.

`Calls` costs a fraction of what a gRPC client does, so that a core of its own keeps it in time;
`GrpcCalls` is that client, and `Streams` is for requests that share streams.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import cast

import grpc
from closed import connections
from http2 import Call, Connection, Request, Settled
from payload import STREAM, UNARY, Payload

from batcher.clock import SECOND

PATIENCE_S = 30.0


@dataclass(slots=True)
class Record:
    """How the requests ended, by their place in the order of arrival."""

    latency_ns: dict[int, int] = field(default_factory=dict)
    sent_late_ns: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    began_ns: int = 0
    """From when on the requests' moments are counted, of the monotonic clock."""


class _Link(asyncio.Protocol):
    """A connection on its socket. What is sent in one iteration of the loop leaves in one write."""

    def __init__(self, connection: Connection, settle: Callable[[Settled, int], None]) -> None:
        self.connection = connection
        self._settle = settle
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._flushing = False
        self.ready = self._loop.create_future()
        self._closed = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the connection preface."""
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Report the calls that have ended, as of now."""
        now_ns = time.monotonic_ns()
        settled = self.connection.receive(data)
        if settled:
            self._settle(settled, now_ns)
        self._flush()
        if self.connection.settings_received and not self.ready.done():
            self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Every call that is still open has failed."""
        del exc
        self._transport = None
        self._settle(self.connection.leave("connection lost"), time.monotonic_ns())
        for waiter in (self.ready, self._closed):
            if not waiter.done():
                waiter.set_result(None)

    def send(self, call: Call) -> None:
        """Begin a call."""
        self.connection.send(call)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()
        await self._closed

    def _flush(self) -> None:
        self._flushing = False
        out = self.connection.take()
        if out and self._transport is not None:
            self._transport.write(out)


class Calls:
    """Every request is a call, over HTTP/2 as it is."""

    def __init__(self, payload: Payload, record: Record, deadline_ns: int | None) -> None:
        self._payload = payload
        self._record = record
        self._deadline_ns = deadline_ns
        self._links: list[_Link] = []
        self._left = 0
        self._answered = asyncio.Event()

    async def open(self, address: str, count: int) -> None:
        """Be ready to send, over that many connections."""
        loop = asyncio.get_running_loop()
        authority = "localhost" if address.startswith("unix:") else address
        request = Request.encode(authority, UNARY, self._payload.request, self._deadline_ns)

        def link() -> _Link:
            return _Link(Connection(request, self._payload.reply_bytes), self._settle)

        for _ in range(count):
            if address.startswith("unix:"):
                path = address.removeprefix("unix:").removeprefix("//")
                _, made = await loop.create_unix_connection(link, path)
            else:
                host, _, port = address.rpartition(":")
                _, made = await loop.create_connection(link, host.strip("[]"), int(port))
            await made.ready
            self._links.append(made)
            connection = made.connection
            if connection.gone:
                sys.exit(f"{address}: {connection.gone}")
            if request.size > connection.stream_window:
                sys.exit(
                    f"a request of {request.size} bytes is more than the {connection.stream_window}"
                    f" that {address} takes without being asked: use --client grpc"
                )

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        link = self._links[place % len(self._links)]
        if link.connection.gone:
            self._record.failed[place] = link.connection.gone
            return
        self._left += 1
        link.send(Call(place, due_ns))

    async def finish(self) -> None:
        """Wait for the answers that are still open, and close the connections."""
        if self._left:
            self._answered.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), PATIENCE_S)
        for link in self._links:
            link.connection.leave("finished")
            await link.close()

    def _settle(self, settled: Settled, now_ns: int) -> None:
        for call, failure in settled:
            if failure:
                self._record.failed[call.place] = failure
            else:
                self._record.latency_ns[call.place] = now_ns - call.due_ns
        self._left -= len(settled)
        if not self._left:
            self._answered.set()


class GrpcCalls:
    """Every request is a call of the gRPC client."""

    def __init__(self, payload: Payload, record: Record, deadline_ns: int | None) -> None:
        self._request = payload.request
        self._record = record
        self._timeout = deadline_ns / SECOND if deadline_ns else None
        self._stack = AsyncExitStack()
        self._stubs: list[grpc.aio.UnaryUnaryMultiCallable] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, address: str, count: int) -> None:
        """Be ready to send, over that many connections."""
        channels = await self._stack.enter_async_context(connections(address, count))
        self._stubs = [channel.unary_unary(UNARY) for channel in channels]

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        task = asyncio.create_task(self._one(place, due_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait for the answers that are still open, and close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE_S)
        await self._stack.aclose()

    async def _one(self, place: int, due_ns: int) -> None:
        try:
            await self._stubs[place % len(self._stubs)](self._request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            self._record.failed[place] = error.code().name
        else:
            self._record.latency_ns[place] = time.monotonic_ns() - due_ns


class Streams:
    """Requests go round a few streams; the server answers each stream in order."""

    def __init__(self, payload: Payload, record: Record, count: int) -> None:
        self._request = payload.request
        self._reply_bytes = payload.stream_reply_bytes
        self._record = record
        self._count = count
        self._stack = AsyncExitStack()
        self._outboxes: list[asyncio.Queue[tuple[int, int] | None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, address: str, count: int) -> None:
        """Open the streams, over that many connections."""
        channels = await self._stack.enter_async_context(connections(address, count))
        for number in range(self._count):
            call = channels[number % len(channels)].stream_stream(STREAM)()
            outbox: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
            sent: deque[tuple[int, int]] = deque()
            self._outboxes.append(outbox)
            self._tasks.append(asyncio.create_task(self._write(call, outbox, sent)))
            self._tasks.append(asyncio.create_task(self._read(call, sent)))

    def send(self, place: int, due_ns: int) -> None:
        """Send one request; does not wait."""
        self._outboxes[place % self._count].put_nowait((place, due_ns))

    async def finish(self) -> None:
        """Wait for the answers that are still open, and close the connections."""
        for outbox in self._outboxes:
            outbox.put_nowait(None)
        await asyncio.wait(self._tasks, timeout=PATIENCE_S)
        await self._stack.aclose()

    async def _write(
        self, call: grpc.aio.StreamStreamCall, outbox: asyncio.Queue, sent: deque
    ) -> None:
        while (item := await outbox.get()) is not None:
            sent.append(item)
            await call.write(self._request)
        await call.done_writing()

    async def _read(self, call: grpc.aio.StreamStreamCall, sent: deque) -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            place, due_ns = sent.popleft()
            if len(reply) == self._reply_bytes:
                self._record.latency_ns[place] = time.monotonic_ns() - due_ns
            else:
                self._record.failed[place] = "error message on the stream"
