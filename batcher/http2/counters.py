"""Counters of a server's connections and calls, from which metrics are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum

from batcher.http2.sansio.frames import Error
from batcher.http2.sansio.streams import ConnectionCounters


class EndReason(StrEnum):
    """Why a connection ended early, beside the error codes of HTTP/2."""

    HANDSHAKE = "handshake"
    """TLS failed or took too long, or the client does not offer `h2`."""
    NO_PREFACE = "no_preface"
    """The client did not send its connection preface in time."""
    HEADERS_TIMEOUT = "headers_timeout"
    """The client did not complete a header block, or a frame, in time."""
    WRITE_TIMEOUT = "write_timeout"
    """The client read nothing of what was written."""
    TOO_MANY = "too_many"
    """It was beyond `max_connections`."""
    INTERNAL = "internal"
    """An error in this server."""


END_REASONS = (
    *(error.name.lower() for error in Error if error is not Error.NO_ERROR),
    *EndReason,
)
"""All reasons that ends of connections are counted under."""


@dataclass(slots=True)
class ServerCounters:
    """Events of all connections of a server, open ones included but for those in `streams`."""

    accepted: int = 0
    """Connections that were accepted within `max_connections`."""
    evicted: int = 0
    """Idle or silent connections that were closed to make room for new ones."""
    stalled_calls: int = 0
    """Calls that ended because their request or their answer made no progress."""
    lost_answers: int = 0
    """Calls that ended while the client still had to read some of the answer."""
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(END_REASONS, 0))
    """Connections that ended early, by reason."""
    streams: ConnectionCounters = field(default_factory=ConnectionCounters)
    """Sums over connections that have ended."""

    def add(self, counters: ConnectionCounters) -> None:
        """Add those of a connection to `streams`."""
        for each in fields(ConnectionCounters):
            total = getattr(self.streams, each.name) + getattr(counters, each.name)
            setattr(self.streams, each.name, total)
