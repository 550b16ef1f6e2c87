"""Two ways to send requests: to an application directly, and to a server over its socket."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


@pytest.fixture
def ask():
    """Calls an ASGI application, without a server in between."""

    async def call(app, path, *, method="GET", **headers):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
        }
        await app(scope, receive, send)
        return Answer(
            status=sent[0]["status"],
            headers={name.decode(): text.decode() for name, text in sent[0]["headers"]},
            body=b"".join(message.get("body", b"") for message in sent[1:]).decode(),
        )

    return call


async def _connect(address):
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port))


@pytest.fixture
async def connect():
    """Opens connections that the test need not close."""
    writers = []

    async def open_one(address):
        reader, writer = await _connect(address)
        writers.append(writer)
        return reader, writer

    yield open_one
    for writer in writers:
        writer.close()


@pytest.fixture
def fetch(connect):
    """Fetches one page over a connection of its own; the whole answer as text."""

    async def call(address, path):
        reader, writer = await connect(address)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n".encode())
        return (await reader.read()).decode()

    return call
