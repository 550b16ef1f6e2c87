"""How long a connection may stay: idle, silent, old, spare, asked to leave; and how it is ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from batcher.clock import SECOND
from batcher.http2 import grpc_headers
from batcher.http2.counters import EndReason
from batcher.http2.grpc_headers import MalformedCallError
from batcher.http2.sansio.frames import Error
from batcher.http2.timeouts import SWEEP_NS

if TYPE_CHECKING:
    from batcher.http2.call import Call
    from batcher.http2.sansio.connection import Connection
    from batcher.http2.sansio.streams import Stream
    from batcher.http2.server import Server

EVICT_IDLE_NS = 10 * SECOND
"""A connection without calls for this long makes way for a new one at `max_connections`."""
EVICT_SILENT_NS = 60 * SECOND
"""And where there is none, one whose open calls are streams on which nothing was said for this long."""
PROBE_CONNECTION_NS = 5 * SECOND
"""How long a connection beyond `max_connections` stays: a probe takes less."""


class Lifetime:
    """The part of a `ServerConnection` that knows its times. What raises here is the connection's."""

    calls: dict[Stream, Call]
    sending: dict[Call, None]
    connection: Connection

    def __init__(self, server: Server) -> None:
        self.server = server
        self.spare = False
        """Whether it is one beyond `max_connections`, for probes alone."""
        self.idle_ns = 0
        """For how long it has had no call."""
        self.silent_ns = 0
        """For how long its calls have neither received nor sent a message."""
        self._transport: asyncio.Transport | None = None
        self._age_ns = 0
        self._oldest_ns = server.timeouts.draw_age_ns()
        self._leaving_ns: int | None = None
        """For how long it has been asked to leave; None: it was not."""
        self._highest = 0

    @property
    def evictable(self) -> bool:
        """Whether it makes way for a new one: it is idle, or waits for nothing but its client."""
        if self.calls:
            silent = self.silent_ns >= EVICT_SILENT_NS and not self.sending
            return silent and all(call.streams for call in self.calls.values())
        return self.idle_ns >= EVICT_IDLE_NS

    def flush(self) -> None:
        """Write what is to be written."""
        raise NotImplementedError

    def _abort(self) -> None:
        raise NotImplementedError

    def _end_early(self, reason: str, text: str = "") -> None:
        raise NotImplementedError

    def announce(self) -> None:
        """Ask for calls to be opened elsewhere; those that are on their way are answered."""
        if self._leaving_ns is not None:
            return
        self._leaving_ns = 0
        if not self.connection.preface_received:
            self._abort()
            return
        self.connection.send_initial_goaway()
        self.flush()

    def leave(self) -> None:
        """Take no more calls; close when those that are open have ended."""
        if not self.connection.preface_received:
            self._abort()
            return
        self.connection.send_final_goaway()
        if not self.calls:
            self.connection.close(Error.NO_ERROR, "")
        self.flush()

    def evict(self) -> None:
        """Close it to make room: one without calls, or one whose calls have been silent for long."""
        if self.calls:
            seconds = EVICT_SILENT_NS // SECOND
            self.cut(f"nothing was said for {seconds} s, and others wait (server.max_connections)")
            return
        self.leave()
        if self._transport is not None:
            self._transport.close()

    def cut(self, why: str) -> None:
        """End at once; its calls end with that text."""
        for call in list(self.calls.values()):
            call.end(grpc.StatusCode.UNAVAILABLE, why)
            call.cancel()
        self.connection.close(Error.NO_ERROR, "")
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def give_up_spare(self) -> None:
        """End one that is for probes alone: it has had its time, or another needs the place."""
        self._end_early(EndReason.TOO_MANY)
        if self._transport is None or not self.connection.preface_received:
            self._abort()
        else:
            self.cut(self.server.all_taken)

    def _keep_spare(self, path: str) -> None:
        """Answer probes; whoever else calls is refused, by `MalformedCallError`, and leaves."""
        if not self.server.is_probe(path):
            self._end_early(EndReason.TOO_MANY)
            self.connection.send_final_goaway()
            raise MalformedCallError(
                grpc.StatusCode.UNAVAILABLE, self.server.all_taken, metadata=grpc_headers.PUSHBACK
            )

    def _sweep_idle(self, elapsed_ns: int) -> None:
        self._age_ns += elapsed_ns
        if self.spare and self._age_ns >= PROBE_CONNECTION_NS:
            self.give_up_spare()
            return
        highest = self.connection.highest_stream
        if highest != self._highest:
            self._highest = highest
            self.idle_ns = self.silent_ns = 0
            return
        self.silent_ns += elapsed_ns
        if self.calls:
            self.idle_ns = 0
            return
        self.idle_ns += elapsed_ns
        limit_ns = self.server.timeouts.idle_ns
        if limit_ns is not None and self.idle_ns >= limit_ns:
            self.announce()

    def _sweep_age(self, elapsed_ns: int) -> None:
        timeouts = self.server.timeouts
        if self._oldest_ns is not None and self._age_ns >= self._oldest_ns:
            self.announce()
            if self._age_ns >= self._oldest_ns + timeouts.age_grace_ns:
                self.cut("the connection was open for server.max_connection_age")
                return
        if self._leaving_ns is not None and not self.connection.final_goaway_sent:
            self._leaving_ns += elapsed_ns
            if self._leaving_ns > SWEEP_NS:
                self.leave()  # it should have read by now that it was asked to
