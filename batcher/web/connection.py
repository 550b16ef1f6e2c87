"""One HTTP connection, with bounds on what it may cost the server.

A connection either serves a request, or waits for its client: to send a whole request, or to read an
answer. Waiting ends after `CLIENT_TIMEOUT_S`, however slowly bytes trickle in meanwhile. Where there are too
many connections, the one that has waited longest is closed for the new one: so a health probe is answered
whatever other clients do here. A client that sends several requests at once (pipelining) gets the
first answer, then the connection is closed.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CLIENT_TIMEOUT_S: Final = 10.0
"""Seconds that a client may take to send a whole request, and to read an answer."""

MAX_HEADER_BYTES: Final = 8 * 1024
"""Bytes of the request line and the headers of a request."""

MAX_UNREAD_BYTES: Final = 64 * 1024
"""Bytes that a connection may send beyond its last complete request: a body, or further requests."""

_PIECE_BYTES: Final = 4 * 1024
"""Bytes that are parsed at once, so that headers which come in one piece are held to their bound, too."""

_sequence = count()


class Connection(H11Protocol):
    """uvicorn's connection with these bounds. `max_connections` counts those of one server."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_connections: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._max_connections = max_connections
        self.eviction_rank = False, next(_sequence)
        """Whether it serves a request, and since when it does or does not, as a growing number. The
        connection with the lowest rank is closed first: the one that has waited longest for its client."""
        self.is_aborted = False
        """Whether it has ended, or is about to."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many connections, close the one that has waited longest."""
        super().connection_made(transport)
        self._update(serving=False)
        others = [each for each in self.connections if isinstance(each, Connection)]
        others = [each for each in others if each is not self and not each.is_aborted]
        if len(others) >= self._max_connections:
            min(others, key=lambda each: each.eviction_rank).abort()

    def data_received(self, data: bytes) -> None:
        """Parse a piece at a time; end a connection that sends too much, or ahead of its answers."""
        self._unread += len(data)
        for start in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE_BYTES])
        if self._unread > MAX_UNREAD_BYTES:
            self.abort()
        if self._serving and self.conn.trailing_data[0]:
            self.cycle.keep_alive = False
        self._update_if_changed()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more, and may still read: its request is answered first."""
        if self._serving:
            self.cycle.keep_alive = False
        return self._serving

    def on_response_complete(self) -> None:
        """Wait for the client to read the answer, and for its next request."""
        self._unread = 0
        super().on_response_complete()
        self._update(serving=self._serving)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        super().pause_writing()
        self._update_if_changed()

    def resume_writing(self) -> None:
        """The client has read some."""
        super().resume_writing()
        self._update_if_changed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop its timer."""
        super().connection_lost(exc)
        self.is_aborted = True
        self._update(serving=False)

    def abort(self) -> None:
        """Close it; what the client has not read by now is dropped."""
        self.is_aborted = True
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _serving(self) -> bool:
        # Before the first request there is no cycle, whatever its type says.
        asked = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        return asked and not self.flow.write_paused

    def _update_if_changed(self) -> None:
        if self._serving is not self.eviction_rank[0]:
            self._update(serving=self._serving)

    def _update(self, *, serving: bool) -> None:
        """Set the rank anew; where the connection waits for its client, start the timeout."""
        self.eviction_rank = serving, next(_sequence)
        if self._timer is not None:
            self._timer.cancel()
        if not serving and not self.is_aborted:
            self._timer = self.loop.call_later(CLIENT_TIMEOUT_S, self.abort)
