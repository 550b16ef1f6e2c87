"""How the bytes of a call become messages: split, assembled on a thread where large, decompressed."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import Any, TypeAlias

import grpc
from grpc import aio

from batcher.buffers import Claim
from batcher.clock import SECOND
from batcher.http2 import grpc_headers
from batcher.http2.call_buffers import CallBuffers
from batcher.http2.connection_lifetime import ConnectionLifetime
from batcher.http2.decompression import FIRST_STEP, STEP, Decompressor
from batcher.http2.grpc_headers import PREFIX_BYTES, MalformedCallError
from batcher.http2.sansio.streams import Stream
from batcher.http2.timeouts import StallTimer

Message: TypeAlias = tuple[int, bytes | list[bytes]]
"""Whether it is compressed (0 or 1), and its bytes as they came, a large message in pieces. It stays so
until it is read: decompressed it would take more memory."""

MESSAGE_BYTES = 128
"""Bytes charged for a message of a stream that waits to be read, beside its own."""
LARGE_MESSAGE = 2**20
"""Bytes. A larger message is joined on a thread: 64 MiB take 20 ms and more."""
PIECE = 2**16
"""Bytes of the pieces of a large message."""

ONE_MESSAGE = "a unary call has one message"


class LargeMessage:
    """A large message as it comes, in pieces: joining `bytes` on a thread lets the event loop run."""

    __slots__ = ("_tail", "compressed", "left", "pieces", "size")

    def __init__(self, compressed: int, size: int) -> None:
        self.compressed = compressed
        self.size = size
        self.left = size
        """Bytes that have not come yet."""
        self.pieces: list[bytes] = []
        self._tail = bytearray()

    def add(self, data: memoryview) -> int:
        """Take the bytes that belong to the message from the front of `data`; returns how many."""
        taken = min(len(data), self.left)
        self._tail += data[:taken]
        self.left -= taken
        if len(self._tail) >= PIECE or not self.left:
            self.pieces.append(bytes(self._tail))
            self._tail.clear()
        return taken


class CallMessages(CallBuffers):
    """The part of a `Call` that receives messages."""

    __slots__ = (
        "_buffer",
        "_claim",
        "_encoding",
        "_granted",
        "_large",
        "_messages",
        "_method",
        "_reader",
        "_receive_stall",
        "_request_streaming",
    )

    def __init__(
        self,
        connection: ConnectionLifetime,
        stream: Stream,
        encoding: str,
        charged: int,
        method: grpc.RpcMethodHandler[Any, Any],
    ) -> None:
        super().__init__(connection, stream, charged)
        self._method = method
        self._encoding = encoding
        self._request_streaming = bool(method.request_streaming)
        self._buffer: bytes | bytearray = b""
        """What has come of the next message."""
        self._large: LargeMessage | None = None
        """The next message where it is large; `_buffer` is empty then."""
        self._messages: deque[Message] = deque()
        """Complete messages that were not read yet."""
        self._reader: asyncio.Future[None] | None = None
        """Set when a handler waits for a message."""
        self._granted = 0
        """Bytes of the next message that are charged and have not come yet."""
        self._claim: Claim | None = None
        """A receive window that waits for room."""
        self._receive_stall: StallTimer | None = None
        """For how long its message makes no progress, as sweeps have seen it."""

    @property
    def _received_bytes(self) -> int:
        """Bytes of the next message that have come, those of its prefix included."""
        large = self._large
        return len(self._buffer) if large is None else PREFIX_BYTES + large.size - large.left

    @property
    def is_streaming(self) -> bool:
        """Whether requests or answers are streamed: then silence of the client is no fault."""
        return bool(self._method.request_streaming or self._method.response_streaming)

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        while not self._messages:
            if self.stream.request_ended:
                return aio.EOF
            self._reader = self._connection.loop.create_future()
            try:
                await self._reader
            finally:
                # Else a cancelled one would refer to this frame by its traceback.
                self._reader = None
        message = self._messages.popleft()
        compressed, data = message
        size = len(data) if isinstance(data, bytes) else sum(map(len, data))
        self._connection.http2.consume(self.stream, PREFIX_BYTES + size)
        self._connection.flush_soon()
        try:
            if compressed or not isinstance(data, bytes):
                data = await self._assemble(data, compressed)
            # From here on the handler charges it.
            self._release(PREFIX_BYTES + len(data))
            return self._deserialize(data)
        except MalformedCallError as error:
            # The task is cancelled, too: the reader may be another one than the handler's.
            self._refuse(error)
            self.cancel()
            raise aio.AbortError from None

    def data_received(self, data: bytes) -> None:
        """Take bytes of the call's messages."""
        if self.stream.closed:
            return
        self._connection.silent_ns = 0
        size = len(data)
        if self._granted:
            arrived = min(size, self._granted)
            self._granted -= arrived
            size -= arrived
            self._connection.account.arrived(arrived)
        if size:
            server = self._connection.server
            if not server.buffers.reserve(size) and not server.make_room(self._connection, size):
                self._end_for_room(size)
                return
            self._charged += size
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
            self._refuse(error)
            self.cancel()

    def sweep_receiving(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where its message has not begun, or made no progress, for `limit_ns`."""
        received = 0 if self._claim is not None else self._received_bytes
        if self._receive_stall is None:
            self._receive_stall = StallTimer(received)
        if self._claim is not None:
            if self._receive_stall.update(received, elapsed_ns) >= limit_ns:
                self._end_for_room(self._claim.size)
        # Without a window, or where the socket is not read, the server is what the call waits for.
        elif (
            self.stream.receive_window > 0
            and self._connection.writable.is_set()
            and self._receive_stall.update(received, elapsed_ns) >= limit_ns
        ):
            self._end_stalled(
                f"the request made no progress for {limit_ns / SECOND:g} s (server.receive_timeout)"
            )

    def _split(self, buffer: bytes | bytearray) -> None:
        """Take the complete messages from the front of `buffer`, and keep the rest."""
        at, end = 0, len(buffer)
        most, unread = self._connection.server.max_message, len(self._messages)
        large = self._large
        if large is not None:
            at = large.add(memoryview(buffer))
            if large.left:
                self._buffer = b""
                self._request_window(large.left)
                return
            self._large = None
            self._complete((large.compressed, large.pieces))
        while end - at >= PREFIX_BYTES:
            size = int.from_bytes(buffer[at + 1 : at + PREFIX_BYTES], "big")
            if size > most:
                raise grpc_headers.too_large(size, most)
            start = at + PREFIX_BYTES
            if start + size > end:
                if size > LARGE_MESSAGE:
                    self._large = LargeMessage(buffer[at], size)
                    at = start + self._large.add(memoryview(buffer)[start:])
                    self._request_window(self._large.left)
                else:
                    self._request_window(start + size - end)
                break
            stop = start + size
            self._complete((buffer[at], bytes(memoryview(buffer)[start:stop])))
            at = stop
        if at:
            self._buffer = buffer[at:] if at < end else b""
            if self._request_streaming:
                self._reserve((len(self._messages) - unread) * MESSAGE_BYTES)
                self._connection.receiving.pop(self, None)
        if (
            self._received_bytes
            and self._request_streaming
            and self not in self._connection.receiving
        ):
            self._receive_stall = None
            self._connection.receiving[self] = None

    def _complete(self, message: Message) -> None:
        """Queue a complete message for its reader."""
        self._withdraw_claim()
        self._messages.append(message)
        if len(self._messages) > 1 and not self._request_streaming:
            raise MalformedCallError(grpc.StatusCode.UNIMPLEMENTED, ONE_MESSAGE)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # --- the receive window of a message that is larger than a stream's first one ---

    def _request_window(self, size: int) -> None:
        """Let the client send that many bytes more, once there is room for them."""
        if size <= self.stream.receive_window or self._claim is not None:
            return
        if size <= self._granted:
            self._connection.http2.allow(self.stream, size)
            return
        self._receive_stall = None
        claim = self._connection.account.claim(size - self._granted, self._window_granted)
        if claim.waiting:
            self._claim = claim

    def _window_granted(self, size: int) -> None:
        """There is room for the rest of a message."""
        if self._claim is not None:
            # The claim has waited, and some of the message may have come meanwhile.
            self._claim = None
            whole = PREFIX_BYTES + int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
            missing = whole - self._received_bytes if self._large is None else self._large.left
            if missing < size:
                self._connection.account.arrived(size - missing)
                self._connection.server.buffers.release(size - missing)
                size = missing
        self._receive_stall = None
        self._granted += size
        self._charged += size
        self._connection.http2.allow(self.stream, self._granted)
        self._connection.flush_soon()

    def _withdraw_claim(self) -> None:
        if self._claim is not None:
            claim, self._claim = self._claim, None
            self._connection.account.withdraw(claim)

    # --- a message as its sender had it ---

    async def _assemble(self, data: bytes | list[bytes], compressed: int) -> bytes:
        """Join and decompress a message; its charge is that of the result then.

        Raises `MalformedCallError`.
        """
        if not isinstance(data, bytes):
            pool = self._connection.server.offload_pool
            data = await self._connection.loop.run_in_executor(pool, b"".join, data)
        if not compressed:
            return data
        whole = await self._decompress(data)
        self._release(len(data))
        return whole

    async def _decompress(self, data: bytes) -> bytes:
        """Decompress a message; the result is charged. Raises `MalformedCallError`."""
        server, loop = self._connection.server, self._connection.loop
        decompressor = Decompressor(data, self._encoding, server.max_message)
        reserved = 0
        try:
            complete = decompressor.step(FIRST_STEP)
            self._reserve(decompressor.size)
            reserved = decompressor.size
            while not complete:
                size = min(STEP, server.max_message + 1 - decompressor.size)
                self._reserve(size)
                reserved += size
                step = functools.partial(decompressor.step, size)
                complete = await loop.run_in_executor(server.offload_pool, step)
            return decompressor.message()
        finally:
            self._release(max(reserved - decompressor.size, 0))

    def _deserialize(self, data: bytes) -> Any:
        deserialize = self._method.request_deserializer
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception:  # noqa: BLE001  # whatever a parser raises
            text = "Exception deserializing request!"  # as grpcio says it
            raise MalformedCallError(grpc.StatusCode.INTERNAL, text) from None


class RequestIterator:
    """The messages of a call, for a handler that iterates."""

    def __init__(self, call: CallMessages) -> None:
        self._call = call

    def __aiter__(self) -> RequestIterator:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.read()
        if message is aio.EOF:
            raise StopAsyncIteration
        return message
