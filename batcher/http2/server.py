"""A gRPC server on asyncio with our own HTTP/2: the part of `grpc.aio.Server` that we use.

It takes the same handlers and hands them a context with the same methods. What it leaves out are
interceptors, compressed answers and channelz.

Once a second every connection is looked at (`ServerConnection.sweep`): idle ones are asked to leave,
what makes no progress ends. There is no timer for each connection or message.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.http2.counters import ServerCounters
from batcher.http2.grpc_headers import CallHeaders, MalformedCallError, Metadata
from batcher.http2.listener import Listener
from batcher.http2.sansio.streams import ConnectionCounters, Limits
from batcher.http2.server_connection import ServerConnection
from batcher.http2.timeouts import SWEEP_NS, Timeouts
from batcher.offload import low_priority_pool
from batcher.sockets import BACKLOG

log = logging.getLogger(__name__)

GOAWAY_ACK_S = 1.0
"""How long calls may be on their way that a client opened before it read that it should leave."""
POLL_S = 0.01
"""How often it is looked at whether all clients have read so."""
ACCEPT_RETRY_S = 1.0
"""How long nothing is accepted when the system has no descriptors left."""
LOG_LINES = 10
"""Lines in a second about connections that end early; the rest are counted."""
STREAM_WINDOW = 2**17
"""Bytes of messages that wait to be read from one call. A larger message may come whole."""
FREED_FRACTION = 64
"""One part in so many of `max_buffered` is given back at once by who gives way."""
EVICTION_RETRY_S = 0.05
"""How long nobody is looked for who could give way, where there was nobody."""
OFFLOAD_THREADS = 2
"""Threads that inflate large messages."""


@dataclass(frozen=True, slots=True)
class CallDetails(grpc.HandlerCallDetails):  # type: ignore[misc]  # grpc has no types
    """What a handler is chosen by."""

    method: str
    invocation_metadata: Metadata


class Server:
    """Answers calls on any number of listening sockets. `start` once, then `stop` once."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        *,
        max_message: int,
        max_streams: int,
        max_connections: int,
        max_headers: int,
        buffers: Buffers,
        timeouts: Timeouts,
        too_large: Callable[[str], None] = lambda _: None,
        is_probe: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`too_large` is told of every call that is refused for a size: `message` or `metadata`.

        `is_probe` says by its path whether a call is answered beyond `max_connections`, too.
        """
        self.max_message = max_message
        self.max_connections = max_connections
        self.buffers = buffers
        self.timeouts = timeouts
        self._too_large = too_large
        self.is_probe = is_probe
        self.all_taken = f"all {max_connections} connections are taken (server.max_connections)"
        """What a caller beyond that is told."""
        self.limits = Limits(
            max_streams=max_streams,
            max_headers=max_headers,
            stream_window=STREAM_WINDOW,
        )
        self.connections: set[ServerConnection] = set()
        self.counters = ServerCounters()
        self.offload_pool = low_priority_pool(OFFLOAD_THREADS, "inflate")
        self.stopping = False
        """Whoever connects from now on, or whose handshake ends, comes too late."""
        self._handlers = handlers
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._idle = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._no_room_until_s = 0.0
        self._lines_left = LOG_LINES
        self._lines_lost = 0

    async def listen(self, sock: socket.socket, secrets: ssl.SSLContext | None) -> None:
        """Answer on this bound socket, with TLS where there are secrets."""
        loop = asyncio.get_running_loop()
        listener = Listener(secrets)
        self._listeners.append(listener)
        if secrets is None:
            self._servers.append(
                await loop.create_server(
                    lambda: ServerConnection(self, listener), sock=sock, backlog=BACKLOG
                )
            )
        else:
            sock.listen(BACKLOG)
            sock.setblocking(False)
            listener.accepting = loop.create_task(self._accept(listener, sock))
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP_NS / SECOND, self._sweep)

    def renew(self, secrets: ssl.SSLContext) -> None:
        """Use other secrets for handshakes from now on, where there were some."""
        for listener in self._listeners:
            if listener.secrets is not None:
                listener.secrets = secrets

    def leave(self) -> None:
        """Take no new connection, and ask the clients of open ones to go elsewhere.

        Those that have read it are let go when their calls have ended.
        """
        if not self.stopping:
            self.stopping = True
            for server in self._servers:
                server.close()
            for listener in self._listeners:
                if listener.accepting is not None:
                    listener.accepting.cancel()
            for client in list(self.connections):
                client.announce()

    async def told(self, timeout_s: float) -> None:
        """Wait until clients have read that they should go elsewhere, `GOAWAY_ACK_S` or less at most.

        Whatever they had opened before has come by then, and is to be answered.
        """
        ends_s = asyncio.get_running_loop().time() + min(timeout_s, GOAWAY_ACK_S)
        while asyncio.get_running_loop().time() < ends_s:
            connections = [client.connection for client in self.connections]
            if all(each.final_goaway_sent or each.closing for each in connections):
                return
            await asyncio.sleep(POLL_S)

    async def stop(self, grace_s: float) -> None:
        """Take no new connection or call, let open ones end for `grace_s` seconds, then cut them."""
        self.leave()
        await self._all_gone(min(grace_s, GOAWAY_ACK_S))
        for client in list(self.connections):
            client.leave()
        await self._all_gone(grace_s - GOAWAY_ACK_S)
        tasks = [call.task for client in self.connections for call in client.calls.values()]
        for client in list(self.connections):
            client.cut("the server is shutting down")
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.offload_pool.shutdown(wait=False, cancel_futures=True)

    def sweep(self, elapsed_ns: int) -> None:
        """Look at every connection; so much time has passed since the last look."""
        for client in list(self.connections):
            client.sweep(elapsed_ns)
        if self._lines_lost:
            log.info("%d more connections ended early", self._lines_lost)
        self._lines_left, self._lines_lost = LOG_LINES, 0

    # --- for its connections ---

    def refused(self, error: MalformedCallError) -> None:
        """A call is not answered because of this."""
        if error.limit:
            self._too_large(error.limit)

    def admit(self, client: ServerConnection) -> bool:
        """Whether a connection that was accepted may stay; beyond `max_connections` for probes alone.

        What is idle makes room.
        """
        if self.stopping:
            return False
        listener = client.listener
        full = len(listener.connections) >= self.max_connections
        if full and listener.evict():
            self.counters.evicted += 1
            full = False
        if full:
            listener.take_spare(client)
        else:
            self.counters.accepted += 1
            listener.connections[client] = None
        self.connections.add(client)
        return True

    def make_room(self, client: ServerConnection, size: int) -> bool:
        """Charge bytes of a connection for which there is no room, if another gives way.

        That is the one whose calls hold most, where it is more than a quarter of all: its latest
        calls end. Where nobody else is, it is not looked for again at once.
        """
        now_s, buffers = asyncio.get_running_loop().time(), self.buffers
        if now_s < max(self._no_room_until_s, client.no_room_until_s):
            return False
        most, greediest = buffers.most_of_one, None
        for each in self.connections:
            held = each.account.held + sum([call.charged for call in each.calls.values()])
            if held > most:
                most, greediest = held, each
        if greediest is None:
            self._no_room_until_s = now_s + EVICTION_RETRY_S
            return False
        if greediest is client:
            client.no_room_until_s = now_s + EVICTION_RETRY_S
            return False
        left = max(size, buffers.limit // FREED_FRACTION)
        try:
            for call in reversed(list(greediest.calls.values())):
                left -= call.charged + sum(map(len, call.stream.outbox))
                call.give_way()
                if left <= 0:
                    break
            greediest.charge()
        except Exception as error:  # noqa: BLE001  # `broken` logs it
            greediest.broken(error)
        return buffers.reserve(size)

    def gone(self, client: ServerConnection) -> None:
        """A connection has ended."""
        self.connections.discard(client)
        client.listener.gone(client)
        self.counters.add(client.connection.counters)
        if not self.connections:
            self._idle.set()

    def ended(self, client: ServerConnection, reason: str, text: str = "") -> None:
        """Count a connection that ends early, and log it; the text is none of the client's."""
        self.counters.ended[reason] += 1
        if self._lines_left:
            self._lines_left -= 1
            log.info("the connection from %s ends: %s%s", client.peer, reason, text and f": {text}")
        else:
            self._lines_lost += 1

    def method(self, head: CallHeaders) -> grpc.RpcMethodHandler[Any, Any]:
        """Who answers a call of that path. Raises `MalformedCallError` where nobody does."""
        known = self._methods.get(head.path)
        if known is None:
            details = CallDetails(head.path, head.metadata)
            for handler in self._handlers:
                known = handler.service(details)
                if known is not None:
                    self._methods[head.path] = known
                    return known
            raise MalformedCallError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return known

    # --- for metrics ---

    def stream_counts(self) -> ConnectionCounters:
        """What happened on all connections, those that are open among them."""
        sums = ServerCounters(streams=ConnectionCounters())
        for counts in (
            self.counters.streams,
            *(each.connection.counters for each in self.connections),
        ):
            sums.add(counts)
        return sums.streams

    async def _accept(self, listener: Listener, sock: socket.socket) -> None:
        """Accept connections of TLS: the event loop would tell of them after their handshake only."""
        loop = asyncio.get_running_loop()
        with sock:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(sock)
                except OSError as error:
                    log.warning("a connection could not be accepted: %s", error)
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                client = ServerConnection(self, listener)
                try:
                    client.shake_hands(accepted)
                except Exception as error:  # noqa: BLE001  # `broken` logs it
                    accepted.close()
                    client.broken(error)
                    client.connection_lost(None)

    async def _all_gone(self, timeout_s: float) -> None:
        if self.connections and timeout_s > 0:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_NS / SECOND, self._sweep)
        self.sweep(SWEEP_NS)
