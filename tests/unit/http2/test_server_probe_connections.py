"""Connections beyond `max_connections`: health probes are answered there, for a short time."""

import asyncio

import grpc
import pytest
from raw_http2 import all_closed, echo, unary, until

from batcher.clock import SECOND
from batcher.http2.connection_lifetime import PROBE_CONNECTION_NS
from batcher.http2.counters import EndReason
from batcher.http2.listener import PROBE_CONNECTIONS
from batcher.http2.sansio.frames import Frame

UNAVAILABLE = str(grpc.StatusCode.UNAVAILABLE.value[0])


async def watch(request, context):
    yield request
    await asyncio.Event().wait()


@pytest.fixture
async def full(serve, raw):
    """A server whose connections are taken: `server, address`."""
    server, address = await serve(
        {"max_connections": 1, "is_probe": lambda path: path in {"/s/Check", "/s/Watch"}},
        Check=unary(echo),
        Watch=grpc.unary_stream_rpc_method_handler(watch),
        Echo=unary(echo),
    )
    await (await raw(address)).ping()
    return server, address


def call(client, name, number=1):
    client.open(number, name)
    client.send(number, b"x")


async def test_several_probes_of_a_connection_are_answered(full, raw):
    _, address = full
    client = await raw(address)
    for number in (1, 3, 5):
        call(client, "Check", number)
        assert (await client.answer(number))[1] == b"\0\0\0\0\1x"


async def test_a_probe_under_way_is_answered_though_another_call_is_refused(full, raw):
    server, address = full
    client = await raw(address)
    for number, name in enumerate(["Check", "Echo", "Check"]):
        call(client, name, 2 * number + 1)
    found = await client.ended()
    answers = [client.decoder.decode(each[3]) for each in found if each[0] is Frame.HEADERS]
    statuses = [value for fields in answers for name, value in fields if name == "grpc-status"]
    assert sorted(statuses) == ["0", "0", UNAVAILABLE]
    assert Frame.GOAWAY in {each[0] for each in found}
    assert server.counters.ended[EndReason.TOO_MANY] == 1


async def test_a_probe_connection_is_closed_after_its_time(full, raw):
    server, address = full
    silent, watching = await raw(address), await raw(address)
    await silent.ping()
    call(watching, "Watch")
    await watching.until(Frame.DATA, 1)
    for _ in range(PROBE_CONNECTION_NS // SECOND - 1):
        server.sweep(SECOND)
    await silent.ping()
    server.sweep(SECOND)
    fields, _ = await watching.answer(1)
    assert fields["grpc-status"] == UNAVAILABLE
    assert "server.max_connections" in fields["grpc-message"]
    assert {each[0] for each in await silent.ended()} == {Frame.GOAWAY}
    await until(lambda: len(server.connections) == 1)
    assert server.counters.ended[EndReason.TOO_MANY] == 2


async def test_the_oldest_is_closed_for_the_next(full, raw):
    server, address = full
    probe_connections = [await raw(address) for _ in range(PROBE_CONNECTIONS)]
    for each in probe_connections:
        await each.ping()
    for number in (0, 1):
        late = await raw(address)
        call(late, "Check")
        assert (await late.answer(1))[1] == b"\0\0\0\0\1x"
        assert {each[0] for each in await probe_connections[number].ended()} == {Frame.GOAWAY}
        await probe_connections[number + 1].ping()
    await until(lambda: len(server.connections) == 1 + PROBE_CONNECTIONS)


async def test_closed_connections_do_not_count(full, raw):
    server, address = full
    for _ in range(PROBE_CONNECTIONS + 1):
        client = await raw(address)
        call(client, "Check")
        await client.answer(1)
        client.writer.close()
        await until(lambda: len(server.connections) == 1)
    assert server.counters.ended[EndReason.TOO_MANY] == 0


async def test_shutdown_closes_them(full, raw):
    server, address = full
    client = await raw(address)
    call(client, "Watch")
    await client.until(Frame.DATA, 1)
    await server.stop(0)
    await all_closed(server)


async def test_one_whose_call_was_refused_is_closed_before_the_oldest(full, raw):
    server, address = full
    probe_connections = [await raw(address) for _ in range(PROBE_CONNECTIONS)]
    for each in probe_connections:
        await each.ping()
    call(probe_connections[1], "Watch")
    await probe_connections[1].until(Frame.DATA, 1)
    call(probe_connections[1], "Echo", 3)
    await probe_connections[1].answer(3)  # it stays for what it watches
    await (await raw(address)).ping()
    assert (await probe_connections[1].answer(1))[0]["grpc-status"] == UNAVAILABLE
    await probe_connections[0].ping()
    await until(lambda: len(server.connections) == 1 + PROBE_CONNECTIONS)
