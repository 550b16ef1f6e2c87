"""Counts of connections, calls and buffered bytes, as a scrape takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from batcher.core.observation import Observation
from batcher.telemetry.export import single_values
from batcher.telemetry.families import transport


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


class TransportPart:
    """Asks `points` for its counts at every scrape."""

    families = transport.FAMILIES

    def __init__(self, points: Callable[[], TransportPoints]) -> None:
        self._points = points

    def collect(self, _: Observation) -> Iterator[Metric]:
        """As `Part` says."""
        points = self._points()
        open_now = [] if points.connections is None else [((), points.connections)]
        yield single_values(transport.CONNECTIONS, open_now)
        for family, values in (
            (transport.CONNECTION_EVENTS, points.events),
            (transport.CONNECTION_ERRORS, points.errors),
            (transport.STREAM_EVENTS, points.streams),
            (transport.GOAWAYS, points.goaways),
        ):
            yield single_values(family, (((name,), count) for name, count in values.items()))
        yield single_values(transport.BUFFERED, [((), points.buffered)])
        yield single_values(transport.BUFFERED_LIMIT, [((), points.buffered_limit)])
        yield single_values(transport.BUFFERED_PEAK, [((), points.buffered_peak)])
        yield single_values(transport.BUFFER_REFUSALS, [((), points.buffer_refusals)])
