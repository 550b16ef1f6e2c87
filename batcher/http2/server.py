"""A gRPC server on asyncio with our own HTTP/2: the part of `grpc.aio.Server` that we use.

It takes the same handlers and hands them a context with the same methods. What it leaves out are
interceptors, compressed answers and channelz.

Answers that are ready in one turn of the loop leave in few writes for each connection: those of a
batch are ready together, and the most urgent, which come first, wait `COMPANY_NS` for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import socket
import ssl
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc

from batcher.clock import MICROSECOND, monotonic_ns
from batcher.http2 import calls
from batcher.http2.calls import Head, MalformedCallError, Metadata
from batcher.http2.connection import Connection
from batcher.http2.context import Call
from batcher.http2.fields import Request
from batcher.http2.frames import Error
from batcher.http2.streams import Ended, Limits, Opened, Received, Reset, Stream
from batcher.sockets import BACKLOG

log = logging.getLogger(__name__)

GREETING_S = 20.0
"""How long a client may take for its first frames, and for the handshake of TLS before them."""

COMPANY_NS = 200 * MICROSECOND
"""How long an answer waits for others that leave in the same write."""

SILENT_S = 120
"""How long the other side's kernel may leave what we send unanswered; an idle caller's answers."""

LEAVING_S = 1.0
"""How long calls may be on their way that a client opened before it read that it should leave."""

CLOSING_S = 5.0
"""How long a client may read nothing of the last that is said to it, and leave the socket open."""
STREAM_WINDOW = 2**17
"""Bytes of messages that wait to be read from one call. A larger message may come whole."""


@dataclass(frozen=True, slots=True)
class CallDetails(grpc.HandlerCallDetails):  # type: ignore[misc]  # grpc has no types
    """What a handler is chosen by."""

    method: str
    invocation_metadata: Metadata


class Server:
    """Answers calls on any number of listening sockets. `start` once, then `stop` once."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        *,
        max_message: int,
        max_streams: int,
        max_connections: int,
        max_headers: int,
        too_large: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`too_large` is told of every call that is refused for a size: `message` or `metadata`."""
        self.max_message = max_message
        self.max_connections = max_connections
        self.limits = Limits(
            max_streams=max_streams,
            max_headers=max_headers,
            stream_window=STREAM_WINDOW,
        )
        self.clients: set[Client] = set()
        self._too_large = too_large
        self._handlers = handlers
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._listeners: list[asyncio.Server] = []
        self._idle = asyncio.Event()
        self.stopping = False
        """Whoever connects from now on, or whose handshake ends, comes too late."""

    async def listen(self, sock: socket.socket, secrets: ssl.SSLContext | None) -> None:
        """Answer on this bound socket, with TLS where there are secrets."""
        loop = asyncio.get_running_loop()
        timeout_s = GREETING_S if secrets else None
        neighbours: set[Client] = set()
        self._listeners.append(
            await loop.create_server(
                lambda: Client(self, neighbours),
                sock=sock,
                backlog=BACKLOG,
                ssl=secrets,
                ssl_handshake_timeout=timeout_s,
            )
        )

    def leave(self) -> None:
        """Take no new connection, and ask the clients of open ones to go elsewhere.

        Those that have read it are let go when their calls have ended.
        """
        if not self.stopping:
            self.stopping = True
            for listener in self._listeners:
                listener.close()
            for client in list(self.clients):
                client.announce()

    async def stop(self, grace_s: float) -> None:
        """Take no new connection or call, let open ones end for `grace_s` seconds, then cut them."""
        self.leave()
        await self._all_gone(min(grace_s, LEAVING_S))
        for client in list(self.clients):
            client.leave()
        await self._all_gone(grace_s - LEAVING_S)
        tasks = [call.task for client in self.clients for call in client.calls.values()]
        for client in list(self.clients):
            client.cut()
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    async def _all_gone(self, timeout_s: float) -> None:
        if self.clients and timeout_s > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    def refused(self, error: MalformedCallError) -> None:
        """A call is not answered because of this."""
        if error.limit:
            self._too_large(error.limit)

    def gone(self, client: Client) -> None:
        """A connection has ended."""
        self.clients.discard(client)
        client.neighbours.discard(client)
        if not self.clients:
            self._idle.set()

    def method(self, head: Head) -> grpc.RpcMethodHandler[Any, Any]:
        """Who answers a call of that path. Raises `MalformedCallError` where nobody does."""
        known = self._methods.get(head.path)
        if known is None:
            details = CallDetails(head.path, head.metadata)
            for handler in self._handlers:
                known = handler.service(details)
                if known is not None:
                    self._methods[head.path] = known
                    return known
            raise MalformedCallError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return known


class Client(asyncio.Protocol):
    """One connection and its calls."""

    def __init__(self, server: Server, neighbours: set[Client]) -> None:
        self.server = server
        self.neighbours = neighbours
        """The clients of its listener."""
        self.calls: dict[Stream, Call] = {}
        self.loop = asyncio.get_running_loop()
        self.writable = asyncio.Event()
        """Set while the socket takes what is written."""
        self.writable.set()
        self.connection = Connection(server.limits)
        self._transport: asyncio.Transport | None = None
        self._greeting: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._flushing = self._closing = False
        self._answered_ns = 0
        """Since when an answer waits to be written; 0: none does."""
        self._calm_s = self.loop.time()
        """When its budget was last refilled."""

    # --- of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport = cast("asyncio.Transport", transport)
        if self.server.stopping or len(self.neighbours) >= self.server.max_connections:
            transport.abort()
            return
        self.neighbours.add(self)
        self.server.clients.add(self)
        _keep_alive(transport.get_extra_info("socket"))
        self._greeting = self.loop.call_later(GREETING_S, transport.abort)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """It is gone: so are those who wait for answers on it."""
        for timer in (self._greeting, self._lingering):
            if timer is not None:
                timer.cancel()
        self._transport = None
        self._drop_calls()
        self.server.gone(self)

    def pause_writing(self) -> None:
        """The client reads too slowly: nothing more is taken from it."""
        self.writable.clear()
        if self._transport is not None and not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writable.set()
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.resume_reading()
        if self._closing and not self._transport.can_write_eof():
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Bytes of any length, from the middle of one frame to that of another."""
        connection = self.connection
        now_s = self.loop.time()
        if now_s >= self._calm_s + 1.0:
            self._calm_s = now_s
            connection.budget.refill()
        for event in connection.receive(data):
            if isinstance(event, Opened):
                self._open(event.stream, event.request)
                continue
            call = self.calls.get(event.stream)
            if call is None:
                continue
            if isinstance(event, Received):
                call.received(event.data)
            elif isinstance(event, Ended):
                call.ended()
            elif isinstance(event, Reset):
                call.cancel()
            else:
                call.sent()
        if self._greeting is not None and connection.preface_received:
            self._greeting.cancel()
            self._greeting = None
        if connection.draining and not self.calls:
            connection.fail(Error.NO_ERROR, "")
        if connection.closing:
            self._drop_calls()
        self.flush_soon()

    # --- of the calls ---

    def answered(self) -> None:
        """An answer is to be written: now, if another has waited for it for long enough."""
        now_ns = monotonic_ns()
        if not self._answered_ns:
            self._answered_ns = now_ns
        elif now_ns - self._answered_ns >= COMPANY_NS:
            self.flush()

    def flush_soon(self) -> None:
        """Write before the loop's next turn what has come together in this one."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is to be written."""
        self._flushing = False
        self._answered_ns = 0
        if self._transport is None or self._closing:
            return
        data = self.connection.take()
        if data:
            self._transport.write(data)
        if self.connection.closing:
            self._closing = True
            # What the client still sends is read: closed upon it, a socket forgets what it has not
            # sent.
            if self._transport.can_write_eof():
                with contextlib.suppress(OSError):  # the client has left already
                    self._transport.write_eof()
            elif self._transport.get_write_buffer_size():
                self._transport.set_write_buffer_limits(0)  # `resume_writing` tells when all left
                self._transport.resume_reading()
            else:
                self._transport.close()
            self._linger(_unread(self._transport))

    def _linger(self, left: int) -> None:
        """The client may read what is left and close, as long as it goes on reading."""
        self._lingering = self.loop.call_later(CLOSING_S, self._end_unless_read, left)

    def _end_unless_read(self, before: int) -> None:
        if self._transport is None:
            return
        left = _unread(self._transport)
        if left < before:
            self._linger(left)
        else:
            self._transport.abort()

    def done(self, call: Call) -> None:
        """A call has ended, and nothing of it goes on."""
        del self.calls[call.stream]
        self.connection.release(call.stream)
        self.flush_soon()
        if self.connection.draining and not self.calls:
            self.connection.fail(Error.NO_ERROR, "")

    def announce(self) -> None:
        """Ask for calls to be opened elsewhere; those that are on their way are answered."""
        if self._transport is not None and not self.connection.preface_received:
            self._transport.abort()
            return
        self.connection.announce_leaving()
        self.flush()

    def leave(self) -> None:
        """Take no more calls; close when those that are open have ended."""
        if self._transport is not None and not self.connection.preface_received:
            self._transport.abort()
            return
        self.connection.leave()
        if not self.calls:
            self.connection.fail(Error.NO_ERROR, "")
        self.flush()

    def cut(self) -> None:
        """End at once."""
        for call in list(self.calls.values()):
            call.end(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            call.cancel()
        self.connection.fail(Error.NO_ERROR, "")
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def _drop_calls(self) -> None:
        """Nobody can be answered any more."""
        for call in list(self.calls.values()):
            call.stream.finished = True
            call.cancel()

    def _open(self, stream: Stream, request: Request) -> None:
        try:
            head = calls.read_head(request, self.server.limits.max_headers)
            method = self.server.method(head)
        except MalformedCallError as error:
            self.server.refused(error)
            fields = calls.status(error.code, str(error), ()) if error.http == 200 else ()
            self.connection.send_trailers(stream, calls.alone(fields, error.http))
            self.connection.release(stream)
        else:
            self.calls[stream] = Call(self, stream, head, method)


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken from us, those in the kernel's hands among them."""
    sent = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, sent)
    return transport.get_write_buffer_size() + int.from_bytes(sent, sys.byteorder)


def _keep_alive(sock: socket.socket) -> None:
    """Have the kernel end a connection whose other side is gone without a word."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, SILENT_S // 2),
        (socket.TCP_KEEPINTVL, SILENT_S // 6),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, SILENT_S * 1000),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
