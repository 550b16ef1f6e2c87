"""What has come at once on a connection, read a piece in each turn of the event loop.

One read of the socket may hold 1,500 calls, which take 100 ms; and where it was full, the loop reads
again before anybody else gets a turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from batcher.clock import MILLISECOND, monotonic_ns

PIECE_BYTES, MAX_ITERATION_NS = 2**13, 2 * MILLISECOND
"""So much is read; where all so far took so long, the rest when others had their turn. 50 calls fit into
it, which take 4 ms."""


class Reader(Protocol):
    """A connection, which reads."""

    def received(self, data: bytes) -> None:
        """Frames, and parts of them."""

    def resume_reading(self) -> None:
        """More may come."""


class PacedReader:
    """Hands on what has come by `read`. While some of it is `waiting`, nothing more is to come.

    It does not know its reader, so that neither waits for the collector.
    """

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = b""
        """What is read in the next turn; whoever resumes reading meanwhile leaves that to us."""

    def read(self, data: bytes, reader: Reader, transport: asyncio.Transport) -> None:
        """All of that, in this turn or in later ones."""
        if self.waiting:
            self.waiting += data
            return
        began_ns = monotonic_ns()
        for start in range(0, len(data), PIECE_BYTES):
            reader.received(data[start : start + PIECE_BYTES])
            if transport.is_closing():
                return
            if monotonic_ns() - began_ns > MAX_ITERATION_NS:
                self.waiting = data[start + PIECE_BYTES :]
                transport.pause_reading()
                asyncio.get_running_loop().call_soon(self._read_on, reader, transport)
                return

    def _read_on(self, reader: Reader, transport: asyncio.Transport) -> None:
        data, self.waiting = self.waiting, b""
        if not transport.is_closing():
            reader.resume_reading()
            self.read(data, reader, transport)
