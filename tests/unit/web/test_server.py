from __future__ import annotations

import asyncio
import logging
import signal
import socket

import pytest
from prometheus_client import CollectorRegistry

from batcher.errors import ListenError
from batcher.runtime.health import HealthReport
from batcher.web import HttpServer, build_app

LOOPBACK = "127.0.0.1:0"


@pytest.fixture
def app():
    return build_app(CollectorRegistry(), lambda: HealthReport(ready=True))


@pytest.fixture
async def serve(app):
    """Starts servers and stops them when the test has ended."""
    servers = []

    async def start(address=LOOPBACK, app=app, **options):
        server = HttpServer(address, app, **options)
        await server.start()
        servers.append(server)
        return server

    yield start
    await asyncio.gather(*(server.stop() for server in servers))


@pytest.fixture
def socket_path(tmp_path):
    return tmp_path / "http.sock"


async def test_it_serves_on_the_port_that_the_system_chose(serve, fetch):
    server = await serve()
    assert not server.address.endswith(":0")
    assert (await fetch(server.address, "/healthz")).startswith("HTTP/1.1 200")


async def test_it_sends_no_server_header_and_no_access_log(serve, fetch, caplog):
    caplog.set_level(logging.INFO)
    server = await serve()
    head = (await fetch(server.address, "/healthz")).lower()
    assert "server:" not in head
    assert caplog.records == []


async def test_it_leaves_signals_alone(serve):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await serve()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_a_port_in_use_is_an_error_that_names_it(serve, app):
    server = await serve()
    with pytest.raises(ListenError, match=server.address):
        await HttpServer(server.address, app).start()


async def test_after_stop_the_address_is_free(app, fetch):
    first = HttpServer(LOOPBACK, app)
    await first.start()
    await fetch(first.address, "/healthz")
    await first.stop()
    with pytest.raises(ConnectionRefusedError):
        await fetch(first.address, "/healthz")
    socket.create_server(("127.0.0.1", int(first.address.rpartition(":")[2]))).close()


async def test_stop_closes_idle_connections(app, connect):
    server = HttpServer(LOOPBACK, app)
    await server.start()
    reader, writer = await connect(server.address)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
    await reader.readuntil(b"ok\n")
    await server.stop()
    assert await reader.read() == b""


async def test_stop_waits_for_an_answer_that_is_on_its_way(connect):
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        arrived.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    server = HttpServer(LOOPBACK, slow)
    await server.start()
    reader, writer = await connect(server.address)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    await arrived.wait()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    go_on.set()
    assert b"done" in await reader.read()
    await stopping


async def test_a_server_that_never_started_stops_at_once(app):
    await HttpServer(LOOPBACK, app).stop()


async def test_a_unix_socket_is_served_and_removed(app, fetch, socket_path):
    server = HttpServer(f"unix:{socket_path}", app)
    await server.start()
    assert (await fetch(server.address, "/readyz")).startswith("HTTP/1.1 200")
    await server.stop()
    assert not socket_path.exists()


async def test_a_path_that_is_not_a_socket_is_left_alone(app, socket_path):
    socket_path.touch()
    with pytest.raises(ListenError, match="not a socket"):
        await HttpServer(f"unix:{socket_path}", app).start()
    assert socket_path.is_file()
