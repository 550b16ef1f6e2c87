"""gRPC over HTTP/2 on asyncio, for servers: the `builtin` transport.

A connection is handled in three layers, each of which knows only those below it:

1. `sansio` is the protocol without I/O (RFC 9113, RFC 7541). A `sansio.Connection` turns bytes into events
   about streams, and answers into bytes; it checks every rule, windows and floods included.
2. `grpc_headers` and `decompression` are gRPC's own encoding: what the headers of a call say, how a status
   is sent, how compressed messages are read.
3. `server` is asyncio. A `Server` has `Listener`s; each accepted socket gets a `ServerConnection`, which
   feeds a `sansio.Connection`; each stream gets a `Call`, which is also the context of its handler.

Bytes take this way: `ServerConnection.data_received` -> (`PacedReader`) -> `sansio.Connection.receive` ->
events -> `Call.data_received` -> messages -> the handler -> `sansio.Connection.send_all` ->
`ServerConnection.flush`. What is framed in one iteration of the event loop is written at once.

Rules that hold in all of it:

- Everything runs on the event loop's thread, but for large messages, which are joined and decompressed
  in `Server.offload_pool`.
- A call charges what it keeps to `batcher.buffers.Buffers`, and releases it however it ends.
- Time limits need no timers of their own: `Server.sweep` looks at every connection once a second.
- An exception in a callback ends its connection alone (`ServerConnection.fail`).
- Nothing refers back in a cycle when a call has ended, so its memory does not wait for the garbage
  collector.
- Texts for the log and for the client hold nothing that a client has sent.
"""

from batcher.http2.counters import EndReason
from batcher.http2.listener import PROBE_CONNECTIONS
from batcher.http2.server import Server
from batcher.http2.timeouts import Timeouts

__all__ = ["PROBE_CONNECTIONS", "EndReason", "Server", "Timeouts"]
