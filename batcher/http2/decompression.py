"""Decompresses messages (gzip, deflate) in steps, since the size of the result is not known before."""

from __future__ import annotations

import zlib
from io import BytesIO

import grpc

from batcher.http2.grpc_headers import ENCODINGS, MalformedCallError, too_large

FIRST_STEP = 2**16
"""Bytes that are made on the event loop, in about 0.2 ms. A larger result is made on a thread."""
STEP = 4 * 2**20
"""Bytes that each further step makes."""
SLICE = 2**18
"""Compressed bytes that are passed to zlib at once: it copies those that it does not use."""
PIECE = 2**20
"""Bytes that zlib returns at once. Appending them to the result holds the interpreter lock for a
millisecond."""
MAX_MEMBERS = 64
"""Members of one message in gzip (RFC 1952, section 2.2), each of which could be empty."""


class Decompressor:
    """Decompresses one message: call `step` until it returns True, then `message`."""

    def __init__(self, data: bytes, encoding: str, most: int) -> None:
        """`most` bytes may come of it. Raises `MalformedCallError` for an unknown encoding."""
        if encoding not in ENCODINGS:
            raise MalformedCallError(
                grpc.StatusCode.INTERNAL,
                "a compressed message in a call without the header grpc-encoding",
            )
        self.size = 0
        """Bytes made so far."""
        self._data = memoryview(data)
        self._encoding = encoding
        self._most = most
        self._members = 0
        self._tail = b""
        # Grows in place, and returns its bytes without a copy; joining pieces would need twice the memory.
        self._result = BytesIO()
        self._next_member()

    def step(self, size: int) -> bool:
        """Make up to `size` more bytes; returns whether the message is complete.

        Raises `MalformedCallError` where it is invalid, or has more than `most` bytes.
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
        """The complete message, without a copy."""
        return self._result.getvalue()

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
            self._result.write(more)

    def _begin_member(self) -> bool:
        """Begin the next member of a message in gzip; returns whether there is one."""
        if not (self._tail or self._data):
            return False
        if self._encoding != "gzip" or self._members >= MAX_MEMBERS:
            raise self._error("bytes behind the end of the compressed message")
        self._next_member()
        return True

    def _next_member(self) -> None:
        self._members += 1
        self._zlib = zlib.decompressobj(ENCODINGS[self._encoding])

    def _error(self, text: str) -> MalformedCallError:
        return MalformedCallError(grpc.StatusCode.INTERNAL, f"{self._encoding}: {text}")
