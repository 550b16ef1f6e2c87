"""Everything between a socket and `Batcher`: listeners, gRPC services, messages.

`frontend` is all of it as one object. `listeners`, `tls`, `memory` and `statistics` belong to the
transport; `services` answer RPCs; `messages` turns bytes into our types and back (pure functions);
`status` is the one table from errors to gRPC status codes, and `calls` ends a call by it.
"""
