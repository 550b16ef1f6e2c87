"""One HTTP connection, which may cost the server only so much.

A connection either has a request that is being answered, or it waits for its peer: to send a whole
request, or to read an answer. Waiting ends after `PATIENCE_S`, whatever arrives meanwhile a byte at a
time. And where there are too many connections, the one that has waited longest makes room for the
newcomer: so a probe gets in however many others sit there in silence. A peer that pipelines requests
gets the first answer, and the connection ends.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

PATIENCE_S: Final = 10.0
"""How long a peer may take to send a whole request, and to read an answer."""

MOST_HEAD_BYTES: Final = 8 * 1024
"""The request line and the headers of a request."""

MOST_UNREAD_BYTES: Final = 64 * 1024
"""What a connection may send beyond its last request that was read: a body, or further requests."""

_PIECE_BYTES: Final = 4 * 1024
"""Bytes parsed at once: a block of headers that comes whole is held to its bound, too."""

_turns = count()


class Connection(H11Protocol):
    """uvicorn's connection with an end to its patience. `most` counts connections of one server."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        most: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._most = most
        self.turn = False, next(_turns)
        """Whether it is being served, or else waits for its peer; and since when, a growing number."""
        self.is_cut = False
        """Whether it has ended, or is about to."""
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, and give up another where there are too many: one that waits, for longest."""
        super().connection_made(transport)
        self._begin(served=False)
        others = [each for each in self.connections if isinstance(each, Connection)]
        others = [each for each in others if each is not self and not each.is_cut]
        if len(others) >= self._most:
            min(others, key=lambda each: each.turn).cut()

    def data_received(self, data: bytes) -> None:
        """Parse a piece at a time; end a connection that sends without end, or ahead of its answers."""
        self._unread += len(data)
        for start in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + _PIECE_BYTES])
        if self._unread > MOST_UNREAD_BYTES:
            self.cut()
        if self._served and self.conn.trailing_data[0]:
            self.cycle.keep_alive = False
        self._look()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The peer has said all, and may still read: what it asked for is answered first."""
        if self._served:
            self.cycle.keep_alive = False
        return self._served

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the answer to be read."""
        self._unread = 0
        super().on_response_complete()
        self._begin(served=self._served)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        """The peer has read on."""
        super().resume_writing()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self.is_cut = True
        self._begin(served=False)

    def cut(self) -> None:
        """End it, with what the peer has not read by now."""
        self.is_cut = True
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    @property
    def _served(self) -> bool:
        # Before the first request there is no cycle, whatever its type says.
        asked = self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]
        return asked and not self.flow.write_paused

    def _look(self) -> None:
        if self._served is not self.turn[0]:
            self._begin(served=self._served)

    def _begin(self, *, served: bool) -> None:
        """Take the moment down; where it is the peer's turn, be patient from here on."""
        self.turn = served, next(_turns)
        if self._timer is not None:
            self._timer.cancel()
        if not served and not self.is_cut:
            self._timer = self.loop.call_later(PATIENCE_S, self.cut)
