"""The gRPC edge: everything between a socket and `Batcher`.

`inference` and `control` answer the protocol's RPCs, `convert` and its helpers turn messages into
our types and back (pure functions), `status` is the one table from errors to status codes,
`listeners` binds addresses and sets gRPC's limits, and `edge` is all of that as one object.
"""
