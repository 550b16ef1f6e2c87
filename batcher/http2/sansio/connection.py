"""The server's half of an HTTP/2 connection (RFC 9113): bytes in, bytes out, no socket, no clock.

`receive` takes what the client sent and says what became of its streams; the `send_` methods put
frames into what `take` returns. A client that breaks the rules loses the stream, or the connection:
`closing` then says so, and what `take` returns last tells the client why.
"""

from __future__ import annotations

from batcher.http2.sansio.budget import Budget
from batcher.http2.sansio.fields import Fields, MalformedRequestError, check_trailers, read_request
from batcher.http2.sansio.frames import (
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
from batcher.http2.sansio.hpack import Blocks
from batcher.http2.sansio.sending import Sender, reset_frame
from batcher.http2.sansio.streams import (
    BEYOND,
    PARTS,
    UNDER_WAY,
    Ended,
    Event,
    Limits,
    Opened,
    Received,
    Reset,
    Stream,
)

_LEAVING = b"leaving."
"""What the ping says whose answer comes behind all that the client sent before it knew."""
MOST_TEXT = 256
"""Bytes of the reason in a GOAWAY frame."""
_GRANTED = LARGEST_WINDOW // 2
"""Bytes after which the connection's window is opened again. Those of its streams are what bounds."""


class Connection(Sender):
    """One client's connection."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Budget(limits.max_streams))
        self.preface_received = False
        """Whether the client has shown that it speaks HTTP/2."""
        self.closing = False
        """Nothing more is read; the last bytes are to be written, then the socket closed."""
        self.error: Error | None = None
        """Why it ended, once it is closing."""
        self.reason = ""
        """The same in words, none of them the client's."""
        self.discarded = 0
        """Bytes that came after it had ended."""
        self._limits = limits
        self._blocks = Blocks(limits.max_headers, BEYOND * limits.max_headers)
        self._rest = b""
        self.highest = 0
        """The highest stream that the client has opened."""
        self._whole = 0
        """How often at least one frame was complete."""
        self.draining = False
        """Whether the client was asked to open no more streams, and those that it opens are refused."""
        self._client_leaving = False
        self._answered = 0
        """The highest that came before it was asked to open no more."""
        self._received = 0
        self._block: bytearray | None = None
        """The beginning of a header block that goes on in the next frame."""
        self._block_stream = self._block_flags = self._parts = 0
        settings = (
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
            self.discarded += len(data)
            return events
        try:
            self._receive(self._rest + data if self._rest else data, events)
        except ConnectionFailedError as failure:
            self.fail(failure.error, str(failure))
        self._end_if_left()
        return events

    @property
    def incomplete(self) -> tuple[int, int] | None:
        """A frame or a header block that has begun: the same value until it is complete."""
        if self._block is not None:
            return self._block_stream, -1
        return (0, self._whole) if self._rest else None

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
        """The work on it has ended: another may be worked on in its place.

        Call it once for each `Opened`, after the answer or the reset.
        """
        self.reset(stream, Error.INTERNAL_ERROR)
        del self.streams[stream.id]
        self._end_if_left()

    def announce_leaving(self) -> None:
        """Ask the client to open its streams elsewhere; those that it still opens are answered.

        When it has read so, those that were on their way have come: then the connection leaves.
        Call `leave` where the client takes too long to say so.
        """
        self._send_goaway(LARGEST_WINDOW, Error.NO_ERROR, "")
        self._out.append(frame(Frame.PING, 0, 0, _LEAVING))

    def leave(self) -> None:
        """Ask the client to open no more streams; those that it opens nevertheless are refused."""
        if not self.draining:
            self.draining = True
            self._send_goaway(self._answered, Error.NO_ERROR, "")

    def fail(self, error: Error, text: str) -> None:
        """End the connection, and say why."""
        if not self.closing:
            self.closing = True
            self.error, self.reason = error, text
            self._send_goaway(self._answered, error, text)

    def _send_goaway(self, last: int, error: Error, text: str) -> None:
        self.counts.goaways_sent += 1
        reason = text.encode()[:MOST_TEXT]
        payload = last.to_bytes(4, "big") + int(error).to_bytes(4, "big") + reason
        self._out.append(frame(Frame.GOAWAY, 0, 0, payload))

    def _end_if_left(self) -> None:
        """A client that has said that it leaves waits for nothing but its streams."""
        if self._client_leaving and not self.streams:
            self.fail(Error.NO_ERROR, "")

    # --- what comes in ---

    def _receive(self, data: bytes, events: list[Event]) -> None:
        at, end = 0, len(data)
        if not self.preface_received:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if end < len(PREFACE) + HEAD.size:
                self._rest = data
                return
            at = len(PREFACE)
            if data[at + 3] != Frame.SETTINGS or data[at + 4] & ACK:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "SETTINGS come first")
            self.preface_received = True
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
        if at:
            self._whole += 1
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
            self.budget.spend_frame()
            if not flags & ACK:
                self._out.append(frame(Frame.PING, ACK, 0, payload))
            elif payload == _LEAVING:
                self.leave()
        elif kind == Frame.WINDOW_UPDATE:
            _expect_size(payload, 4)
            self.budget.spend_frame()
            step = number(payload)
            if not step:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, "a window grows by 0")
            self._window += step
            if self._window > LARGEST_WINDOW:
                raise ConnectionFailedError(Error.FLOW_CONTROL_ERROR, "the window is too large")
            self._advance_all(events)
        elif kind == Frame.GOAWAY:
            if len(payload) < 8:
                raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "GOAWAY is too short")
            self.budget.spend_frame()
            self.counts.goaways_received += 1
            self._client_leaving = True
        elif kind in _NEED_STREAM:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"frame {kind} needs a stream")
        else:
            self.budget.spend_frame()

    def _of_stream(self, kind: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind == Frame.WINDOW_UPDATE:
            self._widen(stream, payload, events)
        elif kind == Frame.RST_STREAM:
            self._reset(stream, payload, events)
        elif kind == Frame.PRIORITY:
            _expect_size(payload, 5)
            _check_priority(stream, payload)
            self.budget.spend_frame()
        elif kind in _NEED_CONNECTION:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"frame {kind} has no stream")
        else:
            self.budget.spend_frame()

    def _reset(self, name: int, payload: bytes, events: list[Event]) -> None:
        _expect_size(payload, 4)
        self._check_begun(name)
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            self.budget.spend_frame()
            return
        self.counts.resets_received += 1
        self._finished(stream)
        stream.ended = True
        self._forget(stream)
        events.append(Reset(stream))
        self.budget.spend_reset()

    def _headers(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if stream % 2 == 0:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {stream} is not a client's")
        payload = _unpadded(flags, payload)
        if flags & PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "HEADERS are too short")
            _check_priority(stream, payload)
            payload = payload[5:]
        if flags & END_HEADERS:
            self._fields(flags, stream, payload, events)
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
            self._fields(self._block_flags, self._block_stream, bytes(block), events)

    def _fields(self, flags: int, name: int, block: bytes, events: list[Event]) -> None:
        """A whole header block: of a request, or its trailers."""
        # Also of a stream that is refused: the next block may build on this one.
        fields = self._blocks.decode(block)
        if name > self.highest:
            self._opened(flags, name, fields, events)
        else:
            self._trailers(flags, name, fields, events)

    def _opened(self, flags: int, name: int, fields: Fields, events: list[Event]) -> None:
        limits = self._limits
        self.highest = name
        self.budget.opened()
        if not self.draining:
            self._answered = name
        if (
            self.draining
            or self.open >= limits.max_streams
            or len(self.streams) >= UNDER_WAY * limits.max_streams
        ):
            self.counts.refused += 1
            self._refuse(name, Error.REFUSED_STREAM)
            return
        try:
            request = read_request(fields, limits.max_headers)
        except MalformedRequestError:
            self.counts.malformed += 1
            self._refuse(name, Error.PROTOCOL_ERROR)
            return
        stream = Stream(name, limits.stream_window)
        stream.expected = request.content_length
        self.streams[name] = stream
        self.open += 1
        self.budget.accepted()
        events.append(Opened(stream, request))
        if flags & END_STREAM:
            self._ended(stream, events)

    def _trailers(self, flags: int, name: int, fields: Fields, events: list[Event]) -> None:
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            self.budget.spend_frame()
            if self._closed_first_by_server(name):
                return  # they were on their way when the stream ended
            if name == self.highest:
                raise ConnectionFailedError(Error.STREAM_CLOSED, f"stream {name} had ended")
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {name} is too low")
        if stream.ended:
            self._reject(stream, Error.STREAM_CLOSED, events)
            return
        try:
            check_trailers(fields)
        except MalformedRequestError:
            flags = 0
        if flags & END_STREAM:
            self._ended(stream, events)
        else:
            self._reject(stream, Error.PROTOCOL_ERROR, events)

    def _ended(self, stream: Stream, events: list[Event]) -> None:
        if stream.expected:
            self._reject(stream, Error.PROTOCOL_ERROR, events)
        else:
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
        if not data and not flags & END_STREAM:
            self.budget.spend_frame()
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            if not self._closed_first_by_server(name):
                self.counts.malformed += 1
                self._refuse(name, Error.STREAM_CLOSED)
            return  # it was on its way when the stream ended
        if stream.ended:
            self._reject(stream, Error.STREAM_CLOSED, events)
            return
        stream.credit -= size
        if stream.credit < 0:
            raise ConnectionFailedError(
                Error.FLOW_CONTROL_ERROR, f"stream {name} sent more than its window"
            )
        stream.held += len(data)
        if flags & PADDED:
            self.take_in(stream, 0)
        if stream.expected is not None:
            stream.expected -= len(data)
            if stream.expected < 0:
                self._reject(stream, Error.PROTOCOL_ERROR, events)
                return
        # Where padding has used up what the message needs, more is to be expected.
        if data or not stream.credit:
            events.append(Received(stream, data))
        if flags & END_STREAM:
            self._ended(stream, events)

    def _reject(self, stream: Stream, error: Error, events: list[Event]) -> None:
        """The client broke the rules of one stream."""
        self.counts.malformed += 1
        self._finished(stream)
        self._forget(stream)
        self._refuse(stream.id, error)
        events.append(Reset(stream))

    def _refuse(self, name: int, error: Error) -> None:
        """Answer nothing on a stream, and ignore what else comes on it."""
        self._out.append(reset_frame(name, error))
        self._note_closed_first(name)
        self.budget.spend_reset()

    def _settings(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & ACK:
            _expect_size(payload, 0)
            self.budget.spend_frame()
            return
        if len(payload) % SETTING.size:
            raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "SETTINGS are cut short")
        self.budget.spend_settings()
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
        self.budget.spend_frame()
        step = number(payload)
        stream = self.streams.get(name)
        if stream is None or stream.finished:
            return
        stream.window += step
        if not step or stream.window + self._stream_window > LARGEST_WINDOW:
            error = Error.FLOW_CONTROL_ERROR if step else Error.PROTOCOL_ERROR
            self._reject(stream, error, events)
        else:
            self._widest = max(self._widest, stream.window)
            self._advance_and_tell(stream, events)

    def _check_begun(self, name: int) -> None:
        if name == 0 or name % 2 == 0 or name > self.highest:
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


def _check_priority(stream: int, payload: bytes) -> None:
    if number(payload[:4]) == stream:
        raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {stream} depends on itself")


def _expect_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFailedError(
            Error.FRAME_SIZE_ERROR, f"a payload of {len(payload)} bytes where {size} belong"
        )


def _wider(stream: int, size: int) -> bytes:
    return frame(Frame.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))
