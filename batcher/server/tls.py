"""The certificates of TLS: read at the start, and again when their files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import grpc

from batcher.config import TlsConfig
from batcher.errors import StartupError

log = logging.getLogger(__name__)

Stamp: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The files of `server.tls`, or another section of its kind, as they were read last."""

    def __init__(self, tls: TlsConfig, section: str = "server.tls") -> None:
        """Raises `StartupError`, which names the section, where a file cannot be read, or is not what its key says."""
        self._tls = tls
        self._section = section
        self._stamp = self._look()
        self._configuration = self._read()
        self.context = _context(tls, section)
        """For the transport `builtin`."""
        self._renewed: list[Callable[[], None]] = []

    def credentials(self) -> grpc.ServerCredentials:
        """For one address of the transport `grpcio`, which asks before each handshake for new ones."""
        given = self._configuration

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._configuration:
                return None
            given = self._configuration
            return given

        return grpc.dynamic_ssl_server_credentials(
            given, renewed, require_client_authentication=self._tls.client_ca is not None
        )

    def on_renewal(self, call: Callable[[], None]) -> None:
        """Have `call` called each time that `context` is replaced."""
        self._renewed.append(call)

    async def watch(self, period_s: float) -> None:
        """Call `refresh` every `period_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            self.refresh()

    def refresh(self) -> None:
        """Read the files again if they have changed. Files that are wrong are logged and not used."""
        stamp = self._look()
        if stamp == self._stamp:
            return
        # Before they are read: a change in between is seen the next time.
        self._stamp = stamp
        try:
            configuration, context = self._read(), _context(self._tls, self._section)
        except (StartupError, OSError) as error:
            log.warning(
                "the changed certificates are not used, the old ones still are: %s; correct the files,"
                " they are read again when they change",
                error,
            )
            return
        self.context, self._configuration = context, configuration
        for call in self._renewed:
            call()
        log.info(
            "the changed certificates of %s are used from now on: %s", self._section, self._tls.cert
        )

    def _read(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        try:
            pair = (tls.key.read_bytes(), tls.cert.read_bytes())
            client_ca = tls.client_ca.read_bytes() if tls.client_ca else None
        except OSError as error:
            raise StartupError(
                f"{self._section}: cannot read {error.filename}: {error.strerror}"
            ) from error
        return grpc.ssl_server_certificate_configuration([pair], client_ca)

    def _look(self) -> Stamp:
        paths = (self._tls.cert, self._tls.key, self._tls.client_ca)
        return tuple(_stamp(path) for path in paths if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _context(tls: TlsConfig, section: str) -> ssl.SSLContext:
    """A server's context for these files. Raises `StartupError` where one is not what its key says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    try:
        # With an empty password: else OpenSSL asks on the terminal for that of an encrypted key.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except ssl.SSLError as error:
        raise StartupError(
            f"{section}: {tls.cert} and {tls.key} must be a certificate chain and its private key,"
            f" PEM and not encrypted: {_reason(error)}"
        ) from error
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise StartupError(
                f"{section}: {tls.client_ca} (client_ca) must hold certificates of authorities,"
                f" PEM: {_reason(error)}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
