"""One connection of a server and its calls.

Answers that are ready in one turn of the loop leave in few writes: those of a batch are ready together,
and the most urgent, which come first, wait `COALESCE_NS` for the others.

What raises in a callback ends this connection alone: its calls end, and what it has charged is released.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from functools import partial
from typing import TYPE_CHECKING, cast

from batcher.buffers import Account
from batcher.clock import MICROSECOND, monotonic_ns
from batcher.http2 import grpc_headers
from batcher.http2.call import Call
from batcher.http2.connection_lifetime import Lifetime
from batcher.http2.counters import EndReason
from batcher.http2.grpc_headers import MalformedCallError
from batcher.http2.paced_reading import PIECE_BYTES, PacedReader
from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.fields import Request
from batcher.http2.sansio.frames import Error
from batcher.http2.sansio.streams import (
    DataReceived,
    RequestReceived,
    Stream,
    StreamEnded,
    StreamReset,
)
from batcher.http2.socket_options import address, keep_alive, unread
from batcher.http2.timeouts import PROGRESS_BYTES, IncompleteTimer, StallTimer

if TYPE_CHECKING:
    from batcher.http2.listener import Listener
    from batcher.http2.server import Server

log = logging.getLogger(__name__)

PREFACE_TIMEOUT_S = 20.0
"""How long a client may take for its first frames, and for the handshake of TLS before them."""

COALESCE_NS = 200 * MICROSECOND
"""How long an answer waits for others that leave in the same write."""

LINGER_S = 5.0
"""How long a client may read nothing of the last that is said to it, and leave the socket open."""
MAX_DISCARDED_BYTES = 2**20
"""Bytes of such a client that are read and forgotten, before it is cut: it does not read the last."""

CALL_BYTES = 2048
"""What an open call counts for in `max_buffered`, beside its headers."""


class ServerConnection(Lifetime, asyncio.Protocol):
    """One connection and its calls."""

    def __init__(self, server: Server, listener: Listener) -> None:
        super().__init__(server)
        self.listener = listener
        self.calls: dict[Stream, Call] = {}
        self.receiving: dict[Call, None] = {}
        """Calls that wait for a message to be complete."""
        self.sending: dict[Call, None] = {}
        """Calls that wait for the client's windows."""
        self.loop = asyncio.get_running_loop()
        self.writable = asyncio.Event()
        """Set while the socket takes what is written."""
        self.writable.set()
        self.connection = Connection(server.limits)
        self.account = Account(server.buffers)
        self.no_room_until_s = 0.0  # for `Server.make_room`
        self.peer = "?"
        """Where it comes from, for the log."""
        self._turns = PacedReader()
        self._greeting: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._flushing = self._closing = self._ended_early = self._lost = False
        self._is_broken = self._going_on = False
        self._answered_ns = 0
        """Since when an answer waits to be written; 0: none does."""
        self._calm_s = self.loop.time()
        """When its budget was last refilled."""
        self._written = 0
        self._unfinished = IncompleteTimer()
        self._stall: StallTimer | None = None
        """How what was written is read, while some waits in the socket, as sweeps have seen it."""
        self._left = 0

    # --- of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected, and its handshake has succeeded."""
        self._transport = transport = cast("asyncio.Transport", transport)
        try:
            encrypted = transport.get_extra_info("ssl_object")
            if encrypted is None and not self._admitted(transport.get_extra_info("socket")):
                transport.abort()
            elif encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
                self._end_early(EndReason.HANDSHAKE, "the client does not offer h2 (ALPN)")
                transport.abort()
            else:
                self._greeting = self.loop.call_later(PREFACE_TIMEOUT_S, self._not_greeted)
                self.flush()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self.broken(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """It is gone: so are those who wait for answers on it."""
        self._transport = None
        if self._lost:
            return
        self._lost = True
        try:
            for pending in (self._greeting, self._lingering):
                if pending is not None:
                    pending.cancel()
            self._drop_calls()
        finally:
            self.writable.set()
            self.account.hold(0)
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
        self.resume_reading()
        self._go_on()
        if self._closing and not self._transport.can_write_eof():
            self._transport.close()

    def resume_reading(self) -> None:
        """Take more from the client, unless it reads too slowly or some waits to be read."""
        may = (self.writable.is_set() or self._closing) and not self._turns.waiting
        if may and self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Bytes of any length, from the middle of one frame to that of another."""
        if self._transport is not None and (len(data) > PIECE_BYTES or self._turns.waiting):
            self._turns.read(data, self, self._transport)
        else:
            self.received(data)

    def received(self, data: bytes) -> None:
        """The same, little enough for one turn of the loop."""
        connection = self.connection
        now_s = self.loop.time()
        if now_s >= self._calm_s + 1.0:
            self._calm_s = now_s
            connection.budget.refill()
        try:
            for event in connection.receive(data):
                if isinstance(event, RequestReceived):
                    self._open(event.stream, event.request)
                    continue
                call = self.calls.get(event.stream)
                if call is None:
                    continue
                if isinstance(event, DataReceived):
                    call.received(event.data)
                elif isinstance(event, StreamEnded):
                    call.ended()
                elif isinstance(event, StreamReset):
                    call.cancel()
                else:
                    call.sent()
            if self._greeting is not None and connection.preface_received:
                self._greeting.cancel()
                self._greeting = None
            if connection.final_goaway_sent and not self.calls:
                connection.close(Error.NO_ERROR, "")
            if connection.closing:
                self._forget()
            self.flush_soon()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self.broken(error)

    # --- of the calls ---

    def answered(self) -> None:
        """An answer is to be written: now, if another has waited for it for long enough."""
        now_ns = monotonic_ns()
        if not self._answered_ns:
            self._answered_ns = now_ns
        elif now_ns - self._answered_ns >= COALESCE_NS:
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
        try:
            data = self.connection.data_to_send()
            if data:
                self._written += len(data)
                self._transport.write(data)
            if self.account.held or self.connection.queued_bytes or not self.writable.is_set():
                self.charge()
            if self.connection.has_more_to_send and not self._going_on:
                self._going_on = True
                self.loop.call_soon(self._go_on)
            if self.connection.closing:
                self._close()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self.broken(error)

    def _go_on(self) -> None:
        """Write more of the large answers, unless the socket is full: then `resume_writing` does."""
        self._going_on = False
        try:
            if self.writable.is_set() and not self._lost and self.connection.has_more_to_send:
                for event in self.connection.continue_sending():
                    call = self.calls.get(event.stream)
                    if call is not None:
                        call.sent()
                self.flush()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self.broken(error)

    def _close(self) -> None:
        assert self._transport is not None  # noqa: S101  # `flush` has looked
        self._closing = True
        error = self.connection.error
        if error not in {None, Error.NO_ERROR}:
            self._end_early(cast("Error", error).name.lower(), self.connection.reason)
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
        self._end_unless_read(sys.maxsize)

    def _end_unless_read(self, before: int) -> None:
        """The client may read what is left and close, as long as it goes on reading."""
        left = 0 if self._transport is None else unread(self._transport)
        if left < before:
            self._lingering = self.loop.call_later(LINGER_S, self._end_unless_read, left)
        else:
            self._abort()

    def charge(self) -> bool:
        """Charge what the client has not taken of answers; returns whether there is room for it."""
        if self._transport is not None:
            held = self.connection.queued_bytes + self._transport.get_write_buffer_size()
            self.account.hold(held)
        return not self.server.buffers.over

    def done(self, call: Call) -> None:
        """A call has ended, and nothing of it goes on."""
        self.calls.pop(call.stream, None)
        self.connection.release(call.stream)
        self.flush_soon()
        if self.connection.final_goaway_sent and not self.calls:
            self.connection.close(Error.NO_ERROR, "")

    # --- its end ---

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._handshake is not None:
            self._handshake.cancel()

    def _end_early(self, reason: str, text: str = "") -> None:
        """Count its end and log it, once."""
        if not self._ended_early:
            self._ended_early = True
            self.server.ended(self, reason, text)

    def broken(self, error: Exception) -> None:
        """A mistake of ours: nothing of this connection can be relied upon."""
        if self._is_broken:
            return
        self._is_broken = True
        log.error("a connection is ended by a mistake of ours", exc_info=error)
        self._end_early(EndReason.INTERNAL)
        self._flushing = False
        self._drop_calls()
        self._abort()

    def _forget(self) -> None:
        """What the client goes on to send is for nothing."""
        self._drop_calls()
        if self.connection.discarded > MAX_DISCARDED_BYTES and self._transport is not None:
            self._transport.abort()

    def _drop_calls(self) -> None:
        """Nobody can be answered any more."""
        for call in list(self.calls.values()):
            call.drop()

    # --- time ---

    def sweep(self, elapsed_ns: int) -> None:
        """End what makes no progress; so much time has passed since the last sweep."""
        try:
            self._sweep_idle(elapsed_ns)
            if self._transport is None or self._closing:
                return
            # There are many that do nothing: they cost a microsecond.
            if self._oldest_ns is not None or self._leaving_ns is not None:
                self._sweep_age(elapsed_ns)
            begun = self.connection.incomplete if self.writable.is_set() else None
            if self._unfinished.look(begun, elapsed_ns) >= self.server.timeouts.receive_ns:
                self._end_unfinished()
            for call in list(self.receiving) if self.receiving else ():
                call.sweep_receiving(elapsed_ns, self.server.timeouts.receive_ns)
            waiting = self._transport.get_write_buffer_size()
            if waiting or self.account.held or self.sending or self._stall is not None:
                self._sweep_sending(waiting, elapsed_ns)
            if self.connection.frames_to_send:
                self.flush_soon()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            self.broken(error)

    def _end_unfinished(self) -> None:
        self._end_early(EndReason.HEADERS_TIMEOUT)
        text = "a frame or a header block was not completed"
        self.connection.close(Error.ENHANCE_YOUR_CALM, text)
        self._drop_calls()

    def _sweep_sending(self, waiting: int, elapsed_ns: int) -> None:
        limit_ns = self.server.timeouts.write_ns
        self.charge()
        left = self._written - waiting
        moves = (left - self._left) * limit_ns >= PROGRESS_BYTES * elapsed_ns
        self._left = left
        if not waiting:
            self._stall = None
        elif self._stall is None:
            self._stall = StallTimer(left)
        elif self._stall.look(left, elapsed_ns) >= limit_ns:
            self._end_early(EndReason.WRITE_TIMEOUT)
            self._drop_calls()
            self._abort()
            return
        for call in list(self.sending):
            # Whoever waits for the windows of all waits for the others as well.
            if not (
                moves and (waiting or self.connection.waits_for_connection_window(call.stream))
            ):
                call.sweep_sending(elapsed_ns, limit_ns)

    # --- its beginning ---

    def shake_hands(self, accepted: socket.socket) -> None:
        """Begin a connection of TLS."""
        if not self._admitted(accepted):
            accepted.close()
            return
        self._handshake = self.loop.create_task(self._shake_hands(accepted))
        self._handshake.add_done_callback(partial(self._handshake_ended, accepted))

    async def _shake_hands(self, accepted: socket.socket) -> None:
        await self.loop.connect_accepted_socket(
            lambda: self,
            accepted,
            ssl=self.listener.secrets,
            ssl_handshake_timeout=PREFACE_TIMEOUT_S,
        )

    def _handshake_ended(self, accepted: socket.socket, handshake: asyncio.Task[None]) -> None:
        self._handshake = None
        error = None if handshake.cancelled() else handshake.exception()
        if error is not None or handshake.cancelled():
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error
            self._end_early(EndReason.HANDSHAKE, str(reason or "it was given up"))
            if handshake.cancelled() and accepted.fileno() >= 0:
                accepted.close()
            # Nobody tells of a connection that was never made.
            self.connection_lost(None)

    def _admitted(self, sock: socket.socket) -> bool:
        with contextlib.suppress(OSError):  # it has left already
            self.peer = address(sock.getpeername())
        if not self.server.admit(self):
            return False
        keep_alive(sock)
        return True

    def _not_greeted(self) -> None:
        self._greeting = None
        self._end_early(EndReason.NO_PREFACE)
        self._abort()

    def _open(self, stream: Stream, request: Request) -> None:
        try:
            head = grpc_headers.parse_headers(request, self.server.limits.max_headers)
            if self.spare:
                self._keep_spare(head.path)
            method = self.server.method(head)
            size = CALL_BYTES + request.size
            if not self.server.buffers.reserve(size) and not self.server.make_room(self, size):
                self.server.buffers.refused += 1
                raise grpc_headers.no_room(size, self.server.buffers.limit)
        except MalformedCallError as error:
            self.server.refused(error)
            fields = grpc_headers.status(error.code, str(error), error.metadata)
            block = grpc_headers.trailers_only(fields if error.http == 200 else (), error.http)
            self.connection.send_trailers(stream, block)
            self.connection.release(stream)
            return
        try:
            self.calls[stream] = Call(self, stream, head, method, size)
        except Exception:
            self.server.buffers.release(size)
            raise
