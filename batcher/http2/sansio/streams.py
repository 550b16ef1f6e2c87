"""What one connection is about: streams, what becomes of them, and how much of it is allowed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from batcher.http2.sansio.fields import Request

BEYOND = 8
"""Times as many bytes of headers as are allowed are read, so that the call can be told, and others of
its connection go on. The worst of so many holds the event loop for 25 ms."""
PARTS = 64
"""Frames of one header block."""

UNDER_WAY = 2
"""Times `max_streams`: calls of one connection that are worked on, those among them that were reset
and have not stopped yet."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask of the server."""

    max_streams: int
    """Open at once."""
    max_headers: int
    """Bytes of the fields of one block, with 32 for each. Of a block with more the rest is left out,
    so that the call can be told; more than `BEYOND` times as many end the connection."""
    stream_window: int
    """Bytes that a stream may send before some are taken from it, unless more are expected."""


@dataclass(slots=True)
class Counts:
    """What became of a connection's streams, and of itself, since it began."""

    resets_received: int = 0
    """Streams that the client reset while they were open."""
    resets_sent: int = 0
    """Streams that the server reset because it could not answer them."""
    malformed: int = 0
    """Streams that the server reset because the client broke their rules."""
    refused: int = 0
    """Streams beyond what may be open, or opened while the connection ends."""
    goaways_received: int = 0
    goaways_sent: int = 0


class Stream:
    """One request and its answer."""

    __slots__ = (
        "credit",
        "ended",
        "expected",
        "finished",
        "held",
        "id",
        "outbox",
        "trailers",
        "window",
    )

    def __init__(self, name: int, credit: int) -> None:
        self.id = name
        self.window = 0
        """Bytes that may be sent, beyond those of the client's initial window."""
        self.credit = credit
        """Bytes that the client may send."""
        self.held = 0
        """Bytes that came and were not taken in."""
        self.expected: int | None = None
        """Bytes of its body that have yet to come, where the client has said how many."""
        self.ended = False
        """Whether the client has sent all."""
        self.finished = False
        """Whether the answer is complete, or the stream reset."""
        self.outbox: deque[memoryview] = deque()
        """Data that waits for the client's window."""
        self.trailers: bytes | None = None
        """What goes out after it."""


@dataclass(slots=True)
class Opened:
    """A request has begun."""

    stream: Stream
    request: Request


@dataclass(slots=True)
class Received:
    """Bytes of its body; say `take_in` when they are used."""

    stream: Stream
    data: bytes


@dataclass(slots=True)
class Ended:
    """The body is complete."""

    stream: Stream


@dataclass(slots=True)
class Reset:
    """The client wants no answer any more."""

    stream: Stream


@dataclass(slots=True)
class Drained:
    """All that waited for the client's window has left."""

    stream: Stream


Event: TypeAlias = Opened | Received | Ended | Reset | Drained
