"""Connections, servers and clients. Tests import helpers from `raw_http2`, which is put on the path here."""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

import pytest
from grpc import aio

from batcher.buffers import Buffers
from batcher.clock import SECOND
from batcher.http2.sansio.frames import PREFACE
from batcher.http2.server import Server
from batcher.http2.timeouts import Timeouts

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("raw_http2")

from raw_http2 import LIMIT, MAX_MESSAGE, Handlers, Harness, RawClient, until  # noqa: E402  # found by the path above


@pytest.fixture
def harness():
    return Harness()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr("batcher.http2.server_connection.LINGER_S", 0.1)
    monkeypatch.setattr("batcher.http2.server.GOAWAY_ACK_S", 0.1)


@pytest.fixture
async def problems():
    """Fails the test for errors that reach the event loop, as of tasks that nothing awaits."""
    found = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    assert found == []


@pytest.fixture
async def serve(problems):
    """Servers of methods, on loopback: `server, address`."""
    servers = []

    async def start(limits=None, **methods):
        server = Server(
            [Handlers(methods)],
            **{
                "max_message": MAX_MESSAGE,
                "max_streams": 10,
                "max_connections": 10,
                "max_headers": 16_384,
                "buffers": Buffers(2**30),
                "timeouts": Timeouts(),
                **(limits or {}),
            },
        )
        servers.append(server)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        await server.listen(sock, None)
        return server, f"127.0.0.1:{port}"

    yield start
    for each in servers:
        await each.stop(0)


@pytest.fixture
async def bounded(serve):
    """Servers whose buffers have room for `limit` bytes: `server, address`."""

    async def start(limit=LIMIT, **methods):
        limits = {"buffers": Buffers(limit), "timeouts": Timeouts(receive_ns=20 * SECOND)}
        return await serve(limits, **methods)

    return start


@pytest.fixture
def empty():
    """A function that returns when nothing is charged any more, with the most that was."""

    async def empty(server):
        await until(lambda: server.buffers.used == 0)
        assert not server.buffers._waiting
        for client in server.connections:
            assert (client.account.granted, len(client.account.claims)) == (0, 0)
            assert not client.receiving
            assert not client.sending
            assert client.http2.queued_bytes == 0
        return server.buffers.peak

    return empty


@pytest.fixture
async def dial():
    """Channels of grpc's own client."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(address, *options, **rest):
            sizes = [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ]
            channel = aio.insecure_channel(address, options=[*sizes, *options], **rest)
            return await stack.enter_async_context(channel)

        yield connect


@pytest.fixture
async def raw():
    """Clients that write frames by hand."""
    clients = []

    async def connect(address, *settings, preface=True, **rest):
        host, port = address.split(":") if address else (None, None)
        client = RawClient(*await asyncio.open_connection(host, port, **rest))
        clients.append(client)
        if preface:
            client.write(PREFACE, client.settings(*settings))
        return client

    yield connect
    for client in clients:
        client.writer.close()
