"""What the servers of the builtin transport have counted, as metrics show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from batcher.buffers import Buffers
from batcher.http2.counters import EndReason
from batcher.http2.server import Server
from batcher.telemetry import TransportPoints


def transport_points(servers: Sequence[Server], buffers: Buffers) -> TransportPoints:
    """Sums over these servers; without any, only what is held."""
    held = TransportPoints(buffers.used, buffers.limit, buffers.peak, buffers.refused)
    if not servers:
        return held
    events: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    streams: Counter[str] = Counter()
    goaways: Counter[str] = Counter()
    for server in servers:
        counters, counts = server.counters, server.stream_counts()
        ended = dict(counters.ended)
        refused = ended.pop(EndReason.TOO_MANY)
        events.update(accepted=counters.accepted, refused=refused, evicted=counters.evicted)
        errors.update(ended)
        streams.update(
            reset_by_client=counts.resets_received,
            reset_by_server=counts.resets_sent,
            malformed=counts.malformed,
            refused=counts.refused,
            stalled=counters.stalled_calls,
            answer_lost=counters.lost_answers,
        )
        goaways.update(sent=counts.goaways_sent, received=counts.goaways_received)
    return replace(
        held,
        connections=sum(len(server.connections) for server in servers),
        events=events,
        errors=errors,
        streams=streams,
        goaways=goaways,
    )
