"""One connection of a server: its transport, its TLS handshake, its calls, and when it writes.

Answers that are ready in one iteration of the event loop are written together: those of a batch become
ready together, and the first, which are the most urgent, wait `COALESCE_NS` for the others.

An exception in a callback ends this connection alone: its calls end, and what they have charged is
released.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from functools import partial
from typing import Any, Protocol, cast

import grpc

from batcher.buffers import Account
from batcher.clock import MICROSECOND, monotonic_ns
from batcher.errors import AnswerLoss
from batcher.http2 import grpc_headers
from batcher.http2.call import Call
from batcher.http2.connection_lifetime import CallServer, ConnectionLifetime, OpenCall, Told
from batcher.http2.counters import EndReason
from batcher.http2.grpc_headers import CallHeaders, MalformedCallError
from batcher.http2.listener import Listener
from batcher.http2.paced_reading import PIECE_BYTES, PacedReader
from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.fields import Request
from batcher.http2.sansio.frames import Error
from batcher.http2.sansio.streams import (
    DataReceived,
    Limits,
    RequestReceived,
    Stream,
    StreamEnded,
    StreamReset,
)
from batcher.http2.socket_options import enable_keepalive, format_address, unread_bytes

log = logging.getLogger(__name__)

PREFACE_TIMEOUT_S = 20.0
"""Seconds for a client's connection preface, and for the TLS handshake before it."""

COALESCE_NS = 200 * MICROSECOND
"""How long an answer waits for others that are written with it."""

LINGER_S = 5.0
"""Seconds that a connection which has ended stays open without the client reading any of its last bytes."""
MAX_DISCARDED_BYTES = 2**20
"""Bytes that a client may send on a connection which has ended, before it is aborted."""

CALL_BYTES = 2048
"""Bytes charged for an open call, beside its headers."""


