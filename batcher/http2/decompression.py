"""Compressed messages (gzip, deflate), inflated in steps: what they become is not known before."""

from __future__ import annotations

import zlib
from io import BytesIO

import grpc

from batcher.http2.grpc_headers import ENCODINGS, MalformedCallError, too_large

FIRST_STEP = 2**16
"""Bytes that are inflated on the event loop, in about 0.2 ms; what becomes larger goes to a thread."""
STEP = 4 * 2**20
"""Bytes of a step after it."""
SLICE = 2**18
"""Compressed bytes that zlib gets at once: what it does not use it copies."""
PIECE = 2**20
"""Bytes that are made at once: to put them behind the others keeps the interpreter for a millisecond."""
MAX_MEMBERS = 64
"""Parts of one message in gzip, each of which could be empty."""


class Decompressor:
    """One message on its way. Call `step` until it returns True, then `message`."""

    def __init__(self, data: bytes, encoding: str, most: int) -> None:
        """Raises `MalformedCallError` where there is no such encoding."""
        if encoding not in ENCODINGS:
            raise MalformedCallError(
                grpc.StatusCode.INTERNAL, "a compressed message, but no grpc-encoding"
            )
        self.size = 0
        """Bytes that were made so far."""
        self._data = memoryview(data)
        self._encoding = encoding
        self._most = most
        self._members = 0
        self._tail = b""
        # It grows in place, and what it holds is the message: a join would hold all twice.
        self._made = BytesIO()
        self._next_member()

    def step(self, size: int) -> bool:
        """Inflate some more bytes; returns whether these are all.

        Raises `MalformedCallError`, also where there are more than `most`.
        """
        end = self.size + size
        try:
            while self.size < end:
                if self._zlib.eof and not self._begin_member():
                    return True
                self._decompress(end - self.size)
        except zlib.error as error:
            raise self._error(str(error)) from None
        return self._zlib.eof and not self._begin_member()

    def message(self) -> bytes:
        """All of it, without a copy."""
        return self._made.getvalue()

    def _decompress(self, most: int) -> None:
        if not self._tail:
            self._tail = bytes(self._data[:SLICE])
            self._data = self._data[SLICE:]
        more = self._zlib.decompress(self._tail, min(most, PIECE))
        ended = self._zlib.eof
        if not (more or self._tail or ended):
            raise self._error("the message is cut short")
        self._tail = self._zlib.unused_data if ended else self._zlib.unconsumed_tail
        if more:
            self.size += len(more)
            if self.size > self._most:
                raise too_large(self.size, self._most)
            self._made.write(more)

    def _begin_member(self) -> bool:
        """Whether there is another part of the message; only gzip has any."""
        if not (self._tail or self._data):
            return False
        if self._encoding != "gzip" or self._members >= MAX_MEMBERS:
            raise self._error("there is something after the message")
        self._next_member()
        return True

    def _next_member(self) -> None:
        self._members += 1
        self._zlib = zlib.decompressobj(ENCODINGS[self._encoding])

    def _error(self, text: str) -> MalformedCallError:
        return MalformedCallError(grpc.StatusCode.INTERNAL, f"{self._encoding}: {text}")
