"""Replicas that are none, or hostile."""

import asyncio

import grpc
import pytest
from grpc import aio

from batcher.protocol import LOAD_REPORTS, handlers
from batcher.scaler.discovery import Endpoint


@pytest.fixture
async def raw_peer():
    """A function that starts a listener of TCP with this handler; returns its address."""
    servers, tasks = [], []

    async def start(handler):
        async def serve(reader, writer):
            tasks.append(asyncio.current_task())
            try:
                await handler(reader, writer)
            except (OSError, asyncio.CancelledError):
                pass  # the scaler has left, or the test has ended
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        servers.append(server)
        host, port = server.sockets[0].getsockname()
        return f"{host}:{port}"

    yield start
    for server in servers:
        server.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    await asyncio.sleep(0)


async def silent(reader, _writer):
    await reader.read(-1)


async def byte_by_byte(reader, writer):
    """The beginning of HTTP/2, slower than any timeout."""
    for byte in b"\x00\x00\x00\x04\x00\x00\x00\x00\x00":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)
    await silent(reader, writer)


async def garbage(reader, writer):
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000)
    await silent(reader, writer)


@pytest.mark.parametrize("handler", [silent, byte_by_byte, garbage])
async def test_a_peer_that_speaks_no_grpc_is_unknown(fleet, raw_peer, handler):
    running, client, three = fleet
    address = await raw_peer(handler)
    running.listing.finds(*three, Endpoint(address))
    await client.until(client.value, 2.0)

    async def error():
        (peer,) = [each for each in running.fleet.replicas if each.endpoint.address == address]
        return peer.error != "" and peer.result != "believed"

    await client.until(error, True)
    assert await client.value() == 2.0, "the mean of the others stands for it"
    assert await client.active() is True


async def test_a_small_message_that_unpacks_to_a_large_one_is_too_large(scaled, keda_of):
    running = await scaled(poll={"interval": "100ms", "timeout": "20s"})
    client = await keda_of(running)

    async def bomb(_request, _context):
        return bytes(20_000_000)  # 20 kB on the wire

    server = aio.server(
        compression=grpc.Compression.Gzip, options=[("grpc.max_send_message_length", -1)]
    )
    methods = {"Get": bomb}
    server.add_generic_rpc_handlers((handlers(LOAD_REPORTS, methods, raw=methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        running.listing.finds(Endpoint(f"127.0.0.1:{port}"))

        async def result():
            return next((each.result for each in running.fleet.replicas), None)

        await client.until(result, "too_large")
        assert await client.active() is True
    finally:
        await server.stop(0)


async def test_replicas_that_come_and_go_leave_nothing_behind(fleet, replicas):
    running, client, three = fleet
    more = await replicas(10, ratio=0.1)
    tasks = len(asyncio.all_tasks())
    for _ in range(5):
        running.listing.finds(*more)
        await client.until(client.value, pytest.approx(1.0))
        running.listing.finds(*three)
        await client.until(client.value, 1.5)

    async def left():
        return len(asyncio.all_tasks()) <= tasks + 5 and not running.fleet._stopping

    await client.until(left, True)
    assert len(running.fleet.replicas) == 3


async def test_an_address_that_another_start_gets(fleet, replicas):
    running, client, three = fleet
    three[0].start_again()
    three[0].ratio = 0.0
    await client.until(client.value, 1.0)
    assert not running.fleet.counts.unbelieved


async def test_a_stalled_event_loop_makes_nothing_idle(scaled, keda_of, replicas):
    running = await scaled(idle_after="100ms", keep_last="200ms")
    (one,) = await replicas(1)
    running.listing.finds(one)
    client = await keda_of(running)
    await client.until(client.active, False)
    one.hangs = True
    running.forget(one.address)  # as if the loop had stood still for half a minute
    running.fleet._forget()
    assert await client.active() is True
    assert await client.value() is grpc.StatusCode.UNAVAILABLE
    one.hangs = False
    await client.until(client.active, False)
