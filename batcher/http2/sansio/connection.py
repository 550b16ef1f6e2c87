"""The server's half of an HTTP/2 connection (RFC 9113): its frames, settings and shutdown.

`receive` takes bytes that the client sent and returns events about its streams. The `send_` methods,
`reset` and `close` frame answers; `data_to_send` returns the bytes to write. A client that breaks a rule
loses the stream or the connection: then `closing` is true, and the last bytes to write are a GOAWAY with
the reason.
"""

from __future__ import annotations

from batcher.http2.sansio.fields import Fields
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    FRAME_HEADER,
    MAX_WINDOW,
    PREFACE,
    PRIORITY,
    SETTING,
    ConnectionFailedError,
    Error,
    Frame,
    Setting,
    expect_size,
    frame,
    number,
    unpadded,
)
from batcher.http2.sansio.hpack import HeaderDecoder
from batcher.http2.sansio.receiving import Receiver, window_update
from batcher.http2.sansio.streams import (
    HEADER_READ_FACTOR,
    MAX_HEADER_FRAMES,
    Event,
    Limits,
    Stream,
)

MAX_REASON_BYTES = 256
"""Bytes of the reason in a GOAWAY frame."""

_GOAWAY_PING = b"shutdown"
"""Payload of the PING that follows the initial GOAWAY. Its answer comes behind every stream that the client
opened before it knew (RFC 9113, section 6.8)."""


