"""The server's half of an HTTP/2 connection (RFC 9113): bytes in, bytes out, no socket, no clock.

`receive` takes what the client sent and says what became of its streams; the `send_` methods put
frames into what `take` returns. A client that breaks the rules loses the stream, or the connection:
`closing` then says so, and what `take` returns last tells the client why.
"""

from __future__ import annotations

from batcher.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEAD,
    LARGEST_WINDOW,
    LEAST_FRAME_SIZE,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTING,
    ConnectionFailedError,
    Error,
    Frame,
    Setting,
    frame,
    number,
)
from batcher.http2.headers import BlockError, Blocks
from batcher.http2.sending import Sender, reset_frame
from batcher.http2.streams import (
    BEYOND,
    PARTS,
    Ended,
    Event,
    Limits,
    Opened,
    Received,
    Reset,
    Stream,
)

SETTINGS_A_SECOND = 20
"""Each may let all streams go on at once."""
_GRANTED = LARGEST_WINDOW // 2
"""Bytes after which the connection's window is opened again. Those of its streams are what bounds."""


class Connection(Sender):
    """One client's connection."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.closing = False
        """Nothing more is read; the last bytes are to be written, then the socket closed."""
        self._limits = limits
        self._blocks = Blocks(BEYOND * limits.max_headers)
        self._rest = b""
        self.greeted = False
        """Whether the client has shown that it speaks HTTP/2."""
        self._last = 0
        """The highest stream that the client has opened."""
        self._leaving = False
        self._answered = 0
        """The highest that came before it was asked to open no more."""
        self._received = 0
        self._block: bytearray | None = None
        """The beginning of a header block that goes on in the next frame."""
        self._block_stream = self._block_flags = self._parts = 0
        self.settings_left = SETTINGS_A_SECOND
        """How many more may come; whoever knows the time sets it anew each second."""
        settings = (
            (Setting.HEADER_TABLE_SIZE, 0),
            (Setting.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
            (Setting.MAX_HEADER_LIST_SIZE, limits.max_headers),
        )
        self._out += (
            frame(Frame.SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in settings)),
            frame(Frame.WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4, "big")),
        )

    def receive(self, data: bytes) -> list[Event]:
        """Bytes that the client sent: what they say of its streams, in order."""
        events: list[Event] = []
        if self.closing:
            return events
        try:
            self._receive(self._rest + data if self._rest else data, events)
        except ConnectionFailedError as failure:
            self.fail(failure.error, str(failure))
        return events

    def take_in(self, stream: Stream, size: int) -> None:
        """Bytes of its body were used: others may take their place."""
        stream.held -= size
        window = self._limits.stream_window
        room = window - stream.held - stream.credit
        if room * 2 >= window:
            self._grant(stream, room)

    def expect(self, stream: Stream, size: int) -> None:
        """So many bytes have yet to come before any can be used."""
        if size > stream.credit:
            self._grant(stream, size - stream.credit)

    def release(self, stream: Stream) -> None:
        """Nobody works on it any more: another may be opened in its place.

        Call it once for each `Opened`, after the answer or the reset.
        """
        self.reset(stream, Error.INTERNAL_ERROR)
        del self.streams[stream.id]

    def leave(self) -> None:
        """Ask the client to open no more streams; those that it opens nevertheless are refused."""
        if not self._leaving:
            self._leaving = True
            self._out.append(_goaway(self._answered, Error.NO_ERROR, ""))

    def fail(self, error: Error, text: str) -> None:
        """End the connection, and say why."""
        if not self.closing:
            self.closing = True
            self._out.append(_goaway(self._answered, error, text))

    # --- what comes in ---

    def _receive(self, data: bytes, events: list[Event]) -> None:
        at, end = 0, len(data)
        if not self.greeted:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if end < len(PREFACE) + HEAD.size:
                self._rest = data
                return
            at = len(PREFACE)
            if data[at + 3] != Frame.SETTINGS or data[at + 4] & ACK:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "SETTINGS come first")
            self.greeted = True
        while end - at >= HEAD.size:
            high, low, kind, flags, name = HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > LEAST_FRAME_SIZE:
                raise ConnectionFailedError(
                    Error.FRAME_SIZE_ERROR, f"a frame of {size} bytes; at most {LEAST_FRAME_SIZE}"
                )
            start = at + HEAD.size
            if start + size > end:
                break
            at = start + size
            self._frame(kind, flags, name & LARGEST_WINDOW, data[start:at], events)
        self._rest = data[at:]

    def _frame(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._block is not None:
            if kind != Frame.CONTINUATION or stream != self._block_stream:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "a header block is cut short")
            self._block += payload
            self._go_on(flags, self._block, events)
        elif kind == Frame.DATA:
            self._data(flags, stream, payload, events)
        elif kind == Frame.HEADERS:
            self._headers(flags, stream, payload, events)
        elif stream == 0:
            self._of_connection(kind, flags, payload, events)
        else:
            self._of_stream(kind, stream, payload, events)

    def _of_connection(self, kind: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if kind == Frame.SETTINGS:
            self._settings(flags, payload, events)
        elif kind == Frame.PING:
            _expect_size(payload, 8)
            if not flags & ACK:
                self._out.append(frame(Frame.PING, ACK, 0, payload))
        elif kind == Frame.WINDOW_UPDATE:
            _expect_size(payload, 4)
            step = number(payload)
            if not step:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "a window grows by 0")
            self._window += step
            if self._window > LARGEST_WINDOW:
                raise ConnectionFailedError(Error.FLOW_CONTROL_ERROR, "the window is too large")
            self._advance_all(events)
        elif kind in _NEED_STREAM:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"frame {kind} needs a stream")

    def _of_stream(self, kind: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind == Frame.WINDOW_UPDATE:
            self._widen(stream, payload, events)
        elif kind == Frame.RST_STREAM:
            _expect_size(payload, 4)
            self._check_begun(stream)
            known = self.streams.get(stream)
            if known is not None and not known.finished:
                known.finished = known.ended = True
                self._forget(known)
                events.append(Reset(known))
        elif kind == Frame.PRIORITY:
            _expect_size(payload, 5)
        elif kind in _NEED_CONNECTION:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"frame {kind} has no stream")

    def _headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        payload = _unpadded(flags, payload)
        if flags & PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "HEADERS are too short")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._opened(flags, stream, payload, events)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(payload), stream, flags

    def _go_on(self, flags: int, block: bytearray, events: list[Event]) -> None:
        self._parts += 1
        if len(block) > BEYOND * self._limits.max_headers or self._parts > PARTS:
            raise ConnectionFailedError(
                Error.ENHANCE_YOUR_CALM,
                f"headers take at most {self._limits.max_headers} bytes in {PARTS} frames",
            )
        if flags & END_HEADERS:
            self._block, self._parts = None, 0
            self._opened(self._block_flags, self._block_stream, bytes(block), events)

    def _opened(self, flags: int, name: int, block: bytes, events: list[Event]) -> None:
        try:
            # Also of a stream that is refused: the next block may build on this one.
            headers = self._blocks.decode(block)
        except BlockError as error:
            raise ConnectionFailedError(Error.COMPRESSION_ERROR, str(error)) from error
        known = self.streams.get(name)
        if known is not None and not known.ended:
            if not flags & END_STREAM:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "trailers end a stream")
            known.ended = True
            events.append(Ended(known))
            return
        if name % 2 == 0:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {name} is not a client's")
        if name <= self._last:
            if known is not None:
                raise ConnectionFailedError(Error.STREAM_CLOSED, f"stream {name} had ended")
            if any(field.startswith(":") for field, _ in headers):
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {name} is too low")
            return  # trailers that were on their way when the stream ended
        self._last = name
        if not self._leaving:
            self._answered = name
        if self._leaving or len(self.streams) >= self._limits.max_streams:
            self._out.append(reset_frame(name, Error.REFUSED_STREAM))
            return
        stream = Stream(name, self._limits.stream_window)
        self.streams[name] = stream
        events.append(Opened(stream, headers))
        if flags & END_STREAM:
            stream.ended = True
            events.append(Ended(stream))

    def _data(self, flags: int, name: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        self._received += size
        if self._received > _GRANTED:
            self._out.append(_wider(0, self._received))
            self._received = 0
        self._check_begun(name)
        data = _unpadded(flags, payload) if flags & PADDED else payload
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            return  # it was on its way when the stream ended
        if stream.ended:
            self.reset(stream, Error.STREAM_CLOSED)
            events.append(Reset(stream))
            return
        stream.credit -= size
        if stream.credit < 0:
            raise ConnectionFailedError(
                Error.FLOW_CONTROL_ERROR, f"stream {name} sent more than its window"
            )
        stream.held += len(data)
        if flags & PADDED:
            self.take_in(stream, 0)
        if data:
            events.append(Received(stream, data))
        if flags & END_STREAM:
            stream.ended = True
            events.append(Ended(stream))

    def _settings(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & ACK:
            _expect_size(payload, 0)
            self._blocks.acknowledged()
            return
        if len(payload) % SETTING.size:
            raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "SETTINGS are cut short")
        self.settings_left -= 1
        if self.settings_left < 0:
            raise ConnectionFailedError(
                Error.ENHANCE_YOUR_CALM, f"more than {SETTINGS_A_SECOND} SETTINGS a second"
            )
        before = self._stream_window
        for name, value in SETTING.iter_unpack(payload):
            self._setting(name, value)
        self._out.append(frame(Frame.SETTINGS, ACK, 0))
        if self._stream_window > before:
            for stream in list(self.streams.values()):
                self._advance_and_tell(stream, events)

    def _widen(self, name: int, payload: bytes, events: list[Event]) -> None:
        self._check_begun(name)
        _expect_size(payload, 4)
        step = number(payload)
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            return
        stream.window += step
        if not step or stream.window + self._stream_window > LARGEST_WINDOW:
            self.reset(stream, Error.FLOW_CONTROL_ERROR if step else Error.PROTOCOL_ERROR)
            events.append(Reset(stream))
        else:
            self._widest = max(self._widest, stream.window)
            self._advance_and_tell(stream, events)

    def _check_begun(self, name: int) -> None:
        if name == 0 or name % 2 == 0 or name > self._last:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {name} is not open")

    def _grant(self, stream: Stream, size: int) -> None:
        if not stream.ended and not stream.finished:
            stream.credit += size
            self._out.append(_wider(stream.id, size))


_NEED_STREAM = frozenset((Frame.PRIORITY, Frame.RST_STREAM, Frame.PUSH_PROMISE, Frame.CONTINUATION))
_NEED_CONNECTION = frozenset(
    (Frame.SETTINGS, Frame.PUSH_PROMISE, Frame.PING, Frame.GOAWAY, Frame.CONTINUATION)
)


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailedError(Error.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _expect_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFailedError(
            Error.FRAME_SIZE_ERROR, f"a payload of {len(payload)} bytes where {size} belong"
        )


def _wider(stream: int, size: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def _goaway(last: int, error: Error, text: str) -> bytes:
    payload = last.to_bytes(4, "big") + int(error).to_bytes(4, "big") + text.encode()
    return frame(Frame.GOAWAY, 0, 0, payload)
