"""The client's half of HTTP/2 for attackers: every frame is theirs to choose.

`Link` stays within the windows that the server grants, because sending more would end the connection
and show nothing; it counts how its calls and the connection end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

from hpack import Encoder, NeverIndexedHeaderTuple
from http2 import status

from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    MAX_WINDOW,
    PREFACE,
    SETTING,
    Error,
    Frame,
    Setting,
    frame,
)

_ERRORS = frozenset(Error)


class Link(asyncio.Protocol):
    """One connection. `window` is what the server may send on a stream before it is granted more."""

    def __init__(self, window: int = DEFAULT_WINDOW, *, preface: bool = True) -> None:
        self.gone = False
        """Whether no further call may be made: the server has said GOAWAY, or the socket is closed."""
        self.outcomes: Counter[str] = Counter()
        """How calls and the connection ended."""
        self.ended = 0
        """Calls that have ended."""
        self._window = window
        self._preface = preface
        self._socket: asyncio.Transport | None = None
        self._changed = asyncio.Event()
        self._rest = b""
        self._next = 1
        self._first_room = DEFAULT_WINDOW
        self._room = DEFAULT_WINDOW
        self._rooms: dict[int, int] = {}

    # --- of the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the connection preface, if it is to be sent."""
        self._socket = cast("asyncio.Transport", transport)
        if not self._preface:
            return
        settings = (
            (Setting.HEADER_TABLE_SIZE, 0),
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, self._window),
        )
        packed = b"".join(SETTING.pack(*each) for each in settings)
        self.write(PREFACE + frame(Frame.SETTINGS, 0, 0, packed))
        if self._window > DEFAULT_WINDOW:
            grant = (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")
            self.write(frame(Frame.WINDOW_UPDATE, 0, 0, grant))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed it, or we have."""
        if not self.gone:
            self.outcomes[f"connection closed{f': {type(exc).__name__}' if exc else ''}"] += 1
        self.gone = True
        self._socket = None
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        """Frames of the server; what is in DATA is not looked at."""
        data = self._rest + data if self._rest else data
        at, received = 0, 0
        while len(data) - at >= FRAME_HEADER.size:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            start = at + FRAME_HEADER.size
            if start + (high << 16 | low) > len(data):
                break
            at = start + (high << 16 | low)
            if kind == Frame.DATA:
                received += at - start
                self._grant(stream, at - start)
            else:
                self._frame(kind, flags, stream, data[start:at])
        self._rest = data[at:]
        if received:
            self._grant(0, received)
        self._changed.set()

    # --- of the attacker ---

    def begin(self, path: str, *more: tuple[str, str]) -> int:
        """Send the headers of a call; the stream's number."""
        stream, self._next = self._next, self._next + 2
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *more,
        ]
        block = Encoder().encode([NeverIndexedHeaderTuple(*each) for each in headers])
        self._rooms[stream] = self._first_room
        self.write(frame(Frame.HEADERS, END_HEADERS, stream, block))
        return stream

    def room(self, stream: int) -> int:
        """The send window: bytes that the server accepts on the stream now."""
        return max(0, min(self._room, self._rooms.get(stream, 0)))

    def data(self, stream: int, data: bytes | memoryview, *, end: bool) -> None:
        """Send bytes that fit the send window; the last of the call, if it is the `end`."""
        self._room -= len(data)
        self._rooms[stream] -= len(data)
        pieces = range(0, max(1, len(data)), DEFAULT_FRAME_SIZE)
        for start in pieces:
            last = end and start == pieces[-1]
            piece = data[start : start + DEFAULT_FRAME_SIZE]
            self.write(frame(Frame.DATA, END_STREAM if last else 0, stream, bytes(piece)))

    def reset(self, stream: int, error: Error) -> None:
        """Reset a call."""
        self._rooms.pop(stream, None)
        self.write(frame(Frame.RST_STREAM, 0, stream, error.to_bytes(4, "big")))

    def write(self, data: bytes) -> None:
        """Send any bytes."""
        if self._socket is not None:
            self._socket.write(data)

    def pending(self) -> int:
        """Bytes that the server's socket has not taken yet."""
        return self._socket.get_write_buffer_size() if self._socket is not None else 0

    def pause(self) -> None:
        """Read no more."""
        if self._socket is not None:
            self._socket.pause_reading()

    async def changed(self, within_s: float) -> None:
        """Wait until something has come from the server, or for so long."""
        self._changed.clear()
        timer = asyncio.get_running_loop().call_later(within_s, self._changed.set)
        await self._changed.wait()
        timer.cancel()

    def close(self) -> None:
        """Abort it."""
        self.gone = True
        if self._socket is not None:
            self._socket.abort()

    # --- frames of the server ---

    def _grant(self, stream: int, size: int) -> None:
        if size and self._window > DEFAULT_WINDOW:
            self.write(frame(Frame.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")))

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case Frame.HEADERS if flags & END_STREAM:
                self._end(stream, status(payload) or "OK")
            case Frame.RST_STREAM:
                self._end(stream, f"RST_STREAM {_error(payload)}")
            case Frame.SETTINGS if not flags & ACK:
                self._settings(payload)
            case Frame.WINDOW_UPDATE:
                size = int.from_bytes(payload, "big")
                if not stream:
                    self._room += size
                elif stream in self._rooms:
                    self._rooms[stream] += size
            case Frame.GOAWAY:
                self.outcomes[f"GOAWAY {_error(payload[4:8])}"] += 1
                self.gone = True

    def _end(self, stream: int, how: str) -> None:
        if self._rooms.pop(stream, None) is not None:
            self.outcomes[how] += 1
            self.ended += 1

    def _settings(self, payload: bytes) -> None:
        for name, value in SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                more = value - self._first_room
                self._first_room = value
                for stream in self._rooms:
                    self._rooms[stream] += more
        if self._preface:
            self.write(frame(Frame.SETTINGS, ACK, 0))


async def connect(address: str, window: int = DEFAULT_WINDOW, *, preface: bool = True) -> Link:
    """A new connection, once the server's settings have come (or at once, without a preface).

    Raises OSError where the server takes none.
    """
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, link = await loop.create_connection(lambda: Link(window, preface=preface), host, int(port))
    return link


def _error(code: bytes) -> str:
    number = int.from_bytes(code, "big")
    return Error(number).name if number in _ERRORS else str(number)
