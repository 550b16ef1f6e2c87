"""A gRPC server on asyncio with our own HTTP/2: the part of `grpc.aio.Server` that we use.

It takes the same handlers and hands them a context with the same methods. What it leaves out are
interceptors, compressed answers and channelz.

Answers that are ready in one turn of the loop leave in one write for each connection: those of a
batch are ready together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any, NoReturn, TypeAlias, cast

import grpc
from grpc import aio

from batcher.clock import SECOND
from batcher.http2 import calls
from batcher.http2.calls import PREFIX_BYTES, Head, MalformedCallError, Metadata
from batcher.http2.connection import (
    Connection,
    Ended,
    Limits,
    Opened,
    Received,
    Reset,
    Stream,
)
from batcher.http2.frames import Error
from batcher.http2.headers import Headers, encode

log = logging.getLogger(__name__)

Message: TypeAlias = tuple[int, bytes]
"""Whether it is compressed, and a message as it came: what waits to be read takes no more memory."""

GREETING_S = 20.0
"""How long a client may take for its first frames, and for the handshake of TLS before them."""

CLOSING_S = 5.0
"""How long a client may read nothing of the last that is said to it, and leave the socket open."""
STREAM_WINDOW = 2**17
"""Bytes of messages that wait to be read from one call. A larger message may come whole."""

_FRAMES_AT_ONCE = 16
_LONGEST_TIMER_S = 30 * 24 * 3600.0
"""A longer deadline than any call; further away, a timer would overflow."""


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
    ) -> None:
        self.max_message = max_message
        self.max_connections = max_connections
        self.limits = Limits(
            max_streams=max_streams,
            max_headers=max_headers,
            stream_window=STREAM_WINDOW,
        )
        self.clients: set[Client] = set()
        self._handlers = handlers
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._listeners: list[asyncio.Server] = []
        self._idle = asyncio.Event()
        self.stopping = False
        """Whoever connects from now on, or whose handshake ends, comes too late."""

    async def listen(self, sock: socket, secrets: ssl.SSLContext | None) -> None:
        """Answer on this bound socket, with TLS where there are secrets."""
        loop = asyncio.get_running_loop()
        timeout_s = GREETING_S if secrets else None
        neighbours: set[Client] = set()
        self._listeners.append(
            await loop.create_server(
                lambda: Client(self, neighbours),
                sock=sock,
                ssl=secrets,
                ssl_handshake_timeout=timeout_s,
            )
        )

    async def stop(self, grace_s: float) -> None:
        """Take no new connection or call, let open ones end for `grace_s` seconds, then cut them."""
        self.stopping = True
        for listener in self._listeners:
            listener.close()
        for client in list(self.clients):
            client.leave()
        if self.clients and grace_s > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        tasks = [call.task for client in self.clients for call in client.calls.values()]
        for client in list(self.clients):
            client.cut()
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

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
        self._flushing = self._leaving = self._closing = False

    # --- of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport = cast("asyncio.Transport", transport)
        if self.server.stopping or len(self.neighbours) >= self.server.max_connections:
            transport.abort()
            return
        self.neighbours.add(self)
        self.server.clients.add(self)
        self._greeting = self.loop.call_later(GREETING_S, transport.abort)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """It is gone: so are those who wait for answers on it."""
        if self._greeting is not None:
            self._greeting.cancel()
        self._transport = None
        for call in list(self.calls.values()):
            call.stream.finished = True
            call.cancel()
        self.server.gone(self)

    def pause_writing(self) -> None:
        """The client reads too slowly: nothing more is taken from it."""
        self.writable.clear()
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        self.writable.set()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of any length, from the middle of one frame to that of another."""
        connection = self.connection
        for event in connection.receive(data):
            if isinstance(event, Opened):
                self._open(event.stream, event.headers)
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
        if self._greeting is not None and connection.greeted:
            self._greeting.cancel()
            self._greeting = None
        self.flush_soon()

    # --- of the calls ---

    def flush_soon(self) -> None:
        """Write before the loop's next turn what has come together in this one."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is to be written."""
        self._flushing = False
        if self._transport is None or self._closing:
            return
        data = self.connection.take()
        if data:
            self._transport.write(data)
        if self.connection.closing:
            self._closing = True
            if self._transport.can_write_eof():
                # What the client still sends is read: closed upon it, a socket forgets what it
                # has not sent.
                with contextlib.suppress(OSError):  # the client has left already
                    self._transport.write_eof()
                self._linger(self._transport.get_write_buffer_size())
            else:
                self._transport.close()
                self.loop.call_later(CLOSING_S, self._transport.abort)

    def _linger(self, left: int) -> None:
        """The client may read what is left and close, as long as it goes on reading."""
        self.loop.call_later(CLOSING_S, self._end_unless_read, left)

    def _end_unless_read(self, before: int) -> None:
        if self._transport is None:
            return
        left = self._transport.get_write_buffer_size()
        if left < before:
            self._linger(left)
        else:
            self._transport.abort()

    def done(self, call: Call) -> None:
        """A call has ended, and nothing of it goes on."""
        del self.calls[call.stream]
        self.connection.release(call.stream)
        self.flush_soon()
        if self._leaving and not self.calls:
            self.connection.fail(Error.NO_ERROR, "")

    def leave(self) -> None:
        """Take no more calls; close when those that are open have ended."""
        if self._transport is not None and not self.connection.greeted:
            self._transport.abort()
            return
        self._leaving = True
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

    def _open(self, stream: Stream, headers: Headers) -> None:
        try:
            head = calls.read_head(headers, self.server.limits.max_headers)
            method = self.server.method(head)
        except MalformedCallError as error:
            fields = calls.status(error.code, str(error), ()) if error.http == 200 else ()
            self.connection.send_trailers(stream, calls.alone(fields, error.http))
            self.connection.release(stream)
        else:
            self.calls[stream] = Call(self, stream, head, method)


