"""The server's half of an HTTP/2 connection without I/O: bytes in, events and bytes out.

Nothing here knows a socket, a clock, a thread or gRPC, so every rule is tested byte by byte.

- `frames`: types, numbers and encoding of frames; `ConnectionFailedError`.
- `huffman`, `hpack`: header blocks to fields and back (RFC 7541).
- `fields`: the rules for the fields of a request.
- `streams`: a stream, the events about it, limits and counters.
- `budget`: how many frames without a request a client may send.
- `sending`, `receiving`, `connection`: one class in three parts. `Sender` frames answers within the
  send windows; `Receiver` adds what frames of a stream mean and grants receive windows; `Connection`
  adds the preface, the dispatch of frames, settings, pings and GOAWAY.
"""

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import ConnectionFailedError, Error
from batcher.http2.sansio.streams import (
    ConnectionCounters,
    DataReceived,
    Event,
    Limits,
    RequestReceived,
    Stream,
    StreamDrained,
    StreamEnded,
    StreamReset,
)

__all__ = [
    "Connection",
    "ConnectionCounters",
    "ConnectionFailedError",
    "DataReceived",
    "Error",
    "Event",
    "Limits",
    "RequestReceived",
    "Stream",
    "StreamDrained",
    "StreamEnded",
    "StreamReset",
]
