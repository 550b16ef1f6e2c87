"""What tests of discoveries share: a DNS server on the loopback address, and a discovery under test that does not wait."""

import asyncio
import random
import struct
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

sys.path.insert(0, str(Path(__file__).parent))

BOUND_S = 60
"""How long a test waits for what must happen; only a failing one waits."""


class Running:
    """A discovery that runs: what it told, and the pauses that it asked for, which end when the test says so."""

    def __init__(self):
        self.told = []
        self.pauses = []
        self._more = asyncio.Condition()
        self._ends = asyncio.Semaphore(0)
        self.task = None

    def update(self, found):
        self.told.append(found)
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self):
        async with self._more:
            self._more.notify_all()

    async def pause(self, seconds):
        self.pauses.append(seconds)
        await self._notify()
        await self._ends.acquire()

    async def until(self, true):
        """Wait until `true()`; a discovery that has ended fails the test."""
        async with asyncio.timeout(BOUND_S), self._more:
            await self._more.wait_for(lambda: true() or self.task.done())
        assert true(), self.task

    async def next(self):
        """Let one pause end, and return what is told next."""
        count = len(self.told)
        self._ends.release()
        await self.until(lambda: len(self.told) > count)
        return self.told[count]

    async def first(self):
        await self.until(lambda: self.told)
        return self.told[0]

    def go_on(self):
        """Let one pause end."""
        self._ends.release()

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), self.task


@pytest.fixture
async def running():
    """Starts a discovery: `running(lambda pause: Discovery(..., pause=pause))`; all are stopped at the end."""
    started = []

    def start(make):
        run = Running()
        run.task = asyncio.ensure_future(make(run.pause).run(run.update))
        run.task.add_done_callback(lambda _: asyncio.ensure_future(run._notify()))
        started.append(run)
        return run

    yield start
    for each in started:
        if not each.task.done():
            await each.stop()


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


@pytest.fixture
async def name_server():
    async with serving(NameServer()) as server:
        yield server


@pytest.fixture
def resolver(name_server):
    """Makes resolvers that ask `name_server`."""
    made = dns.asyncresolver.Resolver(configure=False)
    made.nameservers = ["127.0.0.1"]
    made.port = name_server.port
    made.timeout = 1.0
    return made


@pytest.fixture
def rng():
    return random.Random(1)
