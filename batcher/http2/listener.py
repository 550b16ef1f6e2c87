"""One listening socket: its connections, and which of them are closed to make room for new ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator

from batcher.http2.connection_lifetime import ConnectionLifetime

PROBE_CONNECTIONS = 64
"""Connections beyond `max_connections`, on which only health probes are answered. The next one replaces the
oldest: with 64, a probe has 50 ms to ask while 1,000 other connections come in a second."""


class Listener:
    """The connections of one listening socket."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self._sock = sock
        self.tls = tls
        """For handshakes that begin from now on; None: plain text."""
        self.connections: dict[ConnectionLifetime, None] = {}
        """Those within `max_connections`, handshakes included, the oldest first."""
        self.probe_connections: dict[ConnectionLifetime, None] = {}
        """Those beyond it, the oldest first."""
        self.accepting: asyncio.Task[None] | None = None
        """Accepts connections that begin with a handshake."""

    def backlog(self) -> Iterator[socket.socket]:
        """Accept what clients have connected already: closing the socket would reset those connections."""
        while True:
            try:
                yield self._sock.accept()[0]
            except OSError:  # none is left, or it cannot be accepted
                return

    def evict(self) -> bool:
        """Close the longest idle connection, else the longest silent one; returns whether one may be."""
        # A dictionary is in order of arrival, so the oldest of those that are equally idle is taken.
        found: ConnectionLifetime | None
        found = idlest = max(self.connections, key=lambda each: each.idle_ns)
        if not idlest.evictable:
            silent = sorted(self.connections, key=lambda each: each.silent_ns, reverse=True)
            found = next((each for each in silent if each.evictable), None)
        if found is None:
            return False
        found.evict()
        self.connections.pop(found, None)
        return True

    def add_probe_connection(self, connection: ConnectionLifetime) -> None:
        """Add a connection for probes only, in place of one whose call was refused, or of the oldest."""
        if len(self.probe_connections) >= PROBE_CONNECTIONS:
            refused = (each for each in self.probe_connections if each.http2.final_goaway_sent)
            last = next(refused, None) or next(iter(self.probe_connections))
            del self.probe_connections[last]
            last.close_probe_connection()
        self.probe_connections[connection] = None
        connection.probe_only = True

    def remove(self, connection: ConnectionLifetime) -> None:
        """Forget a connection that has ended."""
        self.connections.pop(connection, None)
        self.probe_connections.pop(connection, None)
