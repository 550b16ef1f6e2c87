"""gRPC listeners: addresses, credentials and limits, for both values of `server.transport`.

A data listener answers inference; an admin listener also changes what is served. Each kind is one
server on any number of addresses: a `BuiltinServer` or a `GrpcioServer`, which have the same methods.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from batcher.buffers import Buffers
from batcher.clock import MILLISECOND
from batcher.config import ServerConfig
from batcher.errors import ListenError
from batcher.http2 import Server, Timeouts
from batcher.server.tls import Certificates
from batcher.sockets import UNIX, bound_address, check_free, listen

MAX_METADATA_BYTES = 16 * 1024
"""Bytes of the metadata of one call, each field with 32 more."""

_HEALTH = "/grpc.health.v1.Health/"
_INT32_MAX = 2**31 - 1


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The channel arguments for gRPC's own server that follow from the configuration."""
    pending = min(config.max_connections * config.max_concurrent_streams, _INT32_MAX)
    times = (
        ("grpc.max_connection_idle_ms", config.max_connection_idle),
        ("grpc.max_connection_age_ms", config.max_connection_age),
        ("grpc.max_connection_age_grace_ms", config.max_connection_age_grace),
    )
    return [
        *((name, max(time_ns // MILLISECOND, 1)) for name, time_ns in times if time_ns is not None),
        ("grpc.max_receive_message_length", config.max_message),
        ("grpc.max_send_message_length", config.max_message),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        # Over its default bounds, 1,000 and 3,000, gRPC cancels calls without a reason or a log line.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        # Else two processes could listen on one port by accident, and each would get part of the calls.
        ("grpc.so_reuseport", 0),
        # Else clients with keepalive would be disconnected during long calls for too many pings.
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def is_probe(path: str) -> bool:
    """Whether a call is a health probe, which is answered beyond `max_connections`, too."""
    return path.startswith(_HEALTH)


def is_call_of_grpcio(task: asyncio.Task[Any]) -> bool:
    """Whether a task is that of a call, from when it has come until its status was sent."""
    return getattr(task.get_coro(), "__name__", "") == "_schedule_rpc_coro"


class _Listeners:
    """Addresses, and the paths of Unix sockets among them to remove at the end."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        """Where it listens; after `start` with the ports that were taken for port 0."""
        # Only those that were bound here: a path that was refused belongs to another process.
        self._bound: list[Path] = []

    def _remove_paths(self) -> None:
        for path in self._bound:
            path.unlink(missing_ok=True)


class BuiltinServer(_Listeners):
    """One server of `batcher.http2` on several addresses. `start` once, then `stop` once."""

    def __init__(
        self,
        addresses: Sequence[str],
        handlers: Sequence[grpc.GenericRpcHandler],
        config: ServerConfig,
        certificates: Certificates | None,
        buffers: Buffers,
        too_large: Callable[[str], None],
    ) -> None:
        """`too_large` is called for every call that is refused for a size: `message` or `metadata`."""
        super().__init__(addresses)
        self._certificates = certificates
        self.http2 = Server(
            handlers,
            max_message=config.max_message,
            max_streams=config.max_concurrent_streams,
            max_connections=config.max_connections,
            max_headers=MAX_METADATA_BYTES,
            too_large=too_large,
            is_probe=is_probe,
            buffers=buffers,
            timeouts=Timeouts(
                idle_ns=config.max_connection_idle,
                age_ns=config.max_connection_age,
                age_grace_ns=config.max_connection_age_grace,
                receive_ns=config.receive_timeout,
                write_ns=config.write_timeout,
            ),
        )

    async def start(self) -> None:
        """Listen on every address. Raises `ListenError` naming the one that cannot be had."""
        tls = None
        if self._certificates is not None:
            tls = self._certificates.context
            self._certificates.on_renewal(self._renew)
        for place, address in enumerate(self.addresses):
            sock = listen(address)
            self.addresses[place] = bound_address(sock)
            if address.startswith(UNIX):
                self._bound.append(Path(address.removeprefix(UNIX)))
            await self.http2.listen(sock, None if address.startswith(UNIX) else tls)

    def _renew(self) -> None:
        if self._certificates is not None:
            self.http2.replace_tls(self._certificates.context)

    def send_goaway(self) -> None:
        """Accept no connection from now on, and send GOAWAY on those that are open."""
        self.http2.send_goaway()

    async def goaway_acknowledged(self, timeout_s: float) -> None:
        """Wait until clients have acknowledged it: the calls that they had sent before have come then."""
        await self.http2.goaway_acknowledged(timeout_s)

    @property
    def receiving(self) -> int:
        """Calls whose message has not come as a whole."""
        return self.http2.receiving

    async def all_received(self) -> None:
        """Wait until the messages of the calls that were accepted have come."""
        await self.http2.all_received()

    async def stop(self, grace_s: float) -> None:
        """Accept no connection, let open calls end for `grace_s` seconds, then abort them."""
        await self.http2.stop(grace_s)
        self._remove_paths()


class GrpcioServer(_Listeners):
    """One `grpc.aio` server on several addresses. `start` once, then `stop` once."""

    def __init__(
        self,
        addresses: Sequence[str],
        handlers: Sequence[grpc.GenericRpcHandler],
        config: ServerConfig,
        certificates: Certificates | None,
        buffers: Buffers,  # noqa: ARG002  # `InferenceServicer` charges for this transport
        _too_large: Callable[[str], None],
    ) -> None:
        """`_too_large` is never called: the library refuses what is too large without reporting it."""
        super().__init__(addresses)
        self._certificates = certificates
        self._server = aio.server(options=channel_options(config))
        self._server.add_generic_rpc_handlers(tuple(handlers))

    async def start(self) -> None:
        """Listen on every address. Raises `ListenError` naming the one that cannot be had."""
        self.addresses = [self._bind(address) for address in self.addresses]
        await self._server.start()

    def send_goaway(self) -> None:
        """Does nothing: gRPC would refuse new calls on open connections without a hint when to retry."""

    async def goaway_acknowledged(self, timeout_s: float) -> None:
        """Returns at once: no GOAWAY was sent."""

    @property
    def receiving(self) -> int:
        """0: the library hands over calls when their messages have come."""
        return 0

    async def all_received(self) -> None:
        """Returns at once, for the same reason."""

    async def stop(self, grace_s: float) -> None:
        """Let calls end for `grace_s` seconds, until none is open, then close every connection.

        With a grace the library would cancel calls that come meanwhile. CANCELLED is the end for a caller, who
        may repeat a call whose connection was closed.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while calls := [task for task in asyncio.all_tasks() if is_call_of_grpcio(task)]:
                    await asyncio.wait(calls)
        await self._server.stop(None)
        self._remove_paths()

    def _bind(self, address: str) -> str:
        # gRPC would take over the path of a socket in use, and gives no reason where binding fails.
        check_free(address)
        try:
            if self._certificates is None or address.startswith(UNIX):
                port = self._server.add_insecure_port(address)
            else:
                # New ones for each address: each asks by itself whether certificates were renewed.
                credentials = self._certificates.credentials()
                port = self._server.add_secure_port(address, credentials)
        except (RuntimeError, ValueError) as error:
            raise ListenError(f"cannot listen on {address}: {error}") from error
        if address.startswith(UNIX):
            self._bound.append(Path(address.removeprefix(UNIX)))
            return address
        return f"{address.rpartition(':')[0]}:{port}"
