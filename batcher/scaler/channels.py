"""Connections to replicas: their options, and TLS whose files are read again when they change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
from grpc import aio

from batcher.clock import MILLISECOND
from batcher.config.addresses import UnixAddress, parse_address
from batcher.errors import StartupError
from batcher.scaler.config import FleetConfig, FleetTlsConfig
from batcher.scaler.report import MAX_REPORT_BYTES

log = logging.getLogger(__name__)

RECONNECT_MS: Final = 1000
"""Milliseconds between two attempts to connect: a replica that starts is known a second after it listens."""

SILENCE_MS: Final = 10_000
"""Milliseconds without a byte after which a connection is tested by a PING, and half of that later given up: a
replica whose machine is gone answers no poll, and the same address may be another's by then."""

MAX_METADATA_BYTES: Final = 16 * 1024
"""Bytes of metadata with an answer; a report comes with none of its own."""

_Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Channels:
    """Opens channels to the replicas of one fleet."""

    def __init__(self, config: FleetConfig) -> None:
        """Raises `StartupError` where a file of TLS cannot be read or used."""
        self._tls = config.tls
        self._name = config.name
        self._connect_ms = max(2 * config.poll.timeout // MILLISECOND, RECONNECT_MS)
        self._stamp = self._look()
        self._credentials = None if self._tls is None else _credentials(self._name, self._tls)
        self.generation = 0
        """Grows when the files were renewed: older channels are to be replaced."""

    def refresh(self) -> None:
        """Read the files again if they have changed. Files that are wrong are logged and not used."""
        if self._tls is None:
            return
        stamp = self._look()
        if stamp == self._stamp:
            return
        # Before they are read: a change in between is seen the next time.
        self._stamp = stamp
        try:
            self._credentials = _credentials(self._name, self._tls)
        except StartupError as error:
            log.warning(
                "the changed certificates are not used, the old ones still are: %s; correct the files,"
                " they are read again when they change",
                error,
            )
            return
        self.generation += 1
        log.info("the changed certificates to the replicas of fleet %s are used", self._name)

    def open(self, address: str) -> aio.Channel:
        """A channel of its own connection, which connects when it is first used. Close it."""
        arguments: list[tuple[str, Any]] = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # An attempt to connect may take so long.
            ("grpc.min_reconnect_backoff_ms", self._connect_ms),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.keepalive_time_ms", SILENCE_MS),
            ("grpc.keepalive_timeout_ms", SILENCE_MS // 2),
            ("grpc.max_send_message_length", 1024),
            ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            # A replica is reached directly, and each poll is one call.
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
        ]
        target = _target(address)
        if self._credentials is None or self._tls is None:
            return aio.insecure_channel(target, options=arguments)
        if self._tls.server_name is not None:
            arguments.append(("grpc.ssl_target_name_override", self._tls.server_name))
            arguments.append(("grpc.default_authority", self._tls.server_name))
        return aio.secure_channel(target, self._credentials, options=arguments)

    def _look(self) -> _Stamp:
        return () if self._tls is None else tuple(_stamp(path) for path in _files(self._tls))


def _target(address: str) -> str:
    """The address as gRPC has it: without a name server where it is one already."""
    parsed = parse_address(address)
    if isinstance(parsed, UnixAddress):
        return f"unix:{parsed.path}"
    if ":" in parsed.host:
        return f"ipv6:[{parsed.host}]:{parsed.port}"
    if parsed.host.replace(".", "").isdigit():
        return f"ipv4:{parsed.host}:{parsed.port}"
    return f"dns:///{parsed.host}:{parsed.port}"


def _files(tls: FleetTlsConfig) -> list[Path]:
    return [path for path in (tls.ca, tls.cert, tls.key) if path is not None]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _credentials(name: str, tls: FleetTlsConfig) -> grpc.ChannelCredentials:
    """Credentials of the files, after OpenSSL has taken them: gRPC says nothing before the first connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.cert is not None and tls.key is not None:
            # With an empty password: else OpenSSL asks on the terminal for that of an encrypted key.
            context.load_cert_chain(tls.cert, tls.key, password="")
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        files = [
            None if path is None else path.read_bytes() for path in (tls.ca, tls.key, tls.cert)
        ]
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise StartupError(
            f"fleet {name}: tls: the files must be PEM, not encrypted, and the key that of the"
            f" certificate: {reason}"
        ) from error
    except OSError as error:
        raise StartupError(
            f"fleet {name}: tls: cannot read {error.filename}: {error.strerror}"
        ) from error
    return grpc.ssl_channel_credentials(*files)
