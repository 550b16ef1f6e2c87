"""Options and state of a connection's socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios

DEAD_PEER_S = 120
"""Seconds after which the kernel ends a TCP connection whose other machine acknowledges nothing: data that
was sent, or keepalive probes where there is none."""


def format_address(name: object) -> str:
    """The name of a socket, for the log."""
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a Unix socket"


def unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes written that the client has not acknowledged: in the transport and in the kernel."""
    sent = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, sent)
    return transport.get_write_buffer_size() + int.from_bytes(sent, sys.byteorder)


def enable_keepalive(sock: socket.socket) -> None:
    """Have the kernel end a connection whose other machine is gone; also sets TCP_NODELAY."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, DEAD_PEER_S // 2),
        (socket.TCP_KEEPINTVL, DEAD_PEER_S // 6),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
