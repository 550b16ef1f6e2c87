"""Clients that are silent, slow or endless are disconnected, and health probes are answered all the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from prometheus_client import CollectorRegistry

import batcher.web.app
from batcher.runtime.health import HealthReport
from batcher.web import HttpServer, build_app, connection
from batcher.web.connection import MAX_HEADER_BYTES, MAX_UNREAD_BYTES
from batcher.web.server import MAX_CONNECTIONS

GET = "GET {} HTTP/1.1\r\nhost: test\r\n\r\n"
LARGE = b"x" * (8 * 1024**2)
"""Bytes: more than the kernel buffers for a client that does not read."""


@pytest.fixture
async def serve():
    """Starts servers and stops them when the test has ended."""
    servers = []

    async def start(app, **options):
        server = HttpServer("127.0.0.1:0", app, **options)
        await server.start()
        servers.append(server)
        return server.address

    yield start
    await asyncio.gather(*(server.stop() for server in servers))


@pytest.fixture
def pages():
    return build_app(CollectorRegistry(), lambda: HealthReport(ready=True))


@pytest.fixture
def no_timeout(monkeypatch):
    """The timeout ends as soon as the event loop has nothing else to do."""
    monkeypatch.setattr(connection, "CLIENT_TIMEOUT_S", 0.0)


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


def sent(path):
    return GET.format(path).encode()


async def ended(reader):
    """The rest of what comes until the connection ends, in order or not."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("beginning", [b"", b"G", b"GET /healthz HTTP/1.1\r\nhost:"])
async def test_a_new_connection_replaces_a_silent_one_at_the_limit(
    serve, pages, connect, fetch, beginning
):
    address = await serve(pages)
    silent = [await connect(address) for _ in range(MAX_CONNECTIONS)]
    for _, writer in silent:
        writer.write(beginning)
    for _ in range(3):
        assert (await fetch(address, "/healthz")).startswith("HTTP/1.1 200")
    assert await ended(silent[0][0]) == b"", "the connection that had waited longest was closed"


async def test_the_connection_that_has_waited_longest_is_closed(serve, pages, connect):
    address = await serve(pages, max_connections=2)
    first, second = await connect(address), await connect(address)
    first[1].write(sent("/healthz"))
    await first[0].readuntil(b"ok\n")
    third = await connect(address)
    third[1].write(sent("/healthz"))
    assert b"200" in await third[0].readline()
    assert await ended(second[0]) == b""
    first[1].write(sent("/healthz"))
    assert b"200" in await first[0].readline()


async def test_scrapers_that_never_read_do_not_keep_a_probe_out(serve, connect, fetch, pages):
    async def app(scope, receive, send):
        await (large if scope["path"] == "/metrics" else pages)(scope, receive, send)

    address = await serve(app, max_connections=4)
    for _ in range(8):
        _, writer = await connect(address)
        writer.write(2 * sent("/metrics"))
        assert (await fetch(address, "/healthz")).startswith("HTTP/1.1 200")


async def test_an_answer_that_is_not_read_in_time_is_dropped(serve, connect, monkeypatch):
    async def app(scope, receive, send):
        monkeypatch.setattr(connection, "CLIENT_TIMEOUT_S", 0.0)
        await large(scope, receive, send)

    address = await serve(app)
    reader, writer = await connect(address)
    writer.write(sent("/"))
    assert len(await ended(reader)) < len(LARGE)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET / HTTP/1.1\r\nhost: t",
        b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 9\r\n\r\n1",
    ],
)
async def test_a_request_that_is_not_complete_in_time_ends_its_connection(
    serve, pages, connect, no_timeout, beginning
):
    reader, writer = await connect(await serve(pages))
    writer.write(beginning)
    assert b"200" not in await ended(reader)


