"""gRPC channels to a neighbor: their options, TLS, and what notices a neighbor that is gone or back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import grpc
import grpc.aio
from pydantic import model_validator

from batcher.config.addresses import Address
from batcher.config.section import CrossCheckError
from batcher.errors import ModelLoadError
from batcher.executor import FilePath, Options
from batcher.executors.remote.headers import Stamp, stamp

RECONNECT_MS: Final = 500
"""The longest pause between two attempts to connect: with the jitter of gRPC, which adds a fifth, and
`ATTEMPT_MS`, a neighbor that is back is found within two seconds."""

ATTEMPT_MS: Final = 1000
"""How long one attempt to connect may take. A host that comes back answers the next attempt; the
kernel would ask it again after 1, 3, 7, 15 s."""

SILENCE_MS: Final = 20_000
"""Silence after which a ping asks whether the neighbor is there. gRPC sends at most two of them until
it sends data again, and servers of gRPC's C core count a third one as too many by default."""

UNACKNOWLEDGED_MS: Final = 5_000
"""How long the neighbor's kernel may leave bytes, and its server a ping, unacknowledged. Then the
connection has failed. It becomes `TCP_USER_TIMEOUT`, too."""

LARGEST_MESSAGE: Final = 2**31 - 1
"""Bytes: gRPC and protobuf allow no larger message."""


class TlsOptions(Options):
    """How the neighbor is known, and how it knows this server."""

    ca: FilePath | None = None
    """Certificates of the authorities that may have signed the neighbor's. Default: those of the
    system."""
    cert: FilePath | None = None
    """The certificate chain of this server, where the neighbor asks for one; needs `key`."""
    key: FilePath | None = None
    """The private key of `cert`."""
    server_name: str | None = None
    """The name in the neighbor's certificate, where that is not the host of `url`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            raise CrossCheckError([((missing,), "is missing; cert and key go together")])
        return self

    def files(self) -> Iterator[Path]:
        """The files that are set."""
        yield from (path for path in (self.ca, self.cert, self.key) if path is not None)


def tls_stamps(tls: TlsOptions | None) -> tuple[Stamp, ...]:
    """What changes when a file of TLS does; empty without TLS."""
    return () if tls is None else tuple(stamp(path) for path in tls.files())


async def connection_changes(channel: grpc.aio.Channel, changed: Callable[[], None]) -> None:
    """Call `changed` whenever the connection is lost or made again, until the channel is closed."""
    while True:
        state = channel.get_state()
        if state is grpc.ChannelConnectivity.SHUTDOWN:
            return
        await channel.wait_for_state_change(state)
        changed()


def open_channel(
    model: str, url: Address, tls: TlsOptions | None, max_message: int
) -> grpc.aio.Channel:
    """A channel of its own connection, which connects when it is first used.

    Raises `ModelLoadError` if a file of `tls` cannot be read. Close the channel.
    """
    arguments: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", ATTEMPT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.dns_min_time_between_resolutions_ms", RECONNECT_MS),
        ("grpc.keepalive_time_ms", SILENCE_MS),
        ("grpc.keepalive_timeout_ms", UNACKNOWLEDGED_MS),
        ("grpc.max_send_message_length", max_message),
        ("grpc.max_receive_message_length", max_message),
        # A neighbor is reached directly, and no DNS record may make gRPC execute a batch twice.
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config_disable_resolution", 1),
    ]
    if tls is None:
        return grpc.aio.insecure_channel(url, options=arguments)
    if tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        _read(model, tls.ca), _read(model, tls.key), _read(model, tls.cert)
    )
    return grpc.aio.secure_channel(url, credentials, options=arguments)


def _read(model: str, path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ModelLoadError(
            f"model {model!r}: options.tls: cannot read {path}: {error.strerror}"
        ) from error