class ConnectionServer(CallServer, Protocol):
    """A server, as its connections use it."""

    limits: Limits
    stopping: bool

    def find_method(self, headers: CallHeaders) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a call. Raises `MalformedCallError` where its path has none."""

    def admit(self, connection: ServerConnection) -> bool:
        """Whether a connection that was accepted may stay."""

    def count_end(self, connection: ServerConnection, reason: str, text: str = "") -> None:
        """Count a connection that ends early, and log it."""

    def remove_connection(self, connection: ServerConnection) -> None:
        """Forget a connection that has ended."""


class ServerConnection(ConnectionLifetime, asyncio.Protocol):
    """One connection and its calls: the `asyncio.Protocol` around a `sansio.Connection`."""

    server: ConnectionServer

    def __init__(self, server: ConnectionServer, listener: Listener) -> None:
        super().__init__(server)
        self.listener = listener
        self.calls: dict[Stream, Call] = {}
        self.receiving: dict[OpenCall, None] = {}
        """Calls that wait for the rest of a message."""
        self.sending: dict[OpenCall, None] = {}
        """Calls that wait for send windows."""
        self.loop = asyncio.get_running_loop()
        self.writable = asyncio.Event()
        """Set while the transport takes what is written."""
        self.writable.set()
        self.http2 = Connection(server.limits)
        self.account = Account(server.buffers)
        self.no_eviction_until_s = 0.0  # for `Server.make_room`
        self.peer = "?"
        """The client's address, for the log."""
        self._paced_reader = PacedReader()
        self._preface_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._flush_scheduled = self._end_counted = self._lost = False
        self._failed = self._continue_scheduled = False
        self._framed: list[Told] = []
        """Who waits to be told that an answer that is framed was sent."""
        self._answer_ready_ns = 0
        """Since when an answer waits to be written; 0: none does."""
        self._budget_refilled_s = self.loop.time()

    # --- callbacks of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the client has connected, and a TLS handshake has succeeded."""
        self._transport = transport = cast("asyncio.Transport", transport)
        try:
            encrypted = transport.get_extra_info("ssl_object")
            admitted = self._handshake is not None or self._admit(
                transport.get_extra_info("socket")
            )
            if not admitted:
                transport.abort()
            elif encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
                self._count_end(EndReason.HANDSHAKE, "the client does not offer h2 by ALPN")
                transport.abort()
            else:
                self._preface_timer = self.loop.call_later(PREFACE_TIMEOUT_S, self._no_preface)
                if self.server.stopping:
                    self.send_initial_goaway()
                self.flush()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self.fail(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """End the calls, and release everything."""
        self._transport = None
        if self._lost:
            return
        self._lost = True
        try:
            for timer in (self._preface_timer, self._linger_timer):
                if timer is not None:
                    timer.cancel()
            self._drop_calls()
        finally:
            self._tell(AnswerLoss.LEFT)
            self.writable.set()
            self.account.set_unsent(0)
            self.server.remove_connection(self)

    def pause_writing(self) -> None:
        """The client reads too slowly: read nothing from it meanwhile."""
        self.writable.clear()
        if self._transport is not None and not self._closing:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client has read: read from it and write again."""
        self.writable.set()
        if self._transport is None or self._transport.is_closing():
            return
        self._tell(None)
        self.resume_reading()
        self._continue_sending()
        if self._closing and not self._transport.can_write_eof():
            self._transport.close()

    def resume_reading(self) -> None:
        """Read from the client, unless it reads too slowly itself, or the paced reader has some left."""
        may = (self.writable.is_set() or self._closing) and not self._paced_reader.pending
        if may and self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Read bytes of any number, from the middle of one frame to that of another."""
        if self._transport is not None and (len(data) > PIECE_BYTES or self._paced_reader.pending):
            self._paced_reader.read(data, self, self._transport)
        else:
            self.receive(data)

    def receive(self, data: bytes) -> None:
        """Read bytes, few enough for one iteration of the event loop."""
        http2 = self.http2
        now_s = self.loop.time()
        if now_s >= self._budget_refilled_s + 1.0:
            self._budget_refilled_s = now_s
            http2.budget.refill()
        try:
            for event in http2.receive(data):
                if isinstance(event, RequestReceived):
                    self._open_call(event.stream, event.request)
                    continue
                call = self.calls.get(event.stream)
                if call is None:
                    continue
                if isinstance(event, DataReceived):
                    call.data_received(event.data)
                elif isinstance(event, StreamEnded):
                    call.request_ended()
                elif isinstance(event, StreamReset):
                    call.cancel()
                else:
                    call.drained()
            if self._preface_timer is not None and http2.preface_received:
                self._preface_timer.cancel()
                self._preface_timer = None
            if http2.final_goaway_sent and not self.calls:
                http2.close(Error.NO_ERROR, "")
            if http2.closing:
                self._discard()
            self.flush_soon()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self.fail(error)

    # --- writing ---

    def answer_ready(self) -> None:
        """An answer is framed: write now, if another one has waited for it for `COALESCE_NS`."""
        now_ns = monotonic_ns()
        if not self._answer_ready_ns:
            self._answer_ready_ns = now_ns
        elif now_ns - self._answer_ready_ns >= COALESCE_NS:
            self.flush()

    def tell_when_sent(self, told: Told) -> None:
        """Call `told` once what is framed by now is with the socket, or is lost.

        At a full socket that is when the transport takes data again; some may still be in its buffer.
        """
        if self._lost:
            told(AnswerLoss.LEFT)
        else:
            self._framed.append(told)
            self.flush_soon()

    def _tell(self, loss: AnswerLoss | None) -> None:
        framed, self._framed = self._framed, []
        for told in framed:
            try:
                told(loss)
            except Exception:
                log.exception("internal error after an answer")

    def flush_soon(self) -> None:
        """Flush before the next iteration of the event loop, with what else is framed in this one."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is framed, and close where that was the last."""
        self._flush_scheduled = False
        self._answer_ready_ns = 0
        if self._transport is None or self._closing:
            return
        try:
            data = self.http2.data_to_send()
            if data:
                self._written += len(data)
                self._transport.write(data)
            if self._framed and self.writable.is_set() and not self._transport.is_closing():
                self._tell(None)
            if self.account.unsent or self.http2.queued_bytes or not self.writable.is_set():
                self.charge_unsent()
            if self.http2.has_more_to_send and not self._continue_scheduled:
                self._continue_scheduled = True
                self.loop.call_soon(self._continue_sending)
            if self.http2.closing:
                self._close()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self.fail(error)

    def _continue_sending(self) -> None:
        """Write more of large answers, unless the transport is full: then `resume_writing` does."""
        self._continue_scheduled = False
        try:
            if self.writable.is_set() and not self._lost and self.http2.has_more_to_send:
                for event in self.http2.continue_sending():
                    call = self.calls.get(event.stream)
                    if call is not None:
                        call.drained()
                self.flush()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self.fail(error)

    def charge_unsent(self) -> bool:
        """Charge what the client has not taken of answers; returns whether there is room for it."""
        if self._transport is not None:
            unsent = self.http2.queued_bytes + self._transport.get_write_buffer_size()
            self.account.set_unsent(unsent)
        return not self.server.buffers.over

    # --- calls ---

    def _open_call(self, stream: Stream, request: Request) -> None:
        """Begin a call, or refuse it."""
        try:
            headers = grpc_headers.parse_headers(request, self.server.limits.max_headers)
            if self.probe_only:
                self._check_probe(headers.path)
            method = self.server.find_method(headers)
            size = CALL_BYTES + request.size
            if not self.server.buffers.reserve(size) and not self.server.make_room(self, size):
                self.server.buffers.refused += 1
                raise grpc_headers.no_room(size, self.server.buffers.limit)
        except MalformedCallError as error:
            self.server.count_refused(error)
            fields = grpc_headers.status(error.code, str(error), error.metadata)
            block = grpc_headers.trailers_only(fields if error.http == 200 else (), error.http)
            self.http2.send_trailers(stream, block)
            self.http2.release(stream)
            return
        try:
            self.calls[stream] = Call(self, stream, headers, method, size)
        except Exception:
            self.server.buffers.release(size)
            raise

    def call_ended(self, call: OpenCall) -> None:
        """Forget a call of which nothing goes on."""
        self.calls.pop(call.stream, None)
        self.http2.release(call.stream)
        self.flush_soon()
        if self.http2.final_goaway_sent and not self.calls:
            self.http2.close(Error.NO_ERROR, "")

    def forget_call(self, call: OpenCall) -> None:
        """Forget a call that could not end in order."""
        self.calls.pop(call.stream, None)

    def _drop_calls(self) -> None:
        """End the calls; none can be answered any more."""
        for call in list(self.calls.values()):
            call.drop()

    # --- its end ---

    def _close(self) -> None:
        """Close in a way that the client can read the last bytes."""
        assert self._transport is not None  # noqa: S101  # `flush` has checked it
        self._closing = True
        error = self.http2.error
        if error not in {None, Error.NO_ERROR}:
            self._count_end(cast("Error", error).name.lower(), self.http2.reason)
        # The client's bytes are still read: a socket that is closed with unread bytes is reset, and the
        # client may lose what it was sent.
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client has closed already
                self._transport.write_eof()
        elif self._transport.get_write_buffer_size():
            self._transport.set_write_buffer_limits(
                0
            )  # so `resume_writing` is called when all is sent
            self._transport.resume_reading()
        else:
            self._transport.close()
        self._linger(sys.maxsize)

    def _linger(self, before: int) -> None:
        """Abort, unless the client has read some of the `before` bytes that were left for it."""
        left = 0 if self._transport is None else unread_bytes(self._transport)
        if left < before:
            self._linger_timer = self.loop.call_later(LINGER_S, self._linger, left)
        else:
            self._abort_transport()

    def _discard(self) -> None:
        """The connection has ended: what the client still sends is dropped."""
        self._drop_calls()
        if self.http2.discarded > MAX_DISCARDED_BYTES and self._transport is not None:
            self._transport.abort()

    def _abort_transport(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._handshake is not None:
            self._handshake.cancel()

    def _count_end(self, reason: str, text: str = "") -> None:
        """Count and log an early end, once."""
        if not self._end_counted:
            self._end_counted = True
            self.server.count_end(self, reason, text)

    def fail(self, error: Exception) -> None:
        """End the connection because of an error in this server; its state cannot be relied upon."""
        if self._failed:
            return
        self._failed = True
        log.error("internal error: a connection and its calls end", exc_info=error)
        self._count_end(EndReason.INTERNAL)
        self._flush_scheduled = False
        self._drop_calls()
        self._abort_transport()

    # --- its beginning ---

    def start(self, accepted: socket.socket) -> None:
        """Begin a connection that asyncio has not accepted, with a handshake where there is TLS."""
        if not self._admit(accepted):
            accepted.close()
            return
        self._handshake = self.loop.create_task(self._shake_hands(accepted))
        self._handshake.add_done_callback(partial(self._handshake_done, accepted))

    async def _shake_hands(self, accepted: socket.socket) -> None:
        await self.loop.connect_accepted_socket(
            lambda: self,
            accepted,
            ssl=self.listener.tls,
            ssl_handshake_timeout=None if self.listener.tls is None else PREFACE_TIMEOUT_S,
        )

    def _handshake_done(self, accepted: socket.socket, handshake: asyncio.Task[None]) -> None:
        self._handshake = None
        error = None if handshake.cancelled() else handshake.exception()
        if error is not None or handshake.cancelled():
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
            self._count_end(EndReason.HANDSHAKE, str(reason or "aborted by the server"))
            if handshake.cancelled() and accepted.fileno() >= 0:
                accepted.close()
            # asyncio does not call it for a connection that was never made.
            self.connection_lost(None)

    def _admit(self, sock: socket.socket) -> bool:
        with contextlib.suppress(OSError):  # the client has closed already
            self.peer = format_address(sock.getpeername())
        if not self.server.admit(self):
            return False
        enable_keepalive(sock)
        return True

    def _no_preface(self) -> None:
        self._preface_timer = None
        self._count_end(
            EndReason.NO_PREFACE, f"the client sent no HTTP/2 preface for {PREFACE_TIMEOUT_S:g} s"
        )
        self._abort_transport()
