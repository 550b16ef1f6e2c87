"""One listening socket: its connections, and which of them make room for new ones."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batcher.http2.server_connection import ServerConnection

PROBE_CONNECTIONS = 64
"""Connections beyond `max_connections`, on which only probes are answered. Each makes room for the next:
with as many a probe has 50 ms to ask while 1,000 others come in a second."""


class Listener:
    """A listening socket and its connections."""

    def __init__(self, secrets: ssl.SSLContext | None) -> None:
        self.secrets = secrets
        """For handshakes that begin from now on; None is plain text."""
        self.connections: dict[ServerConnection, None] = {}
        """All that were accepted and are open, handshakes among them, the oldest first."""
        self.spares: dict[ServerConnection, None] = {}
        """Those beyond `max_connections`, the oldest first."""
        self.accepting: asyncio.Task[None] | None = None
        """What accepts those that begin with a handshake."""

    def evict(self) -> bool:
        """Have one make room, if one may: the longest idle one, else the longest silent one."""
        # A dictionary is in the order of arrival: of those that are equally idle, the oldest.
        found: ServerConnection | None
        found = idlest = max(self.connections, key=lambda each: each.idle_ns)
        if not idlest.evictable:
            silent = sorted(self.connections, key=lambda each: each.silent_ns, reverse=True)
            found = next((each for each in silent if each.evictable), None)
        if found is None:
            return False
        found.evict()
        self.connections.pop(found, None)
        return True

    def take_spare(self, client: ServerConnection) -> None:
        """Take one in that is for probes alone, instead of one that was refused, or of the oldest."""
        if len(self.spares) >= PROBE_CONNECTIONS:
            refused = (each for each in self.spares if each.connection.final_goaway_sent)
            last = next(refused, None) or next(iter(self.spares))
            del self.spares[last]
            last.give_up_spare()
        self.spares[client] = None
        client.spare = True

    def gone(self, client: ServerConnection) -> None:
        """A connection has ended."""
        self.connections.pop(client, None)
        self.spares.pop(client, None)
