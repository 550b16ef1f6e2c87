"""`/v1/live` over real sockets: its bounds, slow viewers, and the end of the server."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from batcher.runtime.health import HealthReport
from batcher.web import HttpServer, build_app, connection
from batcher.web.live import Feed, stream
from batcher.web.live.feed import MAX_VIEWERS

GET = b"GET /v1/live HTTP/1.1\r\nhost: test\r\n\r\n"


class View:
    size = 10

    def __init__(self):
        self.samples = 0

    def sample(self):
        self.samples += 1

    def now(self):
        return {"sample": self.samples, "much": "x" * self.size}

    def histories(self):
        return []


@pytest.fixture
def view():
    return View()


@pytest.fixture
async def feed(view):
    return Feed(view)


@pytest.fixture
async def server(feed):
    server = HttpServer(
        "127.0.0.1:0", build_app(CollectorRegistry(), lambda: HealthReport(ready=True), feed)
    )
    await server.start()
    yield server
    feed.close()
    await server.stop()


async def event(reader):
    """The next event: its kind and its values."""
    lines = []
    while True:
        line = (await reader.readuntil(b"\n")).strip()
        if line.startswith(b"event: "):
            lines = [line[7:].decode()]
        if line.startswith(b"data: "):
            return lines[0], json.loads(line[6:])


@pytest.fixture
async def look(server, connect):
    async def start():
        reader, writer = await connect(server.address)
        writer.write(GET)
        return reader, await reader.readuntil(b"\r\n\r\n")

    return start


async def test_a_viewer_gets_the_first_event_at_once_and_then_one_a_sample(feed, look):
    feed.sample()
    reader, head = await look()
    assert b"200 OK" in head
    assert b"text/event-stream" in head
    assert (await event(reader))[0] == "first"
    feed.sample()
    assert await event(reader) == ("second", {"sample": 2, "much": "x" * 10})


async def test_one_viewer_too_many_is_refused_until_another_goes(feed, look, server, fetch):
    for _ in range(MAX_VIEWERS):
        reader, _ = await look()
        await event(reader)
    answer = await fetch(server.address, "/v1/live")
    assert answer.startswith("HTTP/1.1 503")
    assert f"{MAX_VIEWERS} viewers are looking already" in answer
    assert (await fetch(server.address, "/healthz")).startswith("HTTP/1.1 200")


async def test_a_viewer_that_goes_makes_room(feed, server, connect):
    reader, writer = await connect(server.address)
    writer.write(GET)
    await event(reader)
    assert feed.viewers == 1
    writer.close()
    while feed.viewers:
        feed.sample()
        await asyncio.sleep(0)


async def test_a_viewer_that_does_not_read_is_closed_and_nothing_is_queued_for_it(
    feed, view, look, monkeypatch
):
    reader, _ = await look()
    await event(reader)
    monkeypatch.setattr(connection, "CLIENT_TIMEOUT_S", 0.0)
    view.size = 8 << 20  # more than the kernel buffers
    while feed.viewers:
        feed.sample()
        await asyncio.sleep(0)


async def test_the_server_stops_at_once_with_open_streams(feed, look, server):
    reader, _ = await look()
    await event(reader)
    feed.close()
    await server.stop()
    assert (await reader.read()).endswith(b"0\r\n\r\n")  # an orderly end, not a reset
    assert feed.viewers == 0


async def test_a_stream_ends_after_a_while(feed, look, monkeypatch):
    monkeypatch.setattr(stream, "MAX_VIEW_S", 0.0)
    reader, _ = await look()
    assert (await event(reader))[0] == "first"
    assert (await reader.readuntil(b"\r\n0\r\n\r\n")).endswith(b"0\r\n\r\n")
    assert feed.viewers == 0


async def test_while_the_server_stops_viewers_are_refused(feed, server, fetch):
    feed.close()
    assert "the server is stopping" in await fetch(server.address, "/v1/live")


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200"), ("POST", b"405")])
async def test_other_methods(feed, server, connect, method, status):
    reader, writer = await connect(server.address)
    writer.write(f"{method} /v1/live HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n".encode())
    assert (await reader.read()).split(b" ")[1] == status
    assert feed.viewers == 0
