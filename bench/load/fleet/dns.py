"""A name server on loopback: one name whose addresses come and go, as those of a headless service do."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Sequence
from typing import cast

_HEADER = struct.Struct(">6H")
_ANSWER, _AUTHORITATIVE, _RECURSION_DESIRED = 0x8000, 0x0400, 0x0100
_A, _IN = 1, 1
PORT = 53
_POINTER_TO_QUESTION = 0xC000 | _HEADER.size


def answer(query: bytes, addresses: Sequence[str]) -> tuple[bytes, bool]:
    """The answer to a query, and whether it has the addresses: other types than A have no records.

    Records may be kept for no time at all. Raises `ValueError` for what is no query.
    """
    if len(query) < _HEADER.size:
        raise ValueError("shorter than a header")
    number, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _ANSWER or questions != 1:
        raise ValueError("no query with one question")
    end = _HEADER.size
    while end < len(query) and query[end]:
        end += 1 + query[end]
    question = query[_HEADER.size : end + 5]
    if len(question) != end + 5 - _HEADER.size:
        raise ValueError("the question is cut off")
    asked = struct.unpack(">2H", question[-4:]) == (_A, _IN)
    records = [
        struct.pack(">3HIH", _POINTER_TO_QUESTION, _A, _IN, 0, 4) + socket.inet_aton(address)
        for address in (addresses if asked else ())
    ]
    flags = _ANSWER | _AUTHORITATIVE | flags & _RECURSION_DESIRED
    head = _HEADER.pack(number, flags, 1, len(records), 0, 0)
    return head + question + b"".join(records), asked


class NameServer(asyncio.DatagramProtocol):
    """Answers every name with `addresses`, which may be changed at any time; `start` first, `close` last."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.told_ns: dict[str, int] = {}
        """When an address was first in an answer since it was last added."""
        self.host = ""
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        """Listen on port 53 of a loopback address where that is free: `/etc/resolv.conf` can name no other port.

        Raises `OSError`: it takes the rights of root.
        """
        loop = asyncio.get_running_loop()
        for last in range(1, 255):
            host = f"127.53.0.{last}"
            try:
                await loop.create_datagram_endpoint(lambda: self, local_addr=(host, PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.host = host
                return
        raise OSError(errno.EADDRINUSE, "port 53 of 127.53.0.0/24 is taken")

    def add(self, address: str) -> None:
        """Tell of this address from now on."""
        self.told_ns.pop(address, None)
        self.addresses.append(address)

    def remove(self, address: str) -> None:
        """Tell of it no more, if it is told of."""
        if address in self.addresses:
            self.addresses.remove(address)

    def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer; what is no query is dropped."""
        assert self._transport is not None
        try:
            found, asked = answer(data, self.addresses)
        except ValueError:
            return
        self._transport.sendto(found, addr)
        if asked:
            now_ns = time.monotonic_ns()
            for address in self.addresses:
                self.told_ns.setdefault(address, now_ns)
