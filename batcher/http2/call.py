"""One call: its messages, its deadline, its answer; and the context that its handler gets."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from grpc import aio

from batcher.buffers import LARGE_ANSWER
from batcher.clock import SECOND
from batcher.http2 import grpc_headers
from batcher.http2.call_buffers import LARGE_MESSAGE, CallBuffers, LargeMessage
from batcher.http2.grpc_headers import PREFIX_BYTES, CallHeaders, MalformedCallError, Metadata
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import Stream

if TYPE_CHECKING:
    from batcher.http2.server_connection import ServerConnection

log = logging.getLogger(__name__)

Message: TypeAlias = tuple[int, bytes | list[bytes]]
"""Whether it is compressed, and a message as it came, a large one in pieces: what waits to be read takes
no more memory."""

MESSAGE_BYTES = 128
"""What a message that waits to be read counts for in `max_buffered`, beside its bytes."""

_FRAMES_AT_ONCE = 16
_ONE_MESSAGE = "a unary call has one message"
_LONGEST_TIMER_S = 30 * 24 * 3600.0
"""A longer deadline than any call; further away, a timer would overflow."""


class Call(CallBuffers):
    """A call, and the context that its handler gets: `grpc.aio.ServicerContext`, in part."""

    __slots__ = (
        "_deadline_s",
        "_head",
        "_messages",
        "_method",
        "_opened",
        "_reader",
        "_timer",
        "_trailing",
        "_writer",
        "task",
    )

    def __init__(
        self,
        client: ServerConnection,
        stream: Stream,
        head: CallHeaders,
        method: grpc.RpcMethodHandler[Any, Any],
        charged: int,
    ) -> None:
        """A call that has begun; so many bytes are charged for it, and released at its end."""
        super().__init__(client, stream, head.encoding, charged)
        self.task: asyncio.Task[None] | None = None
        """What answers it; None until there is something to answer."""
        self._head = head
        self._method = method
        self._trailing: Metadata = ()
        self._opened = False
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
            self._begin(_Requests(self), None)
        else:
            client.receiving[self] = None

    @property
    def streams(self) -> bool:
        """Whether it is a stream, in which a client may be silent for as long as it likes."""
        return bool(self._method.request_streaming or self._method.response_streaming)

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
            if self.stream.request_ended:
                return aio.EOF
            self._reader = self._client.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None  # cancelled, it would know this frame by the traceback
        message = self._messages.popleft()
        compressed, data = message
        size = len(data) if isinstance(data, bytes) else sum(map(len, data))
        self._client.connection.consume(self.stream, PREFIX_BYTES + size)
        self._client.flush_soon()
        try:
            if compressed or not isinstance(data, bytes):
                data = await self._whole(data, compressed)
            # From here on it is charged by whoever reads it.
            self._release(PREFIX_BYTES + len(data))
            return self._request(data)
        except MalformedCallError as error:
            # What was read before goes with it: the reader may not be who answers.
            self._refuse(error)
            self.cancel()
            raise aio.AbortError from None

    async def write(self, message: Any) -> None:
        """Send a message; returns when the client's window and the socket have taken it.

        Raises `grpc.aio.UsageError` where the call has ended.
        """
        client, stream = self._client, self.stream
        if stream.closed:
            raise aio.UsageError("the call has ended")
        data, rest = self._framed(message)
        client.silent_ns = 0
        if not self._opened:
            self._opened = True
            client.connection.send_headers(stream, grpc_headers.RESPONSE_HEADERS)
        client.connection.send_data(stream, data)
        if rest:
            client.connection.send_data(stream, rest)
        if stream.outbox or rest:
            await self._sent(len(rest) or len(data))
        # A handler that never waits gives the loop no turn to write in.
        elif client.connection.frames_to_send > _FRAMES_AT_ONCE:
            client.flush()
            await asyncio.sleep(0)
        else:
            client.flush_soon()
        if not client.writable.is_set():
            await client.writable.wait()

    # --- for its connection ---

    def received(self, data: bytes) -> None:
        """Bytes of its messages."""
        if self.stream.closed:
            return
        self._client.silent_ns = 0
        size = len(data)
        if self._ahead:
            came = min(size, self._ahead)
            self._ahead -= came
            size -= came
            self._client.account.came(came)
        if size:
            server = self._client.server
            if not server.buffers.reserve(size) and not server.make_room(self._client, size):
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

    def ended(self) -> None:
        """The client has sent its last message."""
        self._client.receiving.pop(self, None)
        if self._came:
            self.end(grpc.StatusCode.INTERNAL, "the last message is cut short")
            self.cancel()
        elif self.task is not None:
            self._wake()
        elif len(self._messages) == 1:
            compressed, data = self._messages.popleft()
            try:
                if compressed or not isinstance(data, bytes):
                    self._begin(None, (compressed, data))
                else:
                    self._begin(self._request(data), None)
            except MalformedCallError as error:
                self._refuse(error)
                self._close()
        else:
            self.end(grpc.StatusCode.UNIMPLEMENTED, _ONE_MESSAGE)
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

    def drop(self) -> None:
        """Nothing can be answered any more; nothing of the call is left, whatever raises."""
        self.stream.closed = True
        try:
            self.cancel()
        except Exception:
            log.exception("a call of %s did not end", self._head.path)
            self._client.calls.pop(self.stream, None)
            if self.task is not None:
                self.task.cancel()
            self._let_go()

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status. Does nothing where one was sent."""
        self._client.connection.discard_outbox(self.stream)
        if self._opened:
            block = encode(grpc_headers.status(code, details, metadata))
        else:
            block = grpc_headers.refusal(
                code, details, tuple([(name, value) for name, value in metadata])
            )
        self._client.connection.send_trailers(self.stream, block)

    # --- its answer ---

    def _begin(self, request: Any, message: Message | None) -> None:
        """Answer a request, or what is to be made one."""
        self.task = self._client.loop.create_task(self._run(request, message))
        # A task that is cancelled before its first step does not get as far as a `finally`.
        self.task.add_done_callback(self._close)

    async def _run(self, request: Any, message: Message | None) -> None:
        try:
            if message is not None:
                compressed, data = message
                request = self._request(await self._whole(data, compressed))
                del data, message
            if self._method.response_streaming:
                await self._stream(request)
            else:
                await self._answer(request)
        except aio.AbortError:
            pass
        except MalformedCallError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            # Whoever cancelled it may have said why; a status that was sent is not sent again.
            self.end(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception as error:
            log.exception("a call of %s failed", self._head.path)
            self.end(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")

    async def _answer(self, request: Any) -> None:
        method = self._method
        behave = method.stream_unary if method.request_streaming else method.unary_unary
        data, rest = self._framed(await behave(request, self))
        connection = self._client.connection
        trailers = self._trailers()
        self._opened = True
        if rest:
            connection.send_headers(self.stream, grpc_headers.RESPONSE_HEADERS)
            connection.send_data(self.stream, data)
            connection.send_data(self.stream, rest)
            connection.send_trailers(self.stream, trailers)
        else:
            connection.send_all(self.stream, grpc_headers.RESPONSE_HEADERS, data, trailers)
        self._client.answered()
        if self.stream.outbox or rest:
            await self._sent(len(rest) or len(data))

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
            return grpc_headers.OK_TRAILERS
        return encode(grpc_headers.status(grpc.StatusCode.OK, "", self._trailing))

    def _framed(self, message: Any) -> tuple[bytes, bytes]:
        """The message behind its prefix; a large one by itself, since that would copy it."""
        serialize = self._method.response_serializer
        data = serialize(message) if serialize else message
        size = len(data)
        if size > self._client.server.max_message:
            self.end(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({size} vs. {self._client.server.max_message})",
            )
            raise aio.AbortError
        prefix = b"\0" + size.to_bytes(4, "big")
        if size <= LARGE_ANSWER:
            return prefix + data, b""
        if not self._client.server.buffers.has_room_for_large(size):
            self._end_without_room(size)
            raise aio.AbortError
        return prefix, data

    def _split(self, buffer: bytes | bytearray) -> None:
        at, end = 0, len(buffer)
        most, waited = self._client.server.max_message, len(self._messages)
        large = self._large
        if large is not None:
            at = large.add(memoryview(buffer))
            if large.left:
                self._buffer = b""
                self._expect(large.left)
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
                    self._expect(self._large.left)
                else:
                    self._expect(start + size - end)
                break
            stop = start + size
            self._complete((buffer[at], bytes(memoryview(buffer)[start:stop])))
            at = stop
        if at:
            self._buffer = buffer[at:] if at < end else b""
            if self._method.request_streaming:
                self._reserve((len(self._messages) - waited) * MESSAGE_BYTES)
                self._client.receiving.pop(self, None)
        if self._came and self._method.request_streaming and self not in self._client.receiving:
            self._coming = None
            self._client.receiving[self] = None

    def _complete(self, message: Message) -> None:
        """A message has come as a whole."""
        self._withdraw()
        self._messages.append(message)
        if len(self._messages) > 1 and not self._method.request_streaming:
            raise MalformedCallError(grpc.StatusCode.UNIMPLEMENTED, _ONE_MESSAGE)
        self._wake()

    async def _sent(self, size: int) -> None:
        """Returns when the client's window has taken it. Raises `AbortError` where no room is left."""
        self._client.flush()
        if not self.stream.outbox:
            return
        if not self._client.charge():
            self._end_without_room(size)
            raise aio.AbortError
        self._unread = None
        self._client.sending[self] = None
        self._writer = self._client.loop.create_future()
        try:
            await self._writer
        except asyncio.CancelledError:
            self._client.server.counters.lost_answers += 1
            raise
        finally:
            self._writer = None  # as in `read`
            self._client.sending.pop(self, None)

    def _request(self, data: bytes) -> Any:
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
        self._timer = None  # it knows this method
        try:
            self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            self._client.flush_soon()
            self.cancel()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self._client.broken(error)

    def _refuse(self, error: MalformedCallError) -> None:
        # More of the message may come after its call has ended.
        if not self.stream.closed:
            self._client.server.refused(error)
        self.end(error.code, str(error), error.metadata)

    def _close(self, _: asyncio.Task[None] | None = None) -> None:
        try:
            self._client.done(self)
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self._client.calls.pop(self.stream, None)
            self._let_go()
            self._client.broken(error)
        else:
            self._let_go()

    def _let_go(self) -> None:
        """Hold nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        client = self._client
        charged, self._charged = self._charged, 0
        if self.task is None or self._came or self._ahead:  # it was still receiving
            client.receiving.pop(self, None)
            self._buffer = b""
            self._large = None
            ahead, self._ahead = self._ahead, 0
            self._withdraw()
            client.account.came(ahead)
        if self._messages:
            self._messages.clear()
        self.task = None  # cancelled before its first step, it knows this call by the traceback
        client.server.buffers.release(charged)


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
