"""What is scraped of connections and of the bytes held for callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TransportPoints:
    """Sums over all listeners of gRPC. Without `connections` the transport does not tell."""

    buffered: int = 0
    buffered_limit: int = 0
    buffered_peak: int = 0
    buffer_refusals: int = 0
    connections: int | None = None
    events: Mapping[str, int] = field(default_factory=dict)
    """Connections by what became of them: accepted, refused, evicted."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Connections that ended early, by reason."""
    streams: Mapping[str, int] = field(default_factory=dict)
    """Calls that ended without an answer, by event."""
    goaways: Mapping[str, int] = field(default_factory=dict)
    """GOAWAY frames by direction."""
