"""What the kernel is asked of a connection's socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios

DEAD_PEER_S = 120
"""How long the other side's kernel may leave what we send unanswered; an idle caller's answers."""


def address(name: object) -> str:
    """A socket's name as the log shows it."""
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else "a Unix socket"


def unread(transport: asyncio.Transport) -> int:
    """Bytes that the client has not taken from us, those in the kernel's hands among them."""
    sent = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, sent)
    return transport.get_write_buffer_size() + int.from_bytes(sent, sys.byteorder)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel end a connection whose other side is gone without a word."""
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
