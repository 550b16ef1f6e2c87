"""Probes and scrapes are answered whatever other clients do on the same listener."""

import asyncio

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HTTP/1.1\r\nhost:", 50 * b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"],
    ids=["silent", "half a request", "never reads"],
)
async def test_probes_are_answered_while_other_clients_misbehave(start, hello, fetch, scrape, sent):
    application = await start(hello(server={"http": "127.0.0.1:0"}))
    address = application.http.address
    host, _, port = address.rpartition(":")
    other_clients = []
    try:
        for _ in range(3):
            for _ in range(70):
                # A small limit: what is not read stays in the server's hands.
                reader, writer = await asyncio.open_connection(host, int(port), limit=1)
                writer.write(sent)
                other_clients.append((reader, writer))
            assert (await fetch(address, "/healthz"))[0] == 200
            assert (await fetch(address, "/readyz"))[0] == 200
        if b"metrics" not in sent:
            assert (await scrape(address)).sum("batcher_ready") == 1
    finally:
        for _, writer in other_clients:
            writer.close()
