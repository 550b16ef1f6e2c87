"""One call: its deadline, its handler, its answer, its end; and the context that the handler gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import grpc
from grpc import aio

from batcher.buffers import LARGE_ANSWER
from batcher.clock import SECOND
from batcher.errors import AnswerLoss
from batcher.http2 import grpc_headers
from batcher.http2.call_messages import ONE_MESSAGE, CallMessages, Message, RequestIterator
from batcher.http2.connection_lifetime import ConnectionLifetime, Told
from batcher.http2.grpc_headers import CallHeaders, MalformedCallError, Metadata
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import Stream

log = logging.getLogger(__name__)

_FRAMES_PER_ITERATION = 16
"""Frames that handlers write on one connection before a writer gives the event loop a turn."""
_MAX_TIMER_S = 30 * 24 * 3600.0
"""A deadline that is further away has this one: beyond some bound, a timer of the event loop overflows."""


class Call(CallMessages):
    """A call, and the context that its handler gets: the part of `grpc.aio.ServicerContext` that is used."""

    __slots__ = (
        "_deadline_s",
        "_headers",
        "_headers_sent",
        "_timer",
        "_told",
        "_trailing",
        "_writer",
        "task",
    )

    def __init__(
        self,
        connection: ConnectionLifetime,
        stream: Stream,
        headers: CallHeaders,
        method: grpc.RpcMethodHandler[Any, Any],
        charged: int,
    ) -> None:
        """Begin a call. `charged` bytes are charged for it already; it releases them at its end."""
        super().__init__(
            connection,
            stream,
            headers.encoding,
            charged,
            method,
        )
        self.task: asyncio.Task[None] | None = None
        """Runs the handler; None until the request is there."""
        self._headers = headers
        self._trailing: Metadata = ()
        self._headers_sent = False
        self._writer: asyncio.Future[None] | None = None
        """Set when the answer waits for a send window."""
        self._told: Told | None = None
        """Is told of the end of its answer."""
        self._deadline_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if headers.timeout_ns is not None:
            wait_s = min(headers.timeout_ns / SECOND, _MAX_TIMER_S)
            self._deadline_s = connection.loop.time() + wait_s
            self._timer = connection.loop.call_later(wait_s, self._expire)
        if method.request_streaming:
            self._start(RequestIterator(self), None)
        else:
            connection.receiving[self] = None

    # --- the context of its handler ---

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None: there is none."""
        if self._deadline_s is None:
            return None
        return max(self._deadline_s - self._connection.loop.time(), 0.0)

    def invocation_metadata(self) -> Metadata:
        """The caller's metadata."""
        return self._headers.metadata

    def set_trailing_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Set the metadata that is sent with the status."""
        self._trailing = tuple(metadata)

    @property
    def loss(self) -> AnswerLoss:
        """Why an answer that cannot be written is lost."""
        return self._loss

    def tell_end(self, told: Told) -> None:
        """Call `told` once its only answer, or the status instead of it, is sent or lost. For unary calls."""
        self._told = told

    def tell_written(self, told: Told) -> None:
        """Call `told` once all that `write` has taken is sent or lost. For streams."""
        self._connection.tell_when_sent(told)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with that status. Raises `grpc.aio.AbortError`, always."""
        sent = not self.stream.closed
        self.end(code, details, trailing_metadata or self._trailing)
        if sent:
            self._tell_when_sent()
        raise aio.AbortError

    async def write(self, message: Any) -> None:
        """Send a message; returns when the send windows and the socket have taken it.

        Raises `grpc.aio.UsageError` where the call has ended.
        """
        connection, stream = self._connection, self.stream
        if stream.closed:
            raise aio.UsageError("the call has ended")
        data, rest = self._frame(message)
        connection.silent_ns = 0
        if not self._headers_sent:
            self._headers_sent = True
            connection.http2.send_headers(stream, grpc_headers.RESPONSE_HEADERS)
        connection.http2.send_data(stream, data)
        if rest:
            connection.http2.send_data(stream, rest)
        if stream.outbox or rest:
            await self._drain(len(rest) or len(data))
        # A handler that never waits would not let the event loop write.
        elif connection.http2.frames_to_send > _FRAMES_PER_ITERATION:
            connection.flush()
            await asyncio.sleep(0)
        else:
            connection.flush_soon()
        if not connection.writable.is_set():
            await connection.writable.wait()

    # --- events of its stream, from its connection ---

    def request_ended(self) -> None:
        """The client has sent its last message."""
        self._connection.receiving.pop(self, None)
        if self._received_bytes:
            self.end(grpc.StatusCode.INTERNAL, "the client ended the request within a message")
            self.cancel()
        elif self.task is not None:
            self._wake_reader()
        elif len(self._messages) == 1:
            compressed, data = self._messages.popleft()
            try:
                if compressed or not isinstance(data, bytes):
                    self._start(None, (compressed, data))
                else:
                    self._start(self._deserialize(data), None)
            except MalformedCallError as error:
                self._refuse(error)
                self._close()
        else:
            self.end(grpc.StatusCode.UNIMPLEMENTED, ONE_MESSAGE)
            self._close()

    def drained(self) -> None:
        """All that it wrote is framed."""
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def cancel(self) -> None:
        """Stop the work on it: no answer is wanted any more."""
        if self.task is None:
            self._close()
        else:
            self.task.cancel()

    def drop(self) -> None:
        """End it without an answer, as its connection has ended. Releases everything, whatever raises."""
        self.stream.closed = True
        try:
            self.cancel()
        except Exception:
            log.exception("internal error while ending a call of %s", self._headers.path)
            self._connection.forget_call(self)
            if self.task is not None:
                self.task.cancel()
            self._release_everything()

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status, instead of data that still waits. Does nothing where one was sent."""
        http2 = self._connection.http2
        http2.discard_outbox(self.stream)
        if self._headers_sent:
            block = encode(grpc_headers.status(code, details, metadata))
        else:
            block = grpc_headers.refusal(
                code, details, tuple([(name, value) for name, value in metadata])
            )
        http2.send_trailers(self.stream, block)

    # --- its answer ---

    def _start(self, request: Any, message: Message | None) -> None:
        """Run the handler with a request, or with the message that is to be deserialized to one."""
        self.task = self._connection.loop.create_task(self._run(request, message))
        # Not in a `finally` of the task: one that is cancelled before its first step runs none.
        self.task.add_done_callback(self._close)

    async def _run(self, request: Any, message: Message | None) -> None:
        try:
            if message is not None:
                compressed, data = message
                request = self._deserialize(await self._assemble(data, compressed))
                del data, message
            if self._method.response_streaming:
                await self._answer_stream(request)
            else:
                await self._answer(request)
        except aio.AbortError:
            pass
        except MalformedCallError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            # Does nothing where the canceller has sent a status.
            self.end(grpc.StatusCode.CANCELLED, "the call was cancelled")
        except Exception:
            self._loss = AnswerLoss.INTERNAL
            log.exception("internal error in a call of %s", self._headers.path)
            self.end(grpc.StatusCode.INTERNAL, grpc_headers.INTERNAL_ERROR)

    async def _answer(self, request: Any) -> None:
        method = self._method
        behave = method.stream_unary if method.request_streaming else method.unary_unary
        data, rest = self._frame(await behave(request, self))
        http2 = self._connection.http2
        trailers = self._ok_trailers()
        self._headers_sent = True
        if self.stream.closed:
            return  # it has a status already, instead of this answer
        if rest:
            http2.send_headers(self.stream, grpc_headers.RESPONSE_HEADERS)
            http2.send_data(self.stream, data)
            http2.send_data(self.stream, rest)
            http2.send_trailers(self.stream, trailers)
        else:
            http2.send_all(self.stream, grpc_headers.RESPONSE_HEADERS, data, trailers)
            if not self.stream.outbox:
                self._tell_when_sent()
        self._connection.answer_ready()
        if self.stream.outbox or rest:
            await self._drain(len(rest) or len(data))
            self._tell_when_sent()

    def _tell_when_sent(self) -> None:
        """All of its answer is framed."""
        if self._told is not None:
            told, self._told = self._told, None
            self._connection.tell_when_sent(told)

    async def _answer_stream(self, request: Any) -> None:
        method = self._method
        behave = method.stream_stream if method.request_streaming else method.unary_stream
        answers = behave(request, self)
        if isinstance(answers, AsyncIterator):
            async for answer in answers:
                await self.write(answer)
        else:
            await answers
        if self._headers_sent:
            self._connection.http2.send_trailers(self.stream, self._ok_trailers())
        else:
            self.end(grpc.StatusCode.OK, metadata=self._trailing)

    def _ok_trailers(self) -> bytes:
        if not self._trailing:
            return grpc_headers.OK_TRAILERS
        return encode(grpc_headers.status(grpc.StatusCode.OK, "", self._trailing))

    def _frame(self, message: Any) -> tuple[bytes, bytes]:
        """The message behind its prefix, and nothing; of a large one the prefix, and the message uncopied.

        Ends the call and raises `AbortError` where it is too large, or there is no room for it.
        """
        serialize = self._method.response_serializer
        data = serialize(message) if serialize else message
        size = len(data)
        if size > self._connection.server.max_message:
            self._loss = AnswerLoss.TOO_LARGE
            self.end(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Sent message larger than max ({size} vs. {self._connection.server.max_message})"
                " (server.max_message); ask for fewer rows or outputs",
                grpc_headers.NO_RETRY,
            )
            raise aio.AbortError
        prefix = b"\0" + size.to_bytes(4, "big")
        if size <= LARGE_ANSWER:
            return prefix + data, b""
        if not self._connection.server.buffers.has_room_for_large(size):
            self._end_without_room(size)
            raise aio.AbortError
        return prefix, data

    async def _drain(self, size: int) -> None:
        """Return when the send windows have taken the answer, of which the last `size` bytes were sent now.

        Ends the call and raises `AbortError` where there is no room to keep what waits.
        """
        self._connection.flush()
        if not self.stream.outbox:
            return
        if not self._connection.charge_unsent():
            self._end_without_room(size)
            raise aio.AbortError
        self._send_stall = None
        self._connection.sending[self] = None
        self._writer = self._connection.loop.create_future()
        try:
            await self._writer
        except asyncio.CancelledError:
            self._connection.server.counters.lost_answers += 1
            raise
        finally:
            self._writer = None  # as in `read`
            self._connection.sending.pop(self, None)

    # --- its end ---

    def _expire(self) -> None:
        self._timer = None  # it refers to this method
        self._loss = AnswerLoss.DEADLINE
        try:
            self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")  # as grpcio says it
            self._connection.flush_soon()
            self.cancel()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self._connection.fail(error)

    def _close(self, _: asyncio.Task[None] | None = None) -> None:
        """Nothing of it goes on: its connection forgets it, and all it has is released."""
        try:
            if self._told is not None:
                told, self._told = self._told, None
                told(self._loss)
            self._connection.call_ended(self)
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self._connection.forget_call(self)
            self._release_everything()
            self._connection.fail(error)
        else:
            self._release_everything()

    def _release_everything(self) -> None:
        """Release what is charged, and refer to nothing any more. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
        connection = self._connection
        charged, self._charged = self._charged, 0
        if self.task is None or self._received_bytes or self._granted:  # it was still receiving
            connection.receiving.pop(self, None)
            self._buffer = b""
            self._large = None
            granted, self._granted = self._granted, 0
            self._withdraw_claim()
            connection.account.arrived(granted)
        if self._messages:
            self._messages.clear()
        self.task = None  # one cancelled before its first step refers to this call by its traceback
        connection.server.buffers.release(charged)
