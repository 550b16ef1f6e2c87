"""`HttpServer`: uvicorn as a guest in our event loop."""

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
from batcher.web.connection import MOST_HEAD_BYTES, PATIENCE_S, Connection

MAX_CONNECTIONS: Final = 64
"""Connections open at once: probes and scrapers need a few. With one more, the one that has waited
longest for its peer is closed."""

STOP_TIMEOUT_SECONDS = 2
"""How long `stop` waits for answers that are on their way."""


class HttpServer:
    """Serves an application on one address. `start` once, then `stop` once."""

    def __init__(
        self, address: str, app: ASGIApp, *, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        self.address = address
        """Where it listens; after `start` with the port that was taken for port 0."""
        self._server = _Guest(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="error",  # what strangers send is no news
                access_log=False,
                lifespan="off",
                http=cast("type[Connection]", partial(Connection, most=max_connections)),
                h11_max_incomplete_event_size=MOST_HEAD_BYTES,
                timeout_keep_alive=round(PATIENCE_S),
                ws="none",
                proxy_headers=False,
                server_header=False,
                date_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=STOP_TIMEOUT_SECONDS,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and serve from now on. Raises `ListenError` if the address cannot be had."""
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
        """Take no new connection, let running answers end, close the rest, free the address."""
        if self._serving is None:
            return
        self._server.stopping.set()
        await self._serving
        for connection in list(self._server.server_state.connections):
            cast("Connection", connection).cut()
        _clear_away(self.address)


def _clear_away(address: str) -> None:
    """Remove the path of a Unix socket, which outlives its listener."""
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink(missing_ok=True)


class _Guest(uvicorn.Server):
    """A uvicorn server that leaves signals to its host and waits instead of polling."""

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