async def test_bytes_that_trickle_in_do_not_extend_the_timeout(serve, pages, connect, monkeypatch):
    monkeypatch.setattr(connection, "CLIENT_TIMEOUT_S", 0.05)
    reader, writer = await connect(await serve(pages))
    ending = asyncio.create_task(ended(reader))
    writer.write(b"GET / HTTP/1.1\r\n")
    while not ending.done():
        writer.write(b"a: b\r\n")
        await asyncio.sleep(0)
    assert await ending == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 2 * MAX_HEADER_BYTES + b" HTTP/1.1\r\nhost: t\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: t\r\n" + b"a:\r\n" * MAX_HEADER_BYTES + b"\r\n",
    ],
)
async def test_headers_over_their_bound_are_refused_also_in_one_piece(serve, pages, connect, head):
    reader, writer = await connect(await serve(pages))
    writer.write(head)
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")


async def test_an_endless_body_ends_its_connection(serve, pages, connect):
    reader, writer = await connect(await serve(pages))
    writer.write(b"POST /metrics HTTP/1.1\r\nhost: t\r\ncontent-length: 999999999\r\n\r\n")
    assert b"405" in await reader.readline()
    ending = asyncio.create_task(ended(reader))
    with contextlib.suppress(ConnectionError):
        for _ in range(2):
            writer.write(b"x" * MAX_UNREAD_BYTES)
            await writer.drain()
    assert b"200" not in await ending


async def test_a_client_that_has_closed_its_side_is_answered(serve, pages, connect):
    reader, writer = await connect(await serve(pages))
    writer.write(sent("/metrics"))
    writer.write_eof()
    assert (await ended(reader)).startswith(b"HTTP/1.1 200")


async def test_a_request_that_is_cut_short_ends_its_connection(serve, pages, connect):
    reader, writer = await connect(await serve(pages))
    writer.write(b"GET /healthz HTT")
    writer.write_eof()
    assert b"200" not in await ended(reader)


async def test_pipelined_requests_get_one_answer(serve, pages, connect):
    reader, writer = await connect(await serve(pages))
    writer.write(3 * sent("/healthz"))
    assert (await ended(reader)).count(b"HTTP/1.1 200") == 1


async def test_a_connection_is_reused_after_an_answer(serve, pages, connect):
    reader, writer = await connect(await serve(pages))
    for _ in range(3):
        writer.write(sent("/healthz"))
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")


async def test_a_new_connection_is_served_where_all_others_are_served(serve, pages, connect, fetch):
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def app(scope, receive, send):
        if scope["path"] == "/metrics":
            arrived.release()
            await go_on.wait()
        await pages(scope, receive, send)

    address = await serve(app, max_connections=2)
    waiting = [await connect(address) for _ in range(2)]
    for _, writer in waiting:
        writer.write(sent("/metrics"))
        await arrived.acquire()
    assert (await fetch(address, "/healthz")).startswith("HTTP/1.1 200")
    go_on.set()
    assert await ended(waiting[0][0]) == b""
    assert b"200" in await waiting[1][0].readline()


async def test_scrapes_beyond_the_limit_are_refused_and_probes_are_not(
    serve, connect, fetch, monkeypatch
):
    go_on = asyncio.Event()

    class Slow(batcher.web.app.Exposition):
        async def text(self, accept):
            self.waiting += 1
            await go_on.wait()
            return b"", "text/plain"

    monkeypatch.setattr(batcher.web.app, "Exposition", Slow)
    monkeypatch.setattr(batcher.web.app, "MAX_WAITING_SCRAPES", 2)
    address = await serve(build_app(CollectorRegistry(), lambda: HealthReport(ready=True)))
    waiting = [await connect(address) for _ in range(2)]
    for _, writer in waiting:
        writer.write(sent("/metrics"))
    while not (answer := await fetch(address, "/metrics")).startswith("HTTP/1.1 503"):
        pass
    assert "retry-after: 1" in answer
    assert (await fetch(address, "/healthz")).startswith("HTTP/1.1 200")
    assert (await fetch(address, "/readyz")).startswith("HTTP/1.1 200")
    go_on.set()
    for reader, _ in waiting:
        assert b"200" in await reader.readline()


async def test_invalid_requests_are_not_logged(serve, connect, pages, caplog):
    address = await serve(pages)
    for line in (b"PRI * HTTP/2.0\r\n\r\n", sent("/").replace(b"host", b"upgrade: x\r\nhost")):
        reader, writer = await connect(address)
        writer.write(line)
        await reader.readline()
    assert caplog.records == []
