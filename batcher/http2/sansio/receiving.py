"""The receiving half: what frames of streams mean (RFC 9113, sections 5 and 8), and receive windows."""

from __future__ import annotations

from batcher.http2.sansio.budget import Budget
from batcher.http2.sansio.fields import (
    Fields,
    MalformedRequestError,
    check_trailers,
    read_request,
)
from batcher.http2.sansio.frames import (
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    ConnectionFailedError,
    Error,
    Frame,
    expect_size,
    frame,
    number,
    unpadded,
)
from batcher.http2.sansio.sending import Sender, reset_frame
from batcher.http2.sansio.streams import (
    UNFINISHED_FACTOR,
    DataReceived,
    Event,
    Limits,
    RequestReceived,
    Stream,
    StreamEnded,
    StreamReset,
)

_WINDOW_UPDATE_BYTES = MAX_WINDOW // 2
"""Bytes received after which the connection's receive window is opened again. It never limits: the receive
windows of the streams do."""


class Receiver(Sender):
    """Opens, feeds and ends streams as the client's frames say, and grants receive windows."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(Budget(limits.max_streams))
        self.highest_stream = 0
        """The highest stream that the client has opened."""
        self.final_goaway_sent = False
        """Whether streams that the client still opens are refused."""
        self._limits = limits
        self._last_accepted = 0
        """The highest stream that was opened before the final GOAWAY."""
        self._received_bytes = 0
        """Since the last update of the connection's receive window."""

    def consume(self, stream: Stream, size: int) -> None:
        """Note that bytes of a stream's body were used; opens its receive window by half of it or more."""
        stream.unconsumed -= size
        window = self._limits.stream_window
        more = window - stream.unconsumed - stream.receive_window
        if more * 2 >= window:
            self._widen_receive_window(stream, more)

    def allow(self, stream: Stream, size: int) -> None:
        """Let the client send at least so many more bytes, as none can be used before they have come."""
        if size > stream.receive_window:
            self._widen_receive_window(stream, size - stream.receive_window)

    def _widen_receive_window(self, stream: Stream, size: int) -> None:
        if not stream.request_ended and not stream.closed:
            stream.receive_window += size
            self._out.append(window_update(stream.id, size))

    # --- header blocks ---

    def _open_stream(self, flags: int, stream_id: int, fields: Fields, events: list[Event]) -> None:
        limits = self._limits
        self.highest_stream = stream_id
        self.budget.earn_stream()
        if not self.final_goaway_sent:
            self._last_accepted = stream_id
        if (
            self.final_goaway_sent
            or self.open_streams >= limits.max_streams
            or len(self.streams) >= UNFINISHED_FACTOR * limits.max_streams
        ):
            self.counters.refused += 1
            self._refuse(stream_id, Error.REFUSED_STREAM)
            return
        try:
            request = read_request(fields, limits.max_headers)
        except MalformedRequestError:
            self.counters.malformed += 1
            self._refuse(stream_id, Error.PROTOCOL_ERROR)
            return
        stream = Stream(stream_id, limits.stream_window)
        stream.content_left = request.content_length
        self.streams[stream_id] = stream
        self.open_streams += 1
        self.budget.earn_request()
        events.append(RequestReceived(stream, request))
        if flags & END_STREAM:
            self._end_request(stream, events)

    def _receive_trailers(
        self, flags: int, stream_id: int, fields: Fields, events: list[Event]
    ) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            self.budget.spend_frame()
            if self._was_closed_by_server(stream_id):
                return  # they were on their way when the stream was closed
            if stream_id == self.highest_stream:
                raise ConnectionFailedError(
                    Error.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which had ended"
                )
            raise ConnectionFailedError(
                Error.PROTOCOL_ERROR,
                f"HEADERS on stream {stream_id}: new streams are higher than {self.highest_stream}",
            )
        if stream.request_ended:
            self._reject(stream, Error.STREAM_CLOSED, events)
            return
        try:
            check_trailers(fields)
        except MalformedRequestError:
            flags = 0
        if flags & END_STREAM:
            self._end_request(stream, events)
        else:
            self._reject(stream, Error.PROTOCOL_ERROR, events)

    def _end_request(self, stream: Stream, events: list[Event]) -> None:
        if stream.content_left:
            self._reject(stream, Error.PROTOCOL_ERROR, events)
        else:
            stream.request_ended = True
            events.append(StreamEnded(stream))

    # --- other frames of a stream ---

    def _receive_data(
        self, flags: int, stream_id: int, payload: bytes, events: list[Event]
    ) -> None:
        size = len(payload)
        self._received_bytes += size
        if self._received_bytes > _WINDOW_UPDATE_BYTES:
            self._out.append(window_update(0, self._received_bytes))
            self._received_bytes = 0
        self._check_opened(stream_id)
        data = unpadded(flags, payload) if flags & PADDED else payload
        if not data and not flags & END_STREAM:
            self.budget.spend_frame()
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            if not self._was_closed_by_server(stream_id):
                self.counters.malformed += 1
                self._refuse(stream_id, Error.STREAM_CLOSED)
            return  # else it was on its way when the stream was closed
        if stream.request_ended:
            self._reject(stream, Error.STREAM_CLOSED, events)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ConnectionFailedError(
                Error.FLOW_CONTROL_ERROR, f"stream {stream_id} sent more than its window allows"
            )
        stream.unconsumed += len(data)
        if flags & PADDED:
            self.consume(stream, 0)
        if stream.content_left is not None:
            stream.content_left -= len(data)
            if stream.content_left < 0:
                self._reject(stream, Error.PROTOCOL_ERROR, events)
                return
        # Also without data where padding has used up the window: the caller may have to `allow` more.
        if data or not stream.receive_window:
            events.append(DataReceived(stream, data))
        if flags & END_STREAM:
            self._end_request(stream, events)

    def _receive_reset(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        expect_size(Frame.RST_STREAM, payload, 4)
        self._check_opened(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            self.budget.spend_frame()
            return
        self.counters.resets_received += 1
        self._close_stream(stream)
        stream.request_ended = True
        self._clear_outbox(stream)
        events.append(StreamReset(stream))
        self.budget.spend_reset()

    def _receive_window_update(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        """Open the send window of a stream."""
        self._check_opened(stream_id)
        expect_size(Frame.WINDOW_UPDATE, payload, 4)
        self.budget.spend_frame()
        step = number(payload)
        stream = self.streams.get(stream_id)
        if stream is None or stream.closed:
            return
        stream.send_window_offset += step
        if not step or stream.send_window_offset + self._initial_send_window > MAX_WINDOW:
            error = Error.FLOW_CONTROL_ERROR if step else Error.PROTOCOL_ERROR
            self._reject(stream, error, events)
        else:
            self._largest_offset = max(self._largest_offset, stream.send_window_offset)
            self._send_outbox_and_report(stream, events)

    def _check_opened(self, stream_id: int) -> None:
        if stream_id == 0 or stream_id % 2 == 0 or stream_id > self.highest_stream:
            raise ConnectionFailedError(
                Error.PROTOCOL_ERROR, f"a frame on stream {stream_id}, which was never opened"
            )

    # --- streams on which the client broke a rule ---

    def _reject(self, stream: Stream, error: Error, events: list[Event]) -> None:
        """Reset an open stream on which the client broke a rule."""
        self.counters.malformed += 1
        self._close_stream(stream)
        self._clear_outbox(stream)
        self._refuse(stream.id, error)
        events.append(StreamReset(stream))

    def _refuse(self, stream_id: int, error: Error) -> None:
        """Reset a stream for which the server keeps nothing, and ignore what still comes on it."""
        self._out.append(reset_frame(stream_id, error))
        self._remember_closed_by_server(stream_id)
        self.budget.spend_reset()


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(Frame.WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))
