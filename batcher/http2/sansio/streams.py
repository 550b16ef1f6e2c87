"""A stream, the events that a connection reports about its streams, its limits and its counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from batcher.http2.sansio.fields import Request

HEADER_READ_FACTOR = 8
"""Headers of up to this many times `max_headers` bytes are read, so that the one call can be refused and
the connection goes on. Reading that many holds the event loop for 25 ms in the worst case."""
MAX_HEADER_FRAMES = 64
"""Frames of one header block (HEADERS and CONTINUATION)."""

UNFINISHED_FACTOR = 2
"""Times `max_streams`: streams of a connection that the server works on, those included that the client
has reset and whose work has not stopped yet."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask of the server."""

    max_streams: int
    """Streams open at once (SETTINGS_MAX_CONCURRENT_STREAMS)."""
    max_headers: int
    """Bytes of the fields of one block, each with 32 bytes more (SETTINGS_MAX_HEADER_LIST_SIZE).

    Fields beyond it are dropped and the call is refused; a block of more than `HEADER_READ_FACTOR`
    times as many bytes ends the connection.
    """
    stream_window: int
    """Unconsumed bytes that a stream may send (SETTINGS_INITIAL_WINDOW_SIZE), unless `allow` says more."""


@dataclass(slots=True)
class ConnectionCounters:
    """Events of one connection since it began."""

    resets_received: int = 0
    """Open streams that the client reset."""
    resets_sent: int = 0
    """Streams that the server reset because it could not answer them."""
    malformed: int = 0
    """Streams that the server reset because the client broke a rule of HTTP/2 on them."""
    refused: int = 0
    """Streams refused: more than may be open, or opened after the final GOAWAY."""
    goaways_received: int = 0
    goaways_sent: int = 0


class Stream:
    """One request and its answer."""

    __slots__ = (
        "closed",
        "content_left",
        "id",
        "outbox",
        "receive_window",
        "request_ended",
        "send_window_offset",
        "trailers",
        "unconsumed",
    )

    def __init__(self, number: int, receive_window: int) -> None:
        self.id = number
        self.send_window_offset = 0
        """The send window, less the client's SETTINGS_INITIAL_WINDOW_SIZE."""
        self.receive_window = receive_window
        """Bytes that the client may still send."""
        self.unconsumed = 0
        """Bytes received for which `consume` was not called yet."""
        self.content_left: int | None = None
        """Bytes of the body still to come by its `content-length`; None: the request has no such field."""
        self.request_ended = False
        """Whether the client has sent END_STREAM."""
        self.closed = False
        """Whether the answer is complete, or the stream was reset by either side."""
        self.outbox: deque[memoryview] = deque()
        """Data of the answer that waits for a send window."""
        self.trailers: bytes | None = None
        """The trailers' block, to be sent when `outbox` is empty."""


@dataclass(slots=True)
class RequestReceived:
    """The client has opened a stream. Call `release` when the work on it has ended."""

    stream: Stream
    request: Request


@dataclass(slots=True)
class DataReceived:
    """Bytes of the body. Call `consume` when they were used."""

    stream: Stream
    data: bytes


@dataclass(slots=True)
class StreamEnded:
    """The request is complete."""

    stream: Stream


@dataclass(slots=True)
class StreamReset:
    """The client has reset the stream, or broken a rule on it: no answer is wanted any more."""

    stream: Stream


@dataclass(slots=True)
class StreamDrained:
    """All data that waited for a send window is framed now."""

    stream: Stream


Event: TypeAlias = RequestReceived | DataReceived | StreamEnded | StreamReset | StreamDrained
