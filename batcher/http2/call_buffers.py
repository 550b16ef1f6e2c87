"""What a call has charged to `Buffers`, and how it ends where there is no room or no progress."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from batcher.clock import SECOND
from batcher.errors import AnswerLoss
from batcher.http2 import grpc_headers
from batcher.http2.connection_lifetime import ConnectionLifetime
from batcher.http2.grpc_headers import MalformedCallError
from batcher.http2.sansio.streams import Stream
from batcher.http2.timeouts import StallTimer


class CallBuffers:
    """The part of a `Call` that counts its bytes. The call itself implements `end` and `cancel`."""

    __slots__ = ("_charged", "_connection", "_loss", "_send_stall", "stream")

    def __init__(self, connection: ConnectionLifetime, stream: Stream, charged: int) -> None:
        self.stream = stream
        self._connection = connection
        self._charged = charged
        """Bytes charged for it: its own, its messages, and the granted part of one that is coming."""
        self._loss = AnswerLoss.LEFT
        """Why its answer is lost, should it be."""
        self._send_stall: StallTimer | None = None
        """For how long its answer makes no progress, as sweeps have seen it."""

    def end(
        self,
        code: grpc.StatusCode,
        details: str = "",
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """Send the status."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop the work on it: no answer is wanted any more."""
        raise NotImplementedError

    @property
    def charged(self) -> int:
        """Bytes that are charged for it."""
        return self._charged

    def evict(self) -> None:
        """End the call to free its bytes for a call of another connection."""
        self._end_for_room(self._charged)
        self._release(self._charged)  # at once: its task ends a moment later

    def sweep_sending(self, elapsed_ns: int, limit_ns: int) -> None:
        """End the call where its answer has made no progress for `limit_ns`."""
        sent = -sum(map(len, self.stream.outbox))
        if self._send_stall is None:
            self._send_stall = StallTimer(sent)
        if self._send_stall.update(sent, elapsed_ns) >= limit_ns:
            self._end_stalled(
                f"the client did not read the answer for {limit_ns / SECOND:g} s"
                " (server.write_timeout)"
            )

    def _reserve(self, size: int) -> None:
        """Charge bytes. Raises `MalformedCallError` where there is no room for them."""
        server = self._connection.server
        if not server.buffers.reserve(size) and not server.make_room(self._connection, size):
            server.buffers.refused += 1
            raise grpc_headers.no_room(size, server.buffers.limit)
        self._charged += size

    def _release(self, size: int) -> None:
        size = min(size, self._charged)  # a call that was dropped has released all already
        self._charged -= size
        self._connection.server.buffers.release(size)

    def _refuse(self, error: MalformedCallError) -> None:
        """End the call because its request cannot be answered."""
        # More of the message may come after its call has ended.
        if not self.stream.closed:
            self._connection.server.count_refused(error)
        self.end(error.code, str(error), error.metadata)

    def _end_for_room(self, size: int) -> None:
        """End the call and its work because there is no room for `size` bytes."""
        self._end_without_room(size)
        self._connection.flush_soon()
        self.cancel()

    def _end_without_room(self, size: int) -> None:
        self._loss = AnswerLoss.NO_ROOM
        buffers = self._connection.server.buffers
        buffers.refused += 1
        error = grpc_headers.no_room(size, buffers.limit)
        self.end(error.code, str(error), error.metadata)

    def _end_stalled(self, reason: str) -> None:
        self._loss = AnswerLoss.STALLED
        self._connection.server.counters.stalled_calls += 1
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, reason)
        self._connection.flush_soon()
        self.cancel()
