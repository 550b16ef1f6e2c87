"""`HttpServer`: uvicorn inside the event loop of the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from socket import socket
from typing import Final, cast

import uvicorn
from starlette.types import ASGIApp

from batcher.sockets import BACKLOG, UNIX, bound_address, listen
from batcher.web.connection import CLIENT_TIMEOUT_S, MAX_HEADER_BYTES, Connection

MAX_CONNECTIONS: Final = 128
"""Connections open at once: `MAX_VIEWERS` of the live view, `MAX_WAITING_SCRAPES`, and as many again as health
probes need. For one more, the one that has waited longest for its client is closed."""

STOP_TIMEOUT_S = 2
"""Seconds that `stop` waits for answers that are being sent."""


class HttpServer:
    """Serves an application on one address. `start` once, then `stop` once."""

    def __init__(
        self, address: str, app: ASGIApp, *, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.address = address
        """Where it listens; after `start` with the port that the system chose for port 0."""
        self._server = _EmbeddedServer(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="error",  # uvicorn warns about each invalid request
                access_log=False,
                lifespan="off",
                http=cast("type[Connection]", partial(Connection, max_connections=max_connections)),
                h11_max_incomplete_event_size=MAX_HEADER_BYTES,
                timeout_keep_alive=round(CLIENT_TIMEOUT_S),
                ws="none",
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and serve from now on. Raises `ListenError` where the address cannot be bound."""
        sock = listen(self.address)
        self.address = bound_address(sock)
        self._serving = asyncio.create_task(self._server.serve([sock]), name="http-server")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait((self._serving, listening), return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            sock.close()
            await self._serving

    async def stop(self) -> None:
        """Accept no connection, let answers end for `STOP_TIMEOUT_S`, close the rest, free the address."""
        if self._serving is None:
            return
        self._server.stopping.set()
        await self._serving
        for connection in list(self._server.server_state.connections):
            cast("Connection", connection).abort()
        _remove_path(self.address)


def _remove_path(address: str) -> None:
    """Remove the path of a Unix socket, which remains when its listener is closed."""
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink(missing_ok=True)


class _EmbeddedServer(uvicorn.Server):
    """A uvicorn server that handles no signals, and waits for events instead of polling."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        await self.stopping.wait()
