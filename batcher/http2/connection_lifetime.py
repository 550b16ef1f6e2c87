"""How long a connection may stay, and how it is ended: GOAWAY, eviction, abort.

A connection ends in order by two GOAWAYs: the initial one asks the client to open its calls elsewhere,
the final one refuses calls; the calls that are open are answered. `abort` ends it at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeAlias

import grpc

from batcher.buffers import Account, Buffers
from batcher.clock import SECOND
from batcher.errors import AnswerLoss
from batcher.http2 import grpc_headers
from batcher.http2.counters import EndReason, ServerCounters
from batcher.http2.grpc_headers import MalformedCallError
from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import Error
from batcher.http2.sansio.streams import Stream
from batcher.http2.timeouts import PROGRESS_BYTES, SWEEP_NS, IncompleteTimer, StallTimer, Timeouts

EVICT_IDLE_NS = 10 * SECOND
"""A connection without calls for this long may be closed for a new one at `max_connections`."""
EVICT_SILENT_NS = 60 * SECOND
"""Where none is idle: so may one whose calls are all streams without a message for this long."""
PROBE_CONNECTION_NS = 5 * SECOND
"""How long a connection beyond `max_connections` stays: a health probe takes less."""


Told: TypeAlias = Callable[[AnswerLoss | None], None]
"""Is called once for an answer: with None when its last byte was handed to the socket, else with why not."""


class OpenCall(Protocol):
    """A call, as its connection ends it."""

    stream: Stream

    @property
    def is_streaming(self) -> bool:
        """Whether requests or answers are streamed: then silence of the client is no fault."""

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status."""

    def cancel(self) -> None:
        """Stop the work on it: no answer is wanted any more."""

    def sweep_receiving(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where its message has not begun, or made no progress, for `limit_ns`."""

    def sweep_sending(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where its answer has made no progress for `limit_ns`."""


class CallServer(Protocol):
    """A server, as the calls of a connection and the limits of its time use it."""

    buffers: Buffers
    counters: ServerCounters
    max_message: int
    offload_pool: ThreadPoolExecutor
    timeouts: Timeouts
    too_many_connections: str

    def is_probe(self, path: str, /) -> bool:
        """Whether a call of that path is a health probe."""

    def count_refused(self, error: MalformedCallError) -> None:
        """Count a call that is refused for a size."""

    def make_room(self, connection: ConnectionLifetime, size: int) -> bool:
        """Charge bytes for which there is no room, where calls of another connection can be evicted."""


class ConnectionLifetime:
    """The part of a `ServerConnection` that ends it and its calls by time; its calls know it as this."""

    account: Account
    calls: Mapping[Stream, OpenCall]
    http2: Connection
    loop: asyncio.AbstractEventLoop
    no_eviction_until_s: float
    receiving: dict[OpenCall, None]
    sending: dict[OpenCall, None]
    writable: asyncio.Event

    def __init__(self, server: CallServer) -> None:
        self.server = server
        self.probe_only = False
        """Whether it is beyond `max_connections`: only health probes are answered."""
        self.idle_ns = 0
        """For how long it has had no call."""
        self.silent_ns = 0
        """For how long its calls have neither received nor sent a message."""
        self._transport: asyncio.Transport | None = None
        self._closing = False
        """Whether the last bytes were written."""
        self._written = 0
        """Bytes written to the transport."""
        self._age_ns = 0
        self._max_age_ns = server.timeouts.draw_age_ns()
        self._since_goaway_ns: int | None = None
        """Time since the initial GOAWAY; None: it was not sent."""
        self._highest_stream = 0
        """That of the last sweep."""
        self._incomplete = IncompleteTimer()
        self._write_stall: StallTimer | None = None
        """Measures how the client reads, while some of what was written waits in the transport."""
        self._left_transport = 0
        """Bytes that had left the transport at the last sweep."""

    # --- what a `ServerConnection` does ---

    def flush(self) -> None:
        """Write what is to be written."""
        raise NotImplementedError

    def flush_soon(self) -> None:
        """Flush before the next iteration of the event loop."""
        raise NotImplementedError

    def answer_ready(self) -> None:
        """An answer is framed."""
        raise NotImplementedError

    def tell_when_sent(self, told: Told) -> None:
        """Call `told` once what is framed by now is with the socket, or is lost."""
        raise NotImplementedError

    def call_ended(self, call: OpenCall) -> None:
        """Forget a call of which nothing goes on."""
        raise NotImplementedError

    def forget_call(self, call: OpenCall) -> None:
        """Forget a call that could not end in order."""
        raise NotImplementedError

    def charge_unsent(self) -> bool:
        """Charge what the client has not taken; returns whether there is room for it."""
        raise NotImplementedError

    def fail(self, error: Exception) -> None:
        """End the connection because of an error in this server."""
        raise NotImplementedError

    def _abort_transport(self) -> None:
        raise NotImplementedError

    def _count_end(self, reason: str, text: str = "") -> None:
        raise NotImplementedError

    def _drop_calls(self) -> None:
        raise NotImplementedError

    # --- ends ---

    @property
    def evictable(self) -> bool:
        """Whether it may be closed for a new one: it is idle, or its streams have been silent for long."""
        if self.calls:
            silent = self.silent_ns >= EVICT_SILENT_NS and not self.sending
            return silent and all(call.is_streaming for call in self.calls.values())
        return self.idle_ns >= EVICT_IDLE_NS

    def send_initial_goaway(self) -> None:
        """Ask the client to open its calls elsewhere; those that are on their way are answered.

        So is what a client sends with its preface, where that has not come yet.
        """
        if self._since_goaway_ns is not None:
            return
        self._since_goaway_ns = 0
        self.http2.send_initial_goaway()
        self.flush()

    def send_final_goaway(self) -> None:
        """Refuse calls from now on; close when those that are open have ended."""
        if not self.http2.preface_received:
            self._abort_transport()
            return
        self.http2.send_final_goaway()
        if not self.calls:
            self.http2.close(Error.NO_ERROR, "")
        self.flush()

    def evict(self) -> None:
        """Close it to make room for another; calls that have been silent for long end."""
        if self.calls:
            seconds = EVICT_SILENT_NS // SECOND
            self.abort(
                f"no message for {seconds} s while other clients wait for a connection"
                " (server.max_connections)"
            )
            return
        self.send_final_goaway()
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End it and its calls at once; they end UNAVAILABLE with that reason."""
        for call in list(self.calls.values()):
            call.end(grpc.StatusCode.UNAVAILABLE, reason)
            call.cancel()
        self.http2.close(Error.NO_ERROR, "")
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def close_probe_connection(self) -> None:
        """End one that is for probes only: its time is over, or another needs its place."""
        self._count_end(EndReason.TOO_MANY)
        if self._transport is None or not self.http2.preface_received:
            self._abort_transport()
        else:
            self.abort(self.server.too_many_connections)

    def _check_probe(self, path: str) -> None:
        """Refuse what is no health probe, by `MalformedCallError`, and send the final GOAWAY."""
        if not self.server.is_probe(path):
            self._count_end(EndReason.TOO_MANY)
            self.http2.send_final_goaway()
            raise MalformedCallError(
                grpc.StatusCode.UNAVAILABLE,
                self.server.too_many_connections,
                metadata=grpc_headers.PUSHBACK,
            )

    # --- sweeps ---

    def sweep(self, elapsed_ns: int) -> None:
        """End what makes no progress; `elapsed_ns` have passed since the last sweep."""
        try:
            self._sweep_idle(elapsed_ns)
            if self._transport is None or self._closing:
                return
            # Each part is skipped where it has nothing to do: an idle connection costs a microsecond.
            if self._max_age_ns is not None or self._since_goaway_ns is not None:
                self._sweep_age(elapsed_ns)
            incomplete = self.http2.incomplete if self.writable.is_set() else None
            receive_ns = self.server.timeouts.receive_ns
            if self._incomplete.update(incomplete, elapsed_ns) >= receive_ns:
                self._end_incomplete()
            for call in list(self.receiving) if self.receiving else ():
                call.sweep_receiving(elapsed_ns, receive_ns)
            waiting = self._transport.get_write_buffer_size()
            if waiting or self.account.unsent or self.sending or self._write_stall is not None:
                self._sweep_sending(waiting, elapsed_ns)
            if self.http2.frames_to_send:
                self.flush_soon()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            self.fail(error)

    def _sweep_idle(self, elapsed_ns: int) -> None:
        self._age_ns += elapsed_ns
        if self.probe_only and self._age_ns >= PROBE_CONNECTION_NS:
            self.close_probe_connection()
            return
        highest_stream = self.http2.highest_stream
        if highest_stream != self._highest_stream:
            self._highest_stream = highest_stream
            self.idle_ns = self.silent_ns = 0
            return
        self.silent_ns += elapsed_ns
        if self.calls:
            self.idle_ns = 0
            return
        self.idle_ns += elapsed_ns
        limit_ns = self.server.timeouts.idle_ns
        if limit_ns is not None and self.idle_ns >= limit_ns:
            self.send_initial_goaway()

    def _sweep_age(self, elapsed_ns: int) -> None:
        timeouts = self.server.timeouts
        if self._max_age_ns is not None and self._age_ns >= self._max_age_ns:
            self.send_initial_goaway()
            if self._age_ns >= self._max_age_ns + timeouts.age_grace_ns:
                self.abort(
                    "the connection has reached server.max_connection_age, and its"
                    " server.max_connection_age_grace is over"
                )
                return
        if self._since_goaway_ns is not None and not self.http2.final_goaway_sent:
            self._since_goaway_ns += elapsed_ns
            if self._since_goaway_ns > SWEEP_NS:
                self.send_final_goaway()  # the client should have answered the ping by now

    def _end_incomplete(self) -> None:
        self._count_end(EndReason.HEADERS_TIMEOUT)
        seconds = self.server.timeouts.receive_ns / SECOND
        self.http2.close(
            Error.ENHANCE_YOUR_CALM,
            f"a frame or a header block was not complete after {seconds:g} s (server.receive_timeout)",
        )
        self._drop_calls()

    def _sweep_sending(self, waiting: int, elapsed_ns: int) -> None:
        """`waiting` bytes are in the transport."""
        limit_ns = self.server.timeouts.write_ns
        self.charge_unsent()
        left_transport = self._written - waiting
        moved = left_transport - self._left_transport
        moves = moved * limit_ns >= PROGRESS_BYTES * elapsed_ns
        self._left_transport = left_transport
        if not waiting:
            self._write_stall = None
        elif self._write_stall is None:
            self._write_stall = StallTimer(left_transport)
        elif self._write_stall.update(left_transport, elapsed_ns) >= limit_ns:
            self._count_end(EndReason.WRITE_TIMEOUT)
            self._drop_calls()
            self._abort_transport()
            return
        for call in list(self.sending):
            # Where the connection moves, a call that waits for what all share waits for the other calls.
            if not (moves and (waiting or self.http2.waits_for_connection_window(call.stream))):
                call.sweep_sending(elapsed_ns, limit_ns)
