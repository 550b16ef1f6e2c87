"""The server's half of an HTTP/2 connection without I/O: bytes in, events and bytes out."""
