"""The gRPC services: each RPC as a function from a message to a message.

`inference` answers `ModelInfer` and `ModelStreamInfer` (with `streams` for what is in flight on one
call), `control` all other RPCs of the protocol, `settings` and `flight_record` those of
`batcher.admin.v1.Admin`, `health` and `reflection` the standard services of these names. A service
knows no socket: `batcher.server.frontend` puts services on listeners.
"""
