"""Reads what came at once on a connection in pieces, so that other work of the event loop comes between.

One read of the socket may hold 1,500 calls, which take 100 ms to begin; and where the read was full, the
event loop would read the same socket again before anything else gets its turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from batcher.clock import MILLISECOND, monotonic_ns

PIECE_BYTES = 2**13
"""Bytes that are read at once. They hold some 50 calls, which take 4 ms to begin."""
MAX_READ_NS = 2 * MILLISECOND
"""When reading has taken this long, the remaining pieces wait for the next iteration of the event loop."""


class Reader(Protocol):
    """A connection that reads."""

    def receive(self, data: bytes) -> None:
        """Read one piece."""

    def resume_reading(self) -> None:
        """Let the transport deliver more."""


class PacedReader:
    """Passes received bytes on in pieces. While some are `pending`, the transport delivers nothing.

    It does not refer to its reader, so that neither waits for the garbage collector.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        self.pending = b""
        """Bytes for the next iteration of the event loop. Do not resume the transport while there are any."""

    def read(self, data: bytes, reader: Reader, transport: asyncio.Transport) -> None:
        """Pass all of `data` on, now or in later iterations of the event loop."""
        if self.pending:
            self.pending += data
            return
        began_ns = monotonic_ns()
        for start in range(0, len(data), PIECE_BYTES):
            reader.receive(data[start : start + PIECE_BYTES])
            if transport.is_closing():
                return
            if monotonic_ns() - began_ns > MAX_READ_NS:
                self.pending = data[start + PIECE_BYTES :]
                transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._continue, reader, transport)
                return

    def _continue(self, reader: Reader, transport: asyncio.Transport) -> None:
        data, self.pending = self.pending, b""
        if not transport.is_closing():
            reader.resume_reading()
            self.read(data, reader, transport)
