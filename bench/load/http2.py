"""The client's half of HTTP/2, for one unary call that is made over and over.

A call's frames are encoded once, and only the stream's number in them changes: no header of ours
enters the server's table, and with SETTINGS_HEADER_TABLE_SIZE 0 none of the server's enters one
here, so that every header block stands for itself and equal blocks mean the same. So it is with
gRPC's own clients from the second call on, whose blocks are a few references to the table. Of an answer only
the trailers are read, and its length is counted; the receive window is enlarged in large steps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import lru_cache

import grpc
from hpack import Decoder, HPACKError

from batcher.clock import MICROSECOND, MILLISECOND
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTING,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.hpack import encode

_ERRORS = frozenset(Error)
STATUSES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Request:
    """A call's frames, and how many bytes of them the server's windows count."""

    pieces: tuple[bytes, ...]
    """The frames, cut where the stream's number belongs."""
    size: int

    @classmethod
    def encode(
        cls, authority: str, path: str, message: bytes, deadline_ns: int | None = None
    ) -> Request:
        """A unary call of that method with that serialized message."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        if deadline_ns:
            headers.append(("grpc-timeout", timeout(deadline_ns)))
        block = encode(headers)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        frames = [(Frame.HEADERS, END_HEADERS, block)]
        for start in range(0, len(body), DEFAULT_FRAME_SIZE):
            stop = start + DEFAULT_FRAME_SIZE
            frames.append((Frame.DATA, END_STREAM if stop >= len(body) else 0, body[start:stop]))
        pieces = [b""]
        for kind, flags, payload in frames:
            pieces[-1] += frame(kind, flags, 0, payload)[:5]
            pieces.append(payload)
        return cls(tuple(pieces), len(body))


def timeout(deadline_ns: int) -> str:
    """The value of `grpc-timeout`: at most eight digits and a unit."""
    micros = deadline_ns // MICROSECOND
    return f"{micros}u" if micros < 10**8 else f"{deadline_ns // MILLISECOND}m"


@lru_cache(maxsize=1024)
def status(block: bytes) -> str:
    """The name of the gRPC status in trailers, empty for OK."""
    decoder = Decoder()
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    try:
        headers = dict(decoder.decode(block))
    except HPACKError as error:
        return f"trailers that cannot be read: {error}"
    code = headers.get("grpc-status")
    if code is None:
        return f"no grpc-status (:status {headers.get(':status')})"
    if code == "0":
        return ""
    return STATUSES.get(int(code), code) if code.isdecimal() else code


@dataclass(slots=True)
class Call:
    """One request that is not answered yet."""

    place: int
    due_ns: int
    received: int = 0
    """Bytes of the answer so far, with the five before its message."""


Settled = list[tuple[Call, str]]
"""Calls that have ended, each with why it failed; empty where it did not."""


class Connection:
    """Bytes in by `receive`, bytes out by `take`; knows no socket and no clock.

    After `send` and `receive`, the caller writes what `take` returns. Once `gone` says why, no
    further call may be made.
    """

    def __init__(self, request: Request, reply_bytes: int) -> None:
        self.gone = ""
        self.settings_received = False
        """Whether the server's settings have come."""
        self.stream_window = DEFAULT_WINDOW
        """The largest request, in bytes, that needs no permission to go on."""
        self._pieces, self._size = request.pieces, request.size
        self._reply_size = 5 + reply_bytes
        self._open: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._most = MAX_WINDOW
        self._received = 0
        self._rest = b""
        settings = (
            (Setting.HEADER_TABLE_SIZE, 0),
            (Setting.ENABLE_PUSH, 0),
            (Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW),
        )
        self._out = [
            PREFACE,
            frame(Frame.SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in settings)),
            frame(Frame.WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big")),
        ]

    def send(self, call: Call) -> None:
        """Begin a call, or let it wait until the server has room for it."""
        self._waiting.append(call)
        self._begin()

    def take(self) -> bytes:
        """What is to be written now."""
        out = b"".join(self._out)
        self._out.clear()
        return out

    def receive(self, data: bytes) -> Settled:
        """Bytes that the server sent."""
        data = self._rest + data if self._rest else data
        settled: Settled = []
        at, end = 0, len(data)
        while end - at >= FRAME_HEADER.size:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            start = at + FRAME_HEADER.size
            at = start + (high << 16 | low)
            if at > end:
                at = start - FRAME_HEADER.size
                break
            if kind == Frame.DATA:
                self._data(stream, flags, data, start, at, settled)
            elif kind == Frame.HEADERS:
                if flags & END_STREAM:
                    self._end(stream, _trailers(flags, data[start:at]), settled)
            else:
                self._other(kind, flags, stream, data[start:at], settled)
        self._rest = data[at:]
        self._begin()
        return settled

    def leave(self, why: str, beyond: int = 0) -> Settled:
        """Make no more calls; those on streams above `beyond`, and those that wait, fail."""
        self.gone = self.gone or why
        streams = [stream for stream in self._open if stream > beyond]
        failed = [*map(self._open.pop, streams), *self._waiting]
        self._waiting.clear()
        return [(call, why) for call in failed]

    def _begin(self) -> None:
        waiting = self._waiting
        while waiting and self._window >= self._size and len(self._open) < self._most:
            stream = self._next
            self._next += 2
            self._window -= self._size
            self._open[stream] = waiting.popleft()
            self._out.append(stream.to_bytes(4, "big").join(self._pieces))

    def _data(
        self, stream: int, flags: int, data: bytes, start: int, stop: int, settled: Settled
    ) -> None:
        self._received += stop - start
        if self._received > MAX_WINDOW // 2:
            self._out.append(frame(Frame.WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        call = self._open.get(stream)
        if call is not None:
            call.received += stop - start - (1 + data[start] if flags & PADDED else 0)
        if flags & END_STREAM:
            self._end(stream, "no trailers", settled)

    def _end(self, stream: int, failure: str, settled: Settled) -> None:
        call = self._open.pop(stream, None)
        if call is None:
            return
        if not failure and call.received != self._reply_size:
            failure = "a reply of another length"
        settled.append((call, failure))

    def _other(self, kind: int, flags: int, stream: int, payload: bytes, settled: Settled) -> None:
        match kind:
            case Frame.SETTINGS if not flags & ACK:
                self._settings(payload)
            case Frame.PING if not flags & ACK:
                self._out.append(frame(Frame.PING, ACK, 0, payload))
            case Frame.WINDOW_UPDATE if not stream:
                self._window += int.from_bytes(payload, "big")
            case Frame.RST_STREAM:
                self._reset(stream, _error(payload), settled)
            case Frame.GOAWAY:
                last = int.from_bytes(payload[:4], "big") & MAX_WINDOW
                settled += self.leave(f"GOAWAY {_error(payload[4:8])}", last)

    def _reset(self, stream: int, error: str, settled: Settled) -> None:
        if error == "REFUSED_STREAM" and stream in self._open and not self.gone:
            # It was not looked at: the server still counted a call that had ended.
            self._waiting.appendleft(self._open.pop(stream))
        else:
            self._end(stream, f"RST_STREAM {error}", settled)

    def _settings(self, payload: bytes) -> None:
        self.settings_received = True
        for name, value in SETTING.iter_unpack(payload):
            if name == Setting.MAX_CONCURRENT_STREAMS:
                self._most = value
            elif name == Setting.INITIAL_WINDOW_SIZE:
                self.stream_window = value
        self._out.append(frame(Frame.SETTINGS, ACK, 0))


def _trailers(flags: int, payload: bytes) -> str:
    if not flags & END_HEADERS:
        return "trailers in several frames"
    if flags & PADDED:
        payload = payload[1 : len(payload) - payload[0]]
    return status(payload[5:] if flags & PRIORITY else payload)


def _error(code: bytes) -> str:
    number = int.from_bytes(code, "big")
    return Error(number).name if number in _ERRORS else str(number)
