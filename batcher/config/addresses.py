"""Where a listener listens: `host:port`, `[v6]:port` or `unix:/path`."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Final

from pydantic import AfterValidator, WithJsonSchema

SOCKET_PATH_BYTES: Final = 107
"""The kernel's `sun_path` holds 108 bytes, the closing zero included."""

_ALLOWED: Final = 'host:port, "[::1]:port" (quoted) or unix:/absolute/path'
_HOST_PORT: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+[\w.]*)\]|(?P<host>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)):(?P<port>\d{1,5})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host name or IP address (IPv6 without brackets) and a port; port 0 means any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix domain socket at an absolute path."""

    path: PurePosixPath


def parse_address(text: str) -> TcpAddress | UnixAddress:
    """The parts of an address; equal results mean the same listener.

    Raises ValueError, its message being what is allowed.
    """
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(_ALLOWED)
    port = int(match["port"])
    if port > 65_535:
        raise ValueError("a port from 0 to 65535")
    return TcpAddress((match["v6"] or match["host"]).lower(), port)


_EVERYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not listened on
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def reaches(listener: str, url: str) -> bool:
    """Whether a connection to `url` (an address, perhaps with a scheme and a path) ends at a listener here.

    False where that is not certain, as for names of hosts.
    """
    try:
        own = parse_address(listener)
        asked = parse_address(url.split("://", 1)[-1].split("/", 1)[0] if "://" in url else url)
    except ValueError:
        return False
    if not isinstance(own, TcpAddress) or not isinstance(asked, TcpAddress):
        return own == asked
    if own.port != asked.port or not own.port:
        return False
    local = asked.host in _LOOPBACK
    return own.host == asked.host or (local and own.host in _LOOPBACK | _EVERYWHERE)


def _unix(path: str) -> UnixAddress:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError("unix: followed by an absolute path, such as unix:/run/batcher/grpc.sock")
    # normpath keeps a leading `//`, which POSIX lets mean something else; Linux does not.
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if len(normal.encode()) > SOCKET_PATH_BYTES:
        raise ValueError(f"a socket path of at most {SOCKET_PATH_BYTES} bytes (the kernel's limit)")
    return UnixAddress(PurePosixPath(normal))


def _checked(text: str) -> str:
    parse_address(text)
    return text


Address = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(unix:/.+|\[.+\]:\d{1,5}|[^\[\]/]+:\d{1,5})$",
            "examples": ["127.0.0.1:8001", "unix:/run/batcher/grpc.sock"],
        }
    ),
]
"""The text of an address that `parse_address` takes."""
