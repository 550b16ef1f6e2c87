"""A gRPC server on asyncio with its own HTTP/2: the part of `grpc.aio.Server` that the sidecar uses.

It takes the same handlers and hands them a context with the same methods. It has no interceptors, no
compressed answers and no channelz.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.http2.connection_lifetime import ConnectionLifetime
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
"""How long clients may take to acknowledge the initial GOAWAY. Calls that were on their way come until
then, and are answered."""
POLL_S = 0.01
"""How often it is checked whether all clients have acknowledged."""
ACCEPT_RETRY_S = 1.0
"""The pause after `accept` has failed, as when no file descriptors are left."""
LOG_LINES_PER_SECOND = 10
"""Log lines about connections that end early; further ones are counted in one line."""
STREAM_WINDOW = 2**17
"""Bytes of messages of one call that wait to be read. A larger message may come whole."""
FREED_FRACTION = 64
"""Calls are evicted until this fraction of `max_buffered` is free, so that they are few."""
EVICTION_RETRY_S = 0.05
"""How long no connection is sought to evict calls of, after none was found."""
OFFLOAD_THREADS = 2
"""Threads that join and decompress large messages."""


@dataclass(frozen=True, slots=True)
class CallDetails(grpc.HandlerCallDetails):  # type: ignore[misc]  # grpc has no types
    """What a handler is chosen by."""

    method: str
    invocation_metadata: Metadata


class Server:
    """Answers calls on any number of listening sockets: `listen` for each, then `stop` once.

    A sweep each second (`ServerConnection.sweep`) sends GOAWAY to idle connections and ends what makes no
    progress.
    """

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
        """`too_large` is called for every call that is refused for a size: `message` or `metadata`.

        `is_probe` says by its path whether a call is a health probe, which is answered beyond
        `max_connections`, too.
        """
        self.max_message = max_message
        self.max_connections = max_connections
        self.buffers = buffers
        self.timeouts = timeouts
        self._too_large = too_large
        self.is_probe = is_probe
        self.too_many_connections = (
            f"all {max_connections} connections are taken (server.max_connections)"
        )
        """What a call on a connection beyond that is answered."""
        self.limits = Limits(
            max_streams=max_streams,
            max_headers=max_headers,
            stream_window=STREAM_WINDOW,
        )
        self.connections: set[ServerConnection] = set()
        self.counters = ServerCounters()
        self.offload_pool = low_priority_pool(OFFLOAD_THREADS, "http2-offload")
        self.stopping = False
        """Whether GOAWAY is sent to all, and to connections that were accepted just before as they begin."""
        self._stopped = False
        """Whether new connections are refused, those included that are in a handshake."""
        self._handlers = handlers
        self._methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._no_connections = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._no_eviction_until_s = 0.0
        self._log_lines_left = LOG_LINES_PER_SECOND
        self._log_lines_dropped = 0

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Answer on this bound socket, with TLS where there is a context."""
        loop = asyncio.get_running_loop()
        listener = Listener(sock, tls)
        self._listeners.append(listener)
        if tls is None:
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
            self._sweeper = loop.call_later(SWEEP_NS / SECOND, self._sweep_again)

    def replace_tls(self, tls: ssl.SSLContext) -> None:
        """Use another context for handshakes from now on, on listeners that have one."""
        for listener in self._listeners:
            if listener.tls is not None:
                listener.tls = tls

    # --- shutdown ---

    def send_goaway(self) -> None:
        """Accept no connection from now on, and send the initial GOAWAY on those that are open.

        A connection whose client has acknowledged it is closed when its calls have ended.
        """
        if not self.stopping:
            self.stopping = True
            for listener in self._listeners:
                # No more than there is room for: clients that connect without end would keep this from returning.
                room = max(self.max_connections - len(listener.connections), 0)
                for accepted in islice(listener.backlog(), room):
                    self._begin(listener, accepted)
                if listener.accepting is not None:
                    listener.accepting.cancel()
            for server in self._servers:
                server.close()
            for connection in list(self.connections):
                connection.send_initial_goaway()

    async def goaway_acknowledged(self, timeout_s: float) -> None:
        """Wait until clients have acknowledged GOAWAY, for `timeout_s` and `GOAWAY_ACK_S` at most.

        The calls that they opened before have come then, and are to be answered. Later ones are refused in a
        way that lets clients open them elsewhere; so are those of clients that have not acknowledged it.
        """
        ends_s = asyncio.get_running_loop().time() + min(timeout_s, GOAWAY_ACK_S)
        while asyncio.get_running_loop().time() < ends_s:
            if all(each.http2.final_goaway_sent or each.http2.closing for each in self.connections):
                return
            await asyncio.sleep(POLL_S)
        for connection in list(self.connections):
            connection.send_final_goaway()

    @property
    def receiving(self) -> int:
        """Unary calls whose message has not come as a whole."""
        waiting = [call for each in self.connections for call in each.receiving]
        return sum(not call.is_streaming for call in waiting)

    async def all_received(self) -> None:
        """Wait until the message of every unary call has come, or the call has ended."""
        while self.receiving:  # noqa: ASYNC110  # it ends in many ways, and this waits once in a process
            await asyncio.sleep(POLL_S)

    async def stop(self, grace_s: float) -> None:
        """Accept no connection or call, let open calls end for `grace_s` seconds, then abort them."""
        self.send_goaway()
        await self._all_closed(min(grace_s, GOAWAY_ACK_S))
        for connection in list(self.connections):
            connection.send_final_goaway()
        await self._all_closed(grace_s - GOAWAY_ACK_S)
        self._stopped = True
        tasks = [call.task for each in self.connections for call in each.calls.values()]
        for connection in list(self.connections):
            connection.abort("the server is shutting down")
        await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.offload_pool.shutdown(wait=False, cancel_futures=True)

    # --- for its connections ---

    def find_method(self, headers: CallHeaders) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a call. Raises `MalformedCallError` where its path has none."""
        known = self._methods.get(headers.path)
        if known is None:
            details = CallDetails(headers.path, headers.metadata)
            for handler in self._handlers:
                known = handler.service(details)
                if known is not None:
                    self._methods[headers.path] = known
                    return known
            # As grpcio says it.
            raise MalformedCallError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return known

    def count_refused(self, error: MalformedCallError) -> None:
        """Count a call that is refused for a size."""
        if error.limit:
            self._too_large(error.limit)

    def admit(self, connection: ServerConnection) -> bool:
        """Whether a connection that was accepted may stay: within `max_connections`, or for probes only.

        At the limit an idle or silent connection is closed for it.
        """
        if self._stopped:
            return False
        listener = connection.listener
        full = len(listener.connections) >= self.max_connections
        if full and listener.evict():
            self.counters.evicted += 1
            full = False
        if full:
            listener.add_probe_connection(connection)
        else:
            self.counters.accepted += 1
            listener.connections[connection] = None
        self.connections.add(connection)
        return True

    def make_room(self, connection: ConnectionLifetime, size: int) -> bool:
        """Charge bytes for which there is no room, by evicting calls of another connection.

        That is the one whose calls take most, where it is more than `Buffers.max_per_connection`; its
        latest calls end. Returns whether the bytes are charged.
        """
        now_s, buffers = asyncio.get_running_loop().time(), self.buffers
        if now_s < max(self._no_eviction_until_s, connection.no_eviction_until_s):
            return False
        most, largest = buffers.max_per_connection, None
        for each in self.connections:
            taken = each.account.unsent + sum([call.charged for call in each.calls.values()])
            if taken > most:
                most, largest = taken, each
        if largest is None:
            self._no_eviction_until_s = now_s + EVICTION_RETRY_S
            return False
        if largest is connection:
            connection.no_eviction_until_s = now_s + EVICTION_RETRY_S
            return False
        to_free = max(size, buffers.limit // FREED_FRACTION)
        try:
            for call in reversed(list(largest.calls.values())):
                to_free -= call.charged + sum(map(len, call.stream.outbox))
                call.evict()
                if to_free <= 0:
                    break
            largest.charge_unsent()
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            largest.fail(error)
        return buffers.reserve(size)

    def count_end(self, connection: ServerConnection, reason: str, text: str = "") -> None:
        """Count a connection that ends early, and log it; `text` holds nothing that the client sent."""
        self.counters.ended[reason] += 1
        if self._log_lines_left:
            self._log_lines_left -= 1
            log.info(
                "the connection from %s ends early: %s%s",
                connection.peer,
                reason,
                text and f" ({text})",
            )
        else:
            self._log_lines_dropped += 1

    def remove_connection(self, connection: ServerConnection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        connection.listener.remove(connection)
        self.counters.add(connection.http2.counters)
        if not self.connections:
            self._no_connections.set()

    # --- for metrics ---

    def stream_counters(self) -> ConnectionCounters:
        """Sums over all connections, open ones included."""
        sums = ServerCounters(streams=ConnectionCounters())
        for counters in (
            self.counters.streams,
            *(each.http2.counters for each in self.connections),
        ):
            sums.add(counters)
        return sums.streams

    # --- for itself ---

    def sweep(self, elapsed_ns: int) -> None:
        """Sweep every connection; `elapsed_ns` have passed since the last time."""
        for connection in list(self.connections):
            connection.sweep(elapsed_ns)
        if self._log_lines_dropped:
            log.info("%d more connections ended early", self._log_lines_dropped)
        self._log_lines_left, self._log_lines_dropped = LOG_LINES_PER_SECOND, 0

    def _sweep_again(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_NS / SECOND, self._sweep_again)
        self.sweep(SWEEP_NS)

    async def _accept(self, listener: Listener, sock: socket.socket) -> None:
        """Accept connections with TLS: asyncio would report them only after their handshake."""
        loop = asyncio.get_running_loop()
        with sock:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(sock)
                except OSError as error:
                    log.warning(
                        "a connection could not be accepted: %s (trying again in %g s)",
                        error,
                        ACCEPT_RETRY_S,
                    )
                    await asyncio.sleep(ACCEPT_RETRY_S)
                    continue
                self._begin(listener, accepted)

    def _begin(self, listener: Listener, accepted: socket.socket) -> None:
        """Begin a connection that asyncio has not accepted."""
        connection = ServerConnection(self, listener)
        try:
            accepted.setblocking(False)
            connection.start(accepted)
        except Exception as error:  # noqa: BLE001  # `fail` logs it
            accepted.close()
            connection.fail(error)
            connection.connection_lost(None)

    async def _all_closed(self, timeout_s: float) -> None:
        if self.connections and timeout_s > 0:
            self._no_connections.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._no_connections.wait(), timeout_s)
