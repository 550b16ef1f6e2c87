"""HTTP/2 for a server of gRPC: frames, header blocks, and a connection that knows no socket."""
