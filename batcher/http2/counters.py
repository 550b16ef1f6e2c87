"""What became of connections, counted for metrics."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum

from batcher.http2.sansio.frames import Error
from batcher.http2.sansio.streams import ConnectionCounters


class EndReason(StrEnum):
    """Why a connection ended early, beside the errors of HTTP/2."""

    HANDSHAKE = "handshake"
    """TLS failed or took too long, or the client does not speak `h2`."""
    NO_PREFACE = "no_preface"
    HEADERS_TIMEOUT = "headers_timeout"
    """A header block, or a frame, that was not completed."""
    WRITE_TIMEOUT = "write_timeout"
    """Nothing of what was written was read."""
    TOO_MANY = "too_many"
    """Refused by `max_connections`."""
    INTERNAL = "internal"
    """A mistake of ours."""


REASONS = (*(error.name.lower() for error in Error if error is not Error.NO_ERROR), *EndReason)
"""What a connection's end is counted under."""


@dataclass(slots=True)
class ServerCounters:
    """Sums over all connections of a server, those that are open included where `streams` is asked."""

    accepted: int = 0
    evicted: int = 0
    """Idle connections that made room for new ones."""
    stalled_calls: int = 0
    """Calls that ended because their message or their answer made no progress."""
    lost_answers: int = 0
    """Calls that ended while their peer still had to take an answer."""
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    """Connections that ended early, by reason."""
    streams: ConnectionCounters = field(default_factory=ConnectionCounters)
    """What happened on connections that have ended."""

    def add(self, counts: ConnectionCounters) -> None:
        """A connection has ended."""
        for each in fields(ConnectionCounters):
            total = getattr(self.streams, each.name) + getattr(counts, each.name)
            setattr(self.streams, each.name, total)
