"""What Kubernetes gives a pod to speak with its API server: an address, a token, certificates, a namespace."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batcher.errors import describe
from batcher.scaler.discovery.looking import DiscoveryError

FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the files of a pod's ServiceAccount are."""

MAX_TOKEN: Final = 64 * 1024
"""The most bytes of a token; they have some thousand."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to ask the API server now."""

    base: str
    """Its address: `https://host:port`."""
    token: str
    context: ssl.SSLContext
    """Verifies it. The same object until the certificates change."""
    namespace: str
    """That of this pod; empty where it is not told."""


class Account:
    """The ServiceAccount of this pod. Its files are read each time: Kubernetes renews the token every hour."""

    def __init__(
        self, environ: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._folder = FOLDER if folder is None else folder
        self._trusted: bytes | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def token_file(self) -> Path:
        """Where the token is."""
        return self._folder / "token"

    def access(self) -> Access:
        """Read the files. Raises `DiscoveryError` where they cannot be used. Blocks."""
        host = self._environ.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environ.get("KUBERNETES_SERVICE_PORT_HTTPS") or self._environ.get(
            "KUBERNETES_SERVICE_PORT", "443"
        )
        if not host or not port.isdecimal():
            raise DiscoveryError(
                "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not say where the API server is:"
                " endpoint_slices works in a pod of Kubernetes only"
            )
        shown_host = f"[{host}]" if ":" in host else host
        token = self._read("token")[:MAX_TOKEN].decode("ascii", "replace").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise DiscoveryError(f"{self.token_file} holds no token")
        try:
            namespace = self._read("namespace").decode(errors="replace").strip()
        except DiscoveryError:
            namespace = ""
        return Access(f"https://{shown_host}:{port}", token, self._verifying(), namespace)

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise DiscoveryError(
                f"cannot read {path}: {error.strerror}; the pod needs a ServiceAccount whose token is"
                " mounted (automountServiceAccountToken)"
            ) from error

    def _verifying(self) -> ssl.SSLContext:
        """A context that trusts `ca.crt` alone.

        With an empty file, `ssl.create_default_context` would trust the authorities of the system.
        """
        trusted = self._read("ca.crt")
        if self._context is None or trusted != self._trusted:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            why = "it holds none"
            try:
                context.load_verify_locations(cadata=trusted.decode("ascii", "ignore"))
            except (ssl.SSLError, ValueError) as error:
                why = describe(error)
            if not context.cert_store_stats()["x509"]:
                raise DiscoveryError(
                    f"{self._folder / 'ca.crt'} must hold certificates (PEM): {why}"
                )
            self._context, self._trusted = context, trusted
        return self._context
