"""Connections, calls and the memory that messages take."""

from __future__ import annotations

from batcher.http2.counters import END_REASONS, EndReason
from batcher.telemetry.families.family import Family, one_of

CONNECTIONS = Family(
    "batcher_connections",
    "gauge",
    "",
    (),
    "Open gRPC connections, those still in a handshake included (transport builtin).",
)
CONNECTION_EVENTS = Family(
    "batcher_connection_events",
    "counter",
    "connections",
    ("event",),
    "Connections that were accepted, refused at server.max_connections, or evicted (closed to make "
    "room for a new one, being idle or silent) (transport builtin).",
    values={"event": one_of("accepted", "refused", "evicted")},
)
CONNECTION_ERRORS = Family(
    "batcher_connection_errors",
    "counter",
    "connections",
    ("reason",),
    "Connections that the server closed because of an error: a name of an HTTP/2 error code, or "
    "handshake, no_preface, headers_timeout, write_timeout, internal (transport builtin).",
    values={
        "reason": one_of(*(reason for reason in END_REASONS if reason is not EndReason.TOO_MANY))
    },
)
STREAM_EVENTS = Family(
    "batcher_stream_events",
    "counter",
    "calls",
    ("event",),
    "Calls that ended without an answer: reset_by_client, reset_by_server, malformed, refused (beyond "
    "server.max_concurrent_streams, or while draining), stalled, answer_lost (while it was written) (transport "
    "builtin).",
    values={
        "event": one_of(
            "reset_by_client", "reset_by_server", "malformed", "refused", "stalled", "answer_lost"
        )
    },
)
GOAWAYS = Family(
    "batcher_goaways",
    "counter",
    "frames",
    ("direction",),
    "GOAWAY frames by direction: sent or received (transport builtin).",
    values={"direction": one_of("sent", "received")},
)
BUFFERED = Family(
    "batcher_buffered_bytes",
    "gauge",
    "bytes",
    (),
    "Bytes of requests and answers in memory, including what large messages that are still being "
    "received have reserved.",
)
BUFFERED_LIMIT = Family(
    "batcher_buffered_limit_bytes",
    "gauge",
    "bytes",
    (),
    "The limit of batcher_buffered_bytes: server.max_buffered, or its default on this machine.",
)
BUFFERED_PEAK = Family(
    "batcher_buffered_peak_bytes",
    "gauge",
    "bytes",
    (),
    "Highest value of batcher_buffered_bytes since the start.",
)
BUFFER_REFUSALS = Family(
    "batcher_buffer_refusals",
    "counter",
    "calls",
    (),
    "Requests and answers that were refused because server.max_buffered was reached.",
)

FAMILIES = (
    CONNECTIONS,
    CONNECTION_EVENTS,
    CONNECTION_ERRORS,
    STREAM_EVENTS,
    GOAWAYS,
    BUFFERED,
    BUFFERED_LIMIT,
    BUFFERED_PEAK,
    BUFFER_REFUSALS,
)
