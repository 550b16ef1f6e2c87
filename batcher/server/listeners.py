"""gRPC listeners: addresses, credentials and limits.

A data listener answers inference; an admin listener also changes what is served. Each kind is one
server, ours or that of `grpc.aio`, on any number of addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from grpc import aio

from batcher.buffers import Buffers
from batcher.clock import MILLISECOND
from batcher.config import ServerConfig
from batcher.errors import ListenError
from batcher.http2.server import Server
from batcher.http2.timeouts import Timeouts
from batcher.server.tls import Certificates
from batcher.sockets import UNIX, bound_address, check_free, listen

MAX_METADATA_BYTES = 16 * 1024
"""Metadata of one call; more than that is no description of a request."""

_HEALTH = "/grpc.health.v1.Health/"
_INT32_MAX = 2**31 - 1


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """The settings of gRPC itself, from ours."""
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
        # Over its own bounds, 1,000 and 3,000, gRPC cancels calls and says nothing, here or there.
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
        # Two processes on one port would each get a share of the callers, by accident.
        ("grpc.so_reuseport", 0),
        # Long unary calls with client keepalive must not be cut off for pinging "too often".
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def is_probe(path: str) -> bool:
    """Whether a call asks how the server is, which is answered on a connection beyond the bound too."""
    return path.startswith(_HEALTH)


class _Listeners:
    """Addresses, and the paths among them that are ours to remove."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        """Where it listens; after `start` with the ports that were taken for port 0."""
        # Only what was bound here: a path that was refused belongs to somebody else.
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
        """`too_large` is told of every call that is refused for a size: `message` or `metadata`."""
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
        secrets = None
        if self._certificates is not None:
            secrets = self._certificates.context
            self._certificates.on_renewal(self._renew)
        for place, address in enumerate(self.addresses):
            sock = listen(address)
            self.addresses[place] = bound_address(sock)
            if address.startswith(UNIX):
                self._bound.append(Path(address.removeprefix(UNIX)))
            await self.http2.listen(sock, None if address.startswith(UNIX) else secrets)

    def _renew(self) -> None:
        if self._certificates is not None:
            self.http2.renew(self._certificates.context)

    def leave(self) -> None:
        """Take no new connection, and ask the clients of open ones to go elsewhere."""
        self.http2.leave()

    async def told(self, timeout_s: float) -> None:
        """Wait until they have read so, and what they had sent before has come."""
        await self.http2.told(timeout_s)

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let open calls end for `grace_s` seconds, then cut them."""
        await self.http2.stop(grace_s)
        self._remove_paths()


class GrpcServer(_Listeners):
    """One `grpc.aio` server on several addresses. `start` once, then `stop` once."""

    def __init__(
        self,
        addresses: Sequence[str],
        handlers: Sequence[grpc.GenericRpcHandler],
        config: ServerConfig,
        certificates: Certificates | None,
        buffers: Buffers,  # noqa: ARG002  # the edge charges for it
        _too_large: Callable[[str], None],
    ) -> None:
        """The library refuses what is too large without saying so: nobody is told."""
        super().__init__(addresses)
        self._certificates = certificates
        self._server = aio.server(options=channel_options(config))
        self._server.add_generic_rpc_handlers(tuple(handlers))

    async def start(self) -> None:
        """Listen on every address. Raises `ListenError` naming the one that cannot be had."""
        self.addresses = [self._bind(address) for address in self.addresses]
        await self._server.start()

    def leave(self) -> None:
        """Nothing: gRPC would refuse new calls on open connections without a hint when to retry."""

    async def told(self, timeout_s: float) -> None:
        """Nothing: nobody was told."""

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let open calls end for `grace_s` seconds, then cut them."""
        await self._server.stop(grace_s)
        self._remove_paths()

    def _bind(self, address: str) -> str:
        # gRPC would take over a living socket's path, and says of a failed bind only that it failed.
        check_free(address)
        try:
            if self._certificates is None or address.startswith(UNIX):
                port = self._server.add_insecure_port(address)
            else:
                # One for each: a listener asks for itself whether certificates were renewed.
                secrets = self._certificates.credentials()
                port = self._server.add_secure_port(address, secrets)
        except (RuntimeError, ValueError) as error:
            raise ListenError(f"cannot listen on {address}: {error}") from error
        if address.startswith(UNIX):
            self._bound.append(Path(address.removeprefix(UNIX)))
            return address
        return f"{address.rpartition(':')[0]}:{port}"