class Connection(Receiver):
    """One client's connection: bytes in, events and bytes out."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.preface_received = False
        """Whether the client has sent the connection preface, and so speaks HTTP/2."""
        self.closing = False
        """Whether the connection has ended: nothing more is read. Write what is left, close the socket."""
        self.error: Error | None = None
        """The error code it ended with, once it is closing."""
        self.reason = ""
        """Why it ended, in the server's words: it holds nothing that the client sent."""
        self.discarded = 0
        """Bytes received since it is closing."""
        self._decoder = HeaderDecoder(limits.max_headers, HEADER_READ_FACTOR * limits.max_headers)
        self._unparsed = b""
        """The beginning of a frame."""
        self._parsed = 0
        """How often at least one frame was complete."""
        self._goaway_received = False
        self._block: bytearray | None = None
        """The beginning of a header block that goes on in CONTINUATION frames."""
        self._block_stream = self._block_flags = self._block_frames = 0
        settings = (
            (Setting.MAX_CONCURRENT_STREAMS, limits.max_streams),
            (Setting.INITIAL_WINDOW_SIZE, limits.stream_window),
            (Setting.MAX_HEADER_LIST_SIZE, limits.max_headers),
        )
        self._out += (
            frame(Frame.SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in settings)),
            window_update(0, MAX_WINDOW - DEFAULT_WINDOW),
        )

    def receive(self, data: bytes) -> list[Event]:
        """Read bytes that the client sent; returns what they say about streams, in order."""
        events: list[Event] = []
        if self.closing:
            self.discarded += len(data)
            return events
        try:
            self._receive(self._unparsed + data if self._unparsed else data, events)
        except ConnectionFailedError as failure:
            self.close(failure.error, str(failure))
        self._close_after_goaway()
        return events

    @property
    def incomplete(self) -> tuple[int, int] | None:
        """A frame or a header block that has begun, as a value that stays the same until it is complete."""
        if self._block is not None:
            return self._block_stream, -1
        return (0, self._parsed) if self._unparsed else None

    def release(self, stream: Stream) -> None:
        """Forget a stream on which the work has ended: another may be worked on in its place.

        Call it once for each `RequestReceived`, after the answer or the reset.
        """
        self.reset(stream, Error.INTERNAL_ERROR)
        del self.streams[stream.id]
        self._close_after_goaway()

    # --- shutdown ---

    def send_initial_goaway(self) -> None:
        """Ask the client to open its streams elsewhere; those that it still opens are answered.

        When the client has answered the ping behind it, everything that was on its way has come, and
        the final GOAWAY follows. Call `send_final_goaway` where the client does not answer in time.
        """
        self._send_goaway(MAX_WINDOW, Error.NO_ERROR, "")
        self._out.append(frame(Frame.PING, 0, 0, _GOAWAY_PING))

    def send_final_goaway(self) -> None:
        """Refuse streams from now on. Those that are open are answered."""
        if not self.final_goaway_sent:
            self.final_goaway_sent = True
            self._send_goaway(self._last_accepted, Error.NO_ERROR, "")

    def close(self, error: Error, reason: str) -> None:
        """End the connection at once, and tell the client why."""
        if not self.closing:
            self.closing = True
            self.error, self.reason = error, reason
            self._send_goaway(self._last_accepted, error, reason)

    def _send_goaway(self, last_stream: int, error: Error, reason: str) -> None:
        self.counters.goaways_sent += 1
        numbers = last_stream.to_bytes(4, "big") + int(error).to_bytes(4, "big")
        payload = numbers + reason.encode()[:MAX_REASON_BYTES]
        self._out.append(frame(Frame.GOAWAY, 0, 0, payload))

    def _close_after_goaway(self) -> None:
        """Close when a client that has sent GOAWAY has no streams left to wait for."""
        if self._goaway_received and not self.streams:
            self.close(Error.NO_ERROR, "")

    # --- frames ---

    def _receive(self, data: bytes, events: list[Event]) -> None:
        at, end = 0, len(data)
        if not self.preface_received:
            if data[: len(PREFACE)] != PREFACE[: len(data)]:
                raise ConnectionFailedError(
                    Error.PROTOCOL_ERROR,
                    "no HTTP/2 preface: this port speaks gRPC over HTTP/2 only",
                )
            if end < len(PREFACE) + FRAME_HEADER.size:
                self._unparsed = data
                return
            at = len(PREFACE)
            if data[at + 3] != Frame.SETTINGS or data[at + 4] & ACK:
                raise ConnectionFailedError(
                    Error.PROTOCOL_ERROR, "the first frame of a connection must be SETTINGS"
                )
            self.preface_received = True
        while end - at >= FRAME_HEADER.size:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            size = high << 16 | low
            if size > DEFAULT_FRAME_SIZE:
                raise ConnectionFailedError(
                    Error.FRAME_SIZE_ERROR, f"a frame of {size} bytes; at most {DEFAULT_FRAME_SIZE}"
                )
            start = at + FRAME_HEADER.size
            if start + size > end:
                break
            at = start + size
            self._dispatch(kind, flags, stream & MAX_WINDOW, data[start:at], events)
        if at:
            self._parsed += 1
        self._unparsed = data[at:]

    def _dispatch(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._block is not None:
            if kind != Frame.CONTINUATION or stream != self._block_stream:
                raise ConnectionFailedError(
                    Error.PROTOCOL_ERROR, "a header block is interrupted by another frame"
                )
            self._block += payload
            self._continue_block(flags, self._block, events)
        elif kind == Frame.DATA:
            self._receive_data(flags, stream, payload, events)
        elif kind == Frame.HEADERS:
            self._receive_headers(flags, stream, payload, events)
        elif stream == 0:
            self._dispatch_connection(kind, flags, payload, events)
        else:
            self._dispatch_stream(kind, stream, payload, events)

    def _dispatch_stream(self, kind: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind == Frame.WINDOW_UPDATE:
            self._receive_window_update(stream, payload, events)
        elif kind == Frame.RST_STREAM:
            self._receive_reset(stream, payload, events)
        elif kind == Frame.PRIORITY:
            expect_size(Frame.PRIORITY, payload, 5)
            _check_priority(stream, payload)
            self.budget.spend_frame()
        elif kind in _CONNECTION_FRAMES:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"{Frame(kind).name} on a stream")
        else:
            self.budget.spend_frame()

    def _dispatch_connection(
        self, kind: int, flags: int, payload: bytes, events: list[Event]
    ) -> None:
        if kind == Frame.SETTINGS:
            self._receive_settings(flags, payload, events)
        elif kind == Frame.PING:
            expect_size(Frame.PING, payload, 8)
            self.budget.spend_frame()
            if not flags & ACK:
                self._out.append(frame(Frame.PING, ACK, 0, payload))
            elif payload == _GOAWAY_PING:
                self.send_final_goaway()
        elif kind == Frame.WINDOW_UPDATE:
            self._widen_send_window(payload, events)
        elif kind == Frame.GOAWAY:
            if len(payload) < 8:
                raise ConnectionFailedError(Error.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
            self.budget.spend_frame()
            self.counters.goaways_received += 1
            self._goaway_received = True
        elif kind in _STREAM_FRAMES:
            raise ConnectionFailedError(
                Error.PROTOCOL_ERROR, f"{Frame(kind).name} without a stream"
            )
        else:
            self.budget.spend_frame()

    def _receive_settings(self, flags: int, payload: bytes, events: list[Event]) -> None:
        if flags & ACK:
            expect_size(Frame.SETTINGS, payload, 0)
            self.budget.spend_frame()
            return
        if len(payload) % SETTING.size:
            raise ConnectionFailedError(
                Error.FRAME_SIZE_ERROR, f"SETTINGS are not a multiple of {SETTING.size} bytes"
            )
        self.budget.spend_settings()
        before = self._initial_send_window
        for name, value in SETTING.iter_unpack(payload):
            self._apply_setting(name, value)
        self._out.append(frame(Frame.SETTINGS, ACK, 0))
        if self._initial_send_window > before:
            for stream in list(self.streams.values()):
                self._send_outbox_and_report(stream, events)

    def _widen_send_window(self, payload: bytes, events: list[Event]) -> None:
        """Open the send window of the connection."""
        expect_size(Frame.WINDOW_UPDATE, payload, 4)
        self.budget.spend_frame()
        step = number(payload)
        if not step:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        self._send_window += step
        if self._send_window > MAX_WINDOW:
            raise ConnectionFailedError(
                Error.FLOW_CONTROL_ERROR, f"the connection's window is larger than {MAX_WINDOW}"
            )
        self._send_waiting(events)

    # --- header blocks ---

    def _receive_headers(
        self, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if stream % 2 == 0:
            raise ConnectionFailedError(
                Error.PROTOCOL_ERROR, f"HEADERS on stream {stream}: a client's streams are odd"
            )
        payload = unpadded(flags, payload)
        if flags & PRIORITY:
            if len(payload) < 5:
                raise ConnectionFailedError(
                    Error.FRAME_SIZE_ERROR, "HEADERS with a priority of less than 5 bytes"
                )
            _check_priority(stream, payload)
            payload = payload[5:]
        if flags & END_HEADERS:
            self._decode_block(flags, stream, payload, events)
        else:
            self._block, self._block_stream, self._block_flags = bytearray(payload), stream, flags

    def _continue_block(self, flags: int, block: bytearray, events: list[Event]) -> None:
        self._block_frames += 1
        max_headers = self._limits.max_headers
        if len(block) > HEADER_READ_FACTOR * max_headers or self._block_frames > MAX_HEADER_FRAMES:
            raise ConnectionFailedError(
                Error.ENHANCE_YOUR_CALM,
                f"headers may have {max_headers} bytes and {MAX_HEADER_FRAMES} frames at most",
            )
        if flags & END_HEADERS:
            self._block, self._block_frames = None, 0
            self._decode_block(self._block_flags, self._block_stream, bytes(block), events)

    def _decode_block(self, flags: int, stream: int, block: bytes, events: list[Event]) -> None:
        """Decode a complete header block: a request's headers, or its trailers."""
        # Also where the stream is refused: the next block may refer to fields of this one.
        fields: Fields = self._decoder.decode(block)
        if stream > self.highest_stream:
            self._open_stream(flags, stream, fields, events)
        else:
            self._receive_trailers(flags, stream, fields, events)


_STREAM_FRAMES = frozenset(
    (Frame.PRIORITY, Frame.RST_STREAM, Frame.PUSH_PROMISE, Frame.CONTINUATION)
)
_CONNECTION_FRAMES = frozenset(
    (Frame.SETTINGS, Frame.PUSH_PROMISE, Frame.PING, Frame.GOAWAY, Frame.CONTINUATION)
)


def _check_priority(stream: int, payload: bytes) -> None:
    if number(payload[:4]) == stream:
        raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"stream {stream} depends on itself")