class Call:
    """A call, and the context that its handler gets: `grpc.aio.ServicerContext`, in part."""

    __slots__ = (
        "_buffer",
        "_client",
        "_deadline_s",
        "_expired",
        "_head",
        "_messages",
        "_method",
        "_opened",
        "_reader",
        "_timer",
        "_trailing",
        "_writer",
        "stream",
        "task",
    )

    def __init__(
        self, client: Client, stream: Stream, head: Head, method: grpc.RpcMethodHandler[Any, Any]
    ) -> None:
        self.stream = stream
        self.task: asyncio.Task[None] | None = None
        """What answers it; None until there is something to answer."""
        self._client = client
        self._head = head
        self._method = method
        self._trailing: Metadata = ()
        self._opened = self._expired = False
        self._buffer: bytes | bytearray = b""
        """What has come of the next message."""
        self._messages: deque[Message] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._deadline_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout_ns is not None:
            wait_s = min(head.timeout_ns / SECOND, _LONGEST_TIMER_S)
            self._deadline_s = client.loop.time() + wait_s
            self._timer = client.loop.call_later(wait_s, self._expire)
        if method.request_streaming:
            self._begin(_Requests(self))

    # --- for its handler ---

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None: there is none."""
        if self._deadline_s is None:
            return None
        return max(self._deadline_s - self._client.loop.time(), 0.0)

    def invocation_metadata(self) -> Metadata:
        """The caller's metadata."""
        return self._head.metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """What goes out with the status."""
        self._trailing = tuple(metadata)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with that status. Raises `grpc.aio.AbortError`, always."""
        self.end(code, details, trailing_metadata or self._trailing)
        raise aio.AbortError

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        while not self._messages:
            if self.stream.ended:
                return aio.EOF
            self._reader = self._client.loop.create_future()
            await self._reader
        message = self._messages.popleft()
        self._client.connection.take_in(self.stream, PREFIX_BYTES + len(message[1]))
        self._client.flush_soon()
        try:
            return self._request(message)
        except MalformedCallError as error:
            await self.abort(error.code, str(error))

    async def write(self, message: Any) -> None:
        """Send a message; returns when the client's window and the socket have taken it."""
        data = self._framed(message)
        client, stream = self._client, self.stream
        if not self._opened:
            self._opened = True
            client.connection.send_headers(stream, calls.OPENING)
        client.connection.send_data(stream, data)
        # A handler that never waits gives the loop no turn to write in.
        if client.connection.frames_to_write > _FRAMES_AT_ONCE:
            client.flush()
        else:
            client.flush_soon()
        if stream.outbox:
            await self._all_sent()
        if not client.writable.is_set():
            await client.writable.wait()

    # --- for its connection ---

    def received(self, data: bytes) -> None:
        """Bytes of its messages."""
        buffer = self._buffer
        if buffer:
            if isinstance(buffer, bytes):
                self._buffer = buffer = bytearray(buffer)
            buffer += data
        else:
            self._buffer = buffer = data
        try:
            self._split(buffer)
        except MalformedCallError as error:
            self.end(error.code, str(error))
            self.cancel()

    def ended(self) -> None:
        """The client has sent its last message."""
        if self._buffer:
            self.end(grpc.StatusCode.INTERNAL, "the last message is cut short")
            self.cancel()
        elif self.task is not None:
            self._wake()
        elif len(self._messages) == 1:
            try:
                request = self._request(self._messages.popleft())
            except MalformedCallError as error:
                self.end(error.code, str(error))
                self._close()
            else:
                self._begin(request)
        else:
            self.end(grpc.StatusCode.UNIMPLEMENTED, "a unary call has one message")
            self._close()

    def sent(self) -> None:
        """All that it wrote has left."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.task is None:
            self._close()
        else:
            self.task.cancel()

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status. Does nothing where one was sent."""
        self._client.connection.abandon(self.stream)
        fields = calls.status(code, details, metadata)
        block = encode(fields) if self._opened else calls.alone(fields)
        self._client.connection.send_trailers(self.stream, block)

    # --- its answer ---

    def _begin(self, request: Any) -> None:
        self.task = self._client.loop.create_task(self._run(request))
        # A task that is cancelled before its first step does not get as far as a `finally`.
        self.task.add_done_callback(self._close)

    async def _run(self, request: Any) -> None:
        try:
            if self._method.response_streaming:
                await self._stream(request)
            else:
                await self._answer(request)
        except aio.AbortError:
            pass
        except asyncio.CancelledError:
            # Whoever cancelled it may have said why; a status that was sent is not sent again.
            self.end(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception as error:
            log.exception("a call of %s failed", self._head.path)
            self.end(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")

    async def _answer(self, request: Any) -> None:
        method = self._method
        behave = method.stream_unary if method.request_streaming else method.unary_unary
        data = self._framed(await behave(request, self))
        connection = self._client.connection
        trailers = self._trailers()
        self._opened = True
        connection.send_all(self.stream, calls.OPENING, data, trailers)
        if self.stream.outbox:
            self._client.flush_soon()
            await self._all_sent()

    async def _stream(self, request: Any) -> None:
        method = self._method
        behave = method.stream_stream if method.request_streaming else method.unary_stream
        answers = behave(request, self)
        if isinstance(answers, AsyncIterator):
            async for answer in answers:
                await self.write(answer)
        else:
            await answers
        if self._opened:
            self._client.connection.send_trailers(self.stream, self._trailers())
        else:
            self.end(grpc.StatusCode.OK, metadata=self._trailing)

    def _trailers(self) -> bytes:
        if not self._trailing:
            return calls.OK
        return encode(calls.status(grpc.StatusCode.OK, "", self._trailing))

    def _framed(self, message: Any) -> bytes:
        serialize = self._method.response_serializer
        data = serialize(message) if serialize else message
        size = len(data)
        if size > self._client.server.max_message:
            self.end(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({size} vs. {self._client.server.max_message})",
            )
            raise aio.AbortError
        return b"".join((b"\0", size.to_bytes(4, "big"), data))

    def _split(self, buffer: bytes | bytearray) -> None:
        at, end = 0, len(buffer)
        most = self._client.server.max_message
        while end - at >= PREFIX_BYTES:
            size = int.from_bytes(buffer[at + 1 : at + PREFIX_BYTES], "big")
            if size > most:
                raise calls.too_large(size, most)
            start = at + PREFIX_BYTES
            if start + size > end:
                self._client.connection.expect(self.stream, start + size - end)
                break
            compressed = buffer[at]
            at = start + size
            self._messages.append((compressed, bytes(memoryview(buffer)[start:at])))
            self._wake()
        if at:
            self._buffer = buffer[at:]

    async def _all_sent(self) -> None:
        self._writer = self._client.loop.create_future()
        await self._writer

    def _request(self, message: Message) -> Any:
        compressed, data = message
        if compressed:
            data = calls.inflate(data, self._head.encoding, self._client.server.max_message)
        deserialize = self._method.request_deserializer
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001  # whatever a parser raises
            text = "Exception deserializing request!"
            raise MalformedCallError(grpc.StatusCode.INTERNAL, text) from None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _expire(self) -> None:
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        self._client.flush_soon()
        self.cancel()

    def _close(self, _: asyncio.Task[None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._client.done(self)


class _Requests:
    """The messages of a call, for a handler that iterates."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is aio.EOF:
            raise StopAsyncIteration
        return message
