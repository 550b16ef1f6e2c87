"""Counts of connections, calls and buffered bytes, as a scrape takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TransportPoints:
    """Sums over all gRPC listeners. `connections` is None where the transport does not count them."""

    buffered: int = 0
    buffered_limit: int = 0
    buffered_peak: int = 0
    buffer_refusals: int = 0
    connections: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    """Connections by event: accepted, refused, evicted."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Connections that ended early, by reason."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Calls that ended without an answer, by event."""
    goaways: Mapping[str, int] = field(default_factory=dict)
    """GOAWAY frames by direction."""
