"""A DNS server on the loopback address that answers as a test says."""

import asyncio
import struct
from contextlib import asynccontextmanager

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """Answers questions over UDP and TCP from `zone`, and keeps what it was asked.

    `zone[name, kind]` is a list of addresses; `rcode`, `silent`, `soa` and the like change all answers.
    """

    def __init__(self):
        self.zone = {}
        self.asked = []
        self.was_asked = asyncio.Event()
        self.over_tcp = 0
        self.rcode = {}
        self.silent = False
        self.soa = True
        self.ttl = 5
        self.garbage = None
        self.largest = 1232
        self.port = None

    @property
    def names(self):
        return [name for name, _ in self.asked]

    def answer(self, wire, *, tcp):
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        self.was_asked.set()
        self.over_tcp += tcp
        if self.silent:
            return None
        if self.garbage is not None:
            return query.id.to_bytes(2, "big") + self.garbage
        response = dns.message.make_response(query)
        rcode = self.rcode.get((name, kind), self.rcode.get("*"))
        addresses = self.zone.get((name, kind), [])
        if rcode is not None:
            response.set_rcode(rcode)
            return response.to_wire()
        if addresses:
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *addresses))
        else:
            if not any(known == name for known, _ in self.zone):
                response.set_rcode(dns.rcode.NXDOMAIN)
            if self.soa:
                response.authority.append(
                    dns.rrset.from_text(
                        "cluster.local.", 30, "IN", "SOA", "ns.dns. admin. 1 7200 1800 86400 7"
                    )
                )
        wire = response.to_wire(max_size=65_535)
        if not tcp and len(wire) > self.largest:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()
        return wire


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server):
        self._server = server

    def connection_made(self, transport):
        self._transport = transport

    def datagram_received(self, data, address):
        if (wire := self._server.answer(data, tcp=False)) is not None:
            self._transport.sendto(wire, address)


@asynccontextmanager
async def serving(server):
    async def connected(reader, writer):
        try:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
            wire = server.answer(await reader.readexactly(size), tcp=True)
            if wire is not None:
                writer.write(struct.pack("!H", len(wire)) + wire)
                await writer.drain()
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    loop = asyncio.get_running_loop()
    while True:
        tcp = await asyncio.start_server(connected, "127.0.0.1", 0)
        port = tcp.sockets[0].getsockname()[1]
        try:
            udp, _ = await loop.create_datagram_endpoint(
                lambda: _Udp(server), local_addr=("127.0.0.1", port)
            )
        except OSError:  # another process has the port over UDP
            tcp.close()
            continue
        break
    server.port = port
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
