"""What the server's half of a connection sends: frames, within the client's windows."""

from __future__ import annotations

from collections import OrderedDict

from batcher.http2.sansio.budget import FRAMES_FOR_DATA, LEAST_DATA, Budget
from batcher.http2.sansio.frames import (
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    HEAD,
    LARGEST_FRAME_SIZE,
    LARGEST_WINDOW,
    LEAST_FRAME_SIZE,
    ConnectionFailedError,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.streams import Counts, Drained, Event, Stream

MOST_AT_ONCE = 1024 * 1024
"""Bytes of large answers that are framed before they are taken: framing copies them, and nothing else
runs meanwhile. A quarter of a millisecond's work; the socket takes less at a time."""

_REMEMBERED = 256
"""So many streams that the server ended first are told from those that the client had ended."""


class Sender:
    """The frames that go out, and the windows that the client has opened for them."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        """What the client may send beside its requests. Call its `refill` each second."""
        self.streams: dict[int, Stream] = {}
        """Those that are worked on, by number."""
        self.open = 0
        """How many of them the client sees as open."""
        self.counts = Counts()
        self.queued = 0
        """Bytes of answers that wait for the client's windows."""
        self._closed_first: dict[int, None] = {}
        """Streams that the server ended before the client had, the latest last: what the client
        sends meanwhile is on its way already."""
        self._closed_first_below = 0
        """The highest that is no longer among them."""
        self._out: list[bytes] = []
        self._shrunk = b""
        """What the next block says of the table first."""
        self._window = FIRST_WINDOW
        self._stream_window = FIRST_WINDOW
        self._widest = 0
        """No stream's window is larger, beyond the initial one."""
        self._frame_size = LEAST_FRAME_SIZE
        self._waiting: OrderedDict[Stream, None] = OrderedDict()
        """Streams with data that waits for the connection's window or for the next `take`, in their
        order."""
        self._at_once = 0
        """Bytes of them that were framed since the last `take`."""

    def take(self) -> bytes:
        """What is to be written now."""
        out = b"".join(self._out)
        self._out.clear()
        self._at_once = 0
        return out

    @property
    def has_more(self) -> bool:
        """Whether `go_on` has something to frame: call it once what was taken has been written."""
        return bool(self._waiting) and self._window > 0

    def go_on(self) -> list[Event]:
        """Frame more of what was held back because too much came at once."""
        events: list[Event] = []
        self._advance_all(events)
        return events

    @property
    def waiting(self) -> int:
        """Streams with data that waits for the connection's window."""
        return len(self._waiting)

    def waits_for_others(self, stream: Stream) -> bool:
        """Whether its data waits for the window that all streams share."""
        return stream in self._waiting

    @property
    def frames_to_write(self) -> int:
        """How many `take` would return, or more."""
        return len(self._out)

    def send_all(self, stream: Stream, block: bytes, data: bytes, trailers: bytes) -> None:
        """The whole answer at once."""
        size = len(data)
        most = min(self._room(stream), LEAST_FRAME_SIZE)
        if not stream.ended or self._shrunk or size > most or len(trailers) > LEAST_FRAME_SIZE:
            self.send_headers(stream, block)
            self.send_data(stream, data)
            self.send_trailers(stream, trailers)
        elif not stream.finished:
            self._finished(stream)
            self._window -= size
            name = stream.id
            self._out += (
                HEAD.pack(0, len(block), Frame.HEADERS, END_HEADERS, name),
                block,
                HEAD.pack(0, size, Frame.DATA, 0, name),
                data,
                HEAD.pack(0, len(trailers), Frame.HEADERS, END_HEADERS | END_STREAM, name),
                trailers,
            )

    def send_headers(self, stream: Stream, block: bytes) -> None:
        """Begin the answer."""
        if not stream.finished:
            self._send_block(stream.id, block, 0)

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Go on with it. What the client's window does not hold waits; see `Drained`."""
        if stream.finished or stream.trailers is not None:
            return
        size = len(data)
        if not stream.outbox and size <= min(self._room(stream), self._frame_size):
            self._window -= size
            stream.window -= size
            self.budget.frames += FRAMES_FOR_DATA
            self._out.append(frame(Frame.DATA, 0, stream.id, data))
        else:
            stream.outbox.append(memoryview(data))
            self.queued += size
            self._advance(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End it, as soon as all its data has left."""
        if stream.finished or stream.trailers is not None:
            return
        if stream.outbox:
            stream.trailers = block
        else:
            self._finish(stream, block)

    def abandon(self, stream: Stream) -> None:
        """Send none of the data that waits for the client's window."""
        if not stream.finished:
            self._forget(stream)
            stream.trailers = None

    def reset(self, stream: Stream, error: Error) -> None:
        """End a stream without an answer, or without the rest of it."""
        if not stream.finished:
            self._finished(stream)
            self._forget(stream)
            if not stream.ended:
                self._note_closed_first(stream.id)
            self.counts.resets_sent += 1
            self._out.append(reset_frame(stream.id, error))

    def _setting(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise ConnectionFailedError(Error.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
            self._stream_window = value
            if value + self._widest > LARGEST_WINDOW:
                self._widest = max((each.window for each in self.streams.values()), default=0)
            if value + self._widest > LARGEST_WINDOW:
                raise ConnectionFailedError(Error.FLOW_CONTROL_ERROR, "a window is too large")
        elif name == Setting.MAX_FRAME_SIZE:
            if not LEAST_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
                raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"frames of {value} bytes")
            self._frame_size = value
        elif name == Setting.HEADER_TABLE_SIZE:
            self._shrunk = b"\x20"
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFailedError(Error.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")

    def _send_block(self, name: int, block: bytes, flags: int) -> None:
        most = self._frame_size
        if self._shrunk:
            block, self._shrunk = self._shrunk + block, b""
        if len(block) <= most:
            self._out.append(frame(Frame.HEADERS, flags | END_HEADERS, name, block))
            return
        self._out.append(frame(Frame.HEADERS, flags, name, block[:most]))
        for start in range(most, len(block), most):
            last = END_HEADERS if start + most >= len(block) else 0
            self._out.append(frame(Frame.CONTINUATION, last, name, block[start : start + most]))

    def _finish(self, stream: Stream, block: bytes) -> None:
        self._finished(stream)
        self._send_block(stream.id, block, END_STREAM)
        if not stream.ended:
            # The answer does not depend on the rest of the request.
            self._note_closed_first(stream.id)
            self._out.append(reset_frame(stream.id, Error.NO_ERROR))

    def _room(self, stream: Stream) -> int:
        """Bytes that may be sent on a stream now; below 0 where a window has shrunk."""
        return min(self._window, self._stream_window + stream.window)

    def _advance(self, stream: Stream) -> None:
        """Send of its data what both windows hold; then the trailers."""
        outbox = stream.outbox
        while outbox:
            if self._at_once >= MOST_AT_ONCE:
                self._waiting[stream] = None
                return
            room = min(self._room(stream), self._frame_size)
            if room <= 0:
                # Who waits for its own window alone is found when that grows.
                if self._stream_window + stream.window > 0:
                    self._waiting[stream] = None
                return
            data = outbox[0]
            if len(data) > room:
                outbox[0] = data[room:]
                data = data[:room]
            else:
                outbox.popleft()
            self._window -= len(data)
            stream.window -= len(data)
            self.queued -= len(data)
            self._at_once += len(data)
            if len(data) >= LEAST_DATA:
                self.budget.frames += FRAMES_FOR_DATA
            self._out.append(frame(Frame.DATA, 0, stream.id, data))
        self._waiting.pop(stream, None)
        if stream.trailers is not None:
            self._finish(stream, stream.trailers)

    def _advance_and_tell(self, stream: Stream, events: list[Event]) -> None:
        if stream.outbox:
            self._advance(stream)
            if not stream.outbox:
                events.append(Drained(stream))

    def _advance_all(self, events: list[Event]) -> None:
        # Whoever has sent now comes after those who have not.
        while self._waiting and self._window > 0 and self._at_once < MOST_AT_ONCE:
            stream, _ = self._waiting.popitem(last=False)
            self._advance_and_tell(stream, events)

    def _forget(self, stream: Stream) -> None:
        if stream.outbox:
            self.queued -= sum(map(len, stream.outbox))
            stream.outbox.clear()
        self._waiting.pop(stream, None)

    def _finished(self, stream: Stream) -> None:
        stream.finished = True
        self.open -= 1

    def _note_closed_first(self, name: int) -> None:
        closed = self._closed_first
        closed[name] = None
        if len(closed) > _REMEMBERED:
            oldest = next(iter(closed))
            del closed[oldest]
            self._closed_first_below = max(self._closed_first_below, oldest)

    def _closed_first_by_server(self, name: int) -> bool:
        """Whether the server ended that stream first, or may have."""
        return name <= self._closed_first_below or name in self._closed_first


def reset_frame(stream: int, error: Error) -> bytes:
    """The frame that ends a stream early."""
    return frame(Frame.RST_STREAM, 0, stream, int(error).to_bytes(4, "big"))
