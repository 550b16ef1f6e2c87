"""The sending half: frames of answers, within the send windows and the settings of the client."""

from __future__ import annotations

from collections import OrderedDict

from batcher.http2.sansio.budget import FRAMES_PER_DATA_FRAME, MIN_DATA_BYTES, Budget
from batcher.http2.sansio.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    ConnectionFailedError,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.streams import ConnectionCounters, Event, Stream, StreamDrained

MAX_FRAMED_BYTES = 1024 * 1024
"""Bytes of waiting data that are framed for one `data_to_send`: framing copies them while nothing else
runs. 1 MiB takes a quarter of a millisecond; a socket takes less at a time."""

_MAX_REMEMBERED = 256
"""Streams that are remembered as closed by the server. Frames on older ones are taken as late, too."""


class Sender:
    """Frames the server's answers, and keeps what the send windows do not allow yet."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        """What the client may send that carries no request. Call its `refill` each second."""
        self.streams: dict[int, Stream] = {}
        """Streams that the server works on, by number: from `RequestReceived` to `release`."""
        self.open_streams = 0
        """How many of them are open by the rules of HTTP/2; a stream that was reset is not."""
        self.counters = ConnectionCounters()
        self.queued_bytes = 0
        """Bytes of answers that wait for send windows."""
        self._closed_by_server: dict[int, None] = {}
        """Streams that the server closed before the client had ended them, the latest last. Frames that
        still come on them were on their way, and are no fault of the client's."""
        self._closed_by_server_below = 0
        """The highest stream that was dropped from `_closed_by_server`."""
        self._out: list[bytes] = []
        self._table_size_update = b""
        """The HPACK instruction that the next header block begins with."""
        self._send_window = DEFAULT_WINDOW
        self._initial_send_window = DEFAULT_WINDOW
        self._largest_offset = 0
        """At least as large as each stream's `send_window_offset`."""
        self._frame_size = DEFAULT_FRAME_SIZE
        self._waiting: OrderedDict[Stream, None] = OrderedDict()
        """Streams whose data waits for the connection's send window or for the next `data_to_send`; the
        next one first."""
        self._framed_bytes = 0
        """Bytes of waiting data that were framed since the last `data_to_send`."""

    def data_to_send(self) -> bytes:
        """Return the bytes to write now, once."""
        out = b"".join(self._out)
        self._out.clear()
        self._framed_bytes = 0
        return out

    @property
    def has_more_to_send(self) -> bool:
        """Whether `continue_sending` would frame more: call it when what was returned has been written."""
        return bool(self._waiting) and self._send_window > 0

    def continue_sending(self) -> list[Event]:
        """Frame up to `MAX_FRAMED_BYTES` more of the waiting data."""
        events: list[Event] = []
        self._send_waiting(events)
        return events

    @property
    def waiting_streams(self) -> int:
        """Streams whose data waits for the connection's send window."""
        return len(self._waiting)

    def waits_for_connection_window(self, stream: Stream) -> bool:
        """Whether its data waits for the send window that all streams share."""
        return stream in self._waiting

    @property
    def frames_to_send(self) -> int:
        """Parts of frames that `data_to_send` would return: at least as many as frames."""
        return len(self._out)

    def send_all(self, stream: Stream, block: bytes, data: bytes, trailers: bytes) -> None:
        """Send a whole answer: headers, data and trailers, the blocks encoded."""
        size = len(data)
        most = min(self._sendable(stream), DEFAULT_FRAME_SIZE)
        if (
            not stream.request_ended
            or self._table_size_update
            or size > most
            or len(trailers) > DEFAULT_FRAME_SIZE
        ):
            self.send_headers(stream, block)
            self.send_data(stream, data)
            self.send_trailers(stream, trailers)
        elif not stream.closed:
            self._close_stream(stream)
            self._send_window -= size
            stream_id = stream.id
            self._out += (
                FRAME_HEADER.pack(0, len(block), Frame.HEADERS, END_HEADERS, stream_id),
                block,
                FRAME_HEADER.pack(0, size, Frame.DATA, 0, stream_id),
                data,
                FRAME_HEADER.pack(
                    0, len(trailers), Frame.HEADERS, END_HEADERS | END_STREAM, stream_id
                ),
                trailers,
            )

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Send the headers' block of an answer."""
        if not stream.closed:
            self._send_block(stream.id, block, 0)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send data of an answer. What a send window does not allow waits until `StreamDrained`."""
        if stream.closed or stream.trailers is not None:
            return
        size = len(data)
        if not stream.outbox and size <= min(self._sendable(stream), self._frame_size):
            self._send_window -= size
            stream.send_window_offset -= size
            self.budget.frames += FRAMES_PER_DATA_FRAME
            self._out.append(frame(Frame.DATA, 0, stream.id, data))
        else:
            stream.outbox.append(memoryview(data))
            self.queued_bytes += size
            self._send_outbox(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End an answer with its trailers' block, behind the data that waits."""
        if stream.closed or stream.trailers is not None:
            return
        if stream.outbox:
            stream.trailers = block
        else:
            self._end_answer(stream, block)

    def discard_outbox(self, stream: Stream) -> None:
        """Drop the data of an answer that waits for a send window, and its trailers."""
        if not stream.closed:
            self._clear_outbox(stream)
            stream.trailers = None

    def reset(self, stream: Stream, error: Error) -> None:
        """Reset a stream: it gets no answer, or not the rest of it."""
        if not stream.closed:
            self._close_stream(stream)
            self._clear_outbox(stream)
            if not stream.request_ended:
                self._remember_closed_by_server(stream.id)
            self.counters.resets_sent += 1
            self._out.append(reset_frame(stream.id, error))

    def _apply_setting(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFailedError(
                    Error.FLOW_CONTROL_ERROR,
                    f"INITIAL_WINDOW_SIZE is {value}; at most {MAX_WINDOW}",
                )
            self._initial_send_window = value
            if value + self._largest_offset > MAX_WINDOW:
                self._largest_offset = max(
                    (each.send_window_offset for each in self.streams.values()), default=0
                )
            if value + self._largest_offset > MAX_WINDOW:
                raise ConnectionFailedError(
                    Error.FLOW_CONTROL_ERROR,
                    f"INITIAL_WINDOW_SIZE of {value} makes a stream's window larger than {MAX_WINDOW}",
                )
        elif name == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_SIZE <= value <= MAX_FRAME_SIZE:
                raise ConnectionFailedError(
                    Error.PROTOCOL_ERROR,
                    f"MAX_FRAME_SIZE is {value}; from {DEFAULT_FRAME_SIZE} to {MAX_FRAME_SIZE}",
                )
            self._frame_size = value
        elif name == Setting.HEADER_TABLE_SIZE:
            # Nothing enters the table here, so it may as well have no size.
            self._table_size_update = b"\x20"
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}; 0 or 1")

    def _send_block(self, stream_id: int, block: bytes, flags: int) -> None:
        most = self._frame_size
        if self._table_size_update:
            block, self._table_size_update = self._table_size_update + block, b""
        if len(block) <= most:
            self._out.append(frame(Frame.HEADERS, flags | END_HEADERS, stream_id, block))
            return
        self._out.append(frame(Frame.HEADERS, flags, stream_id, block[:most]))
        for start in range(most, len(block), most):
            last = END_HEADERS if start + most >= len(block) else 0
            self._out.append(
                frame(Frame.CONTINUATION, last, stream_id, block[start : start + most])
            )

    def _end_answer(self, stream: Stream, block: bytes) -> None:
        self._close_stream(stream)
        self._send_block(stream.id, block, END_STREAM)
        if not stream.request_ended:
            # The rest of the request is not needed (RFC 9113, section 8.1).
            self._remember_closed_by_server(stream.id)
            self._out.append(reset_frame(stream.id, Error.NO_ERROR))

    def _sendable(self, stream: Stream) -> int:
        """Bytes that both send windows allow on a stream; below 0 where a setting has shrunk them."""
        return min(self._send_window, self._initial_send_window + stream.send_window_offset)

    def _send_outbox(self, stream: Stream) -> None:
        """Frame the waiting data that both send windows allow; then the trailers."""
        outbox = stream.outbox
        while outbox:
            if self._framed_bytes >= MAX_FRAMED_BYTES:
                self._waiting[stream] = None
                return
            allowed = min(self._sendable(stream), self._frame_size)
            if allowed <= 0:
                # A stream that waits for its own window alone is sent when that grows.
                if self._initial_send_window + stream.send_window_offset > 0:
                    self._waiting[stream] = None
                return
            data = outbox[0]
            if len(data) > allowed:
                outbox[0] = data[allowed:]
                data = data[:allowed]
            else:
                outbox.popleft()
            self._send_window -= len(data)
            stream.send_window_offset -= len(data)
            self.queued_bytes -= len(data)
            self._framed_bytes += len(data)
            if len(data) >= MIN_DATA_BYTES:
                self.budget.frames += FRAMES_PER_DATA_FRAME
            self._out.append(frame(Frame.DATA, 0, stream.id, data))
        self._waiting.pop(stream, None)
        if stream.trailers is not None:
            self._end_answer(stream, stream.trailers)

    def _send_outbox_and_report(self, stream: Stream, events: list[Event]) -> None:
        if stream.outbox:
            self._send_outbox(stream)
            if not stream.outbox:
                events.append(StreamDrained(stream))

    def _send_waiting(self, events: list[Event]) -> None:
        # A stream that has sent goes behind those that have not.
        while self._waiting and self._send_window > 0 and self._framed_bytes < MAX_FRAMED_BYTES:
            stream, _ = self._waiting.popitem(last=False)
            self._send_outbox_and_report(stream, events)

    def _clear_outbox(self, stream: Stream) -> None:
        if stream.outbox:
            self.queued_bytes -= sum(map(len, stream.outbox))
            stream.outbox.clear()
        self._waiting.pop(stream, None)

    def _close_stream(self, stream: Stream) -> None:
        stream.closed = True
        self.open_streams -= 1

    def _remember_closed_by_server(self, stream_id: int) -> None:
        closed = self._closed_by_server
        closed[stream_id] = None
        if len(closed) > _MAX_REMEMBERED:
            oldest = next(iter(closed))
            del closed[oldest]
            self._closed_by_server_below = max(self._closed_by_server_below, oldest)

    def _was_closed_by_server(self, stream_id: int) -> bool:
        """Whether the server closed that stream before the client ended it, or may have."""
        return stream_id <= self._closed_by_server_below or stream_id in self._closed_by_server


def reset_frame(stream: int, error: Error) -> bytes:
    """An RST_STREAM frame."""
    return frame(Frame.RST_STREAM, 0, stream, int(error).to_bytes(4, "big"))
