"""Counters of the transport, as metrics show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from batcher.buffers import Buffers
from batcher.http2 import EndReason, Server
from batcher.telemetry import TransportPoints


def transport_points(servers: Sequence[Server], buffers: Buffers) -> TransportPoints:
    """Sums over servers of the transport `builtin`; without any, only the bytes of `buffers`."""
    points = TransportPoints(buffers.used, buffers.limit, buffers.peak, buffers.refused)
    if not servers:
        return points
    events: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    streams: Counter[str] = Counter()
    goaways: Counter[str] = Counter()
    for server in servers:
        counters, of_streams = server.counters, server.stream_counters()
        ended = dict(counters.ended)
        refused = ended.pop(EndReason.TOO_MANY)
        events.update(accepted=counters.accepted, refused=refused, evicted=counters.evicted)
        errors.update(ended)
        streams.update(
            reset_by_client=of_streams.resets_received,
            reset_by_server=of_streams.resets_sent,
            malformed=of_streams.malformed,
            refused=of_streams.refused,
            stalled=counters.stalled_calls,
            answer_lost=counters.lost_answers,
        )
        goaways.update(sent=of_streams.goaways_sent, received=of_streams.goaways_received)
    return replace(
        points,
        connections=sum(len(server.connections) for server in servers),
        events=events,
        errors=errors,
        streams=streams,
        goaways=goaways,
    )
