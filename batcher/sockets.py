"""Listening sockets for addresses of the configuration, and errors that say why one cannot be had.

The gRPC and the HTTP server both listen by these functions, so both refuse an address in the same
words: a port in use, a Unix socket that another process listens on, a path that is not a socket. The path of
a Unix socket whose process has died is taken over.
"""

from __future__ import annotations

import errno
import re
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from batcher.errors import ListenError

BACKLOG = 65_535
"""Connections that may wait to be accepted, or as many as the system allows (`net.core.somaxconn`). The
kernel drops what does not fit, and the client's kernel tries again a second later."""

UNIX = "unix:"

_REMEDIES: Mapping[int | None, str] = {
    errno.EADDRINUSE: " (stop what listens there, or configure another address)",
    errno.EADDRNOTAVAIL: " (no network interface of this machine has it; 0.0.0.0 stands for all)",
    errno.EACCES: " (ports below 1024, and folders that this user cannot write, need privileges)",
    errno.ENOENT: " (create the folder of the Unix socket first)",
}

_TCP = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>\d{1,5})")


def listen(address: str) -> socket.socket:
    """A listening socket for `host:port`, `[v6]:port` or `unix:/path`; port 0 takes a free one.

    Raises `ListenError` naming the address where it is invalid, in use, not allowed, or its path is
    not a socket.
    """
    sock = _bound(address)
    sock.listen(BACKLOG)
    return sock


def check_free(address: str) -> None:
    """Raise the `ListenError` that `listen` would raise, and leave the address free.

    For a server that binds by itself. Another process may still take the address in between.
    """
    _bound(address).close()
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).unlink()


def bound_address(sock: socket.socket) -> str:
    """The address of a listening socket, in the form that `listen` takes."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"{UNIX}{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{host}:{port}"


def _bound(address: str) -> socket.socket:
    try:
        if address.startswith(UNIX):
            return _bind_unix(address.removeprefix(UNIX))
        return _bind_tcp(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        remedy = _REMEDIES.get(getattr(error, "errno", None), "")
        raise ListenError(f"cannot listen on {address}: {reason}{remedy}") from error


def _bind_tcp(address: str) -> socket.socket:
    match = _TCP.fullmatch(address)
    if match is None:
        raise ListenError(
            f"cannot listen on {address!r}: expected host:port, [v6 address]:port or unix:/path"
        )
    host, port = match["v6"] or match["host"], int(match["port"])
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, name = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        # Else a restart would fail until the last connections of the old process have timed out.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket at `path` where no process listens on it. Raises `ListenError` for other files."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"cannot listen on unix:{path}: the path exists and is not a socket (remove it, or configure"
            " another path)"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A blocking connect would wait for a listener whose backlog is full.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except BlockingIOError:
            pass
    raise ListenError(
        f"cannot listen on unix:{path}: another process listens there (stop it, or configure"
        " another path)"
    )
