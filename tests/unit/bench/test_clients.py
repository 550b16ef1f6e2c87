"""What sends the load, against a gRPC server."""

import asyncio
from contextlib import asynccontextmanager

import clients
import grpc
import pytest
from clients import Calls, GrpcCalls, Record
from payload import UNARY, Payload

from batcher.clock import SECOND

REQUEST, REPLY = b"request" * 10, b"reply"


@pytest.fixture
def serving():
    """An async context manager: a handler of calls in, the address of its server out."""

    @asynccontextmanager
    async def serve(handle, address="127.0.0.1:0", options=()):
        server = grpc.aio.server(options=options)
        service, method = UNARY.strip("/").split("/")
        handler = grpc.unary_unary_rpc_method_handler(handle)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        port = server.add_insecure_port(address)
        await server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    return serve


async def echo(request, context):
    return REPLY if request == REQUEST else b""


async def offer(load, address, count):
    """Sends `count` requests at once over two connections; returns the load's record."""
    await load.open(address, 2)
    for place in range(count):
        load.send(place, 0)
    await load.finish()


@pytest.mark.parametrize("client", [Calls, GrpcCalls])
async def test_every_call_is_answered(serving, client):
    record = Record()
    async with serving(echo) as address:
        await offer(client(Payload(REQUEST, len(REPLY), 0), record, None), address, 100)
    assert sorted(record.latency_ns) == list(range(100))
    assert not record.failed


@pytest.mark.parametrize("client", [Calls, GrpcCalls])
async def test_a_refusal_has_the_name_of_its_status(serving, client):
    async def refuse(_request, context):
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")

    record = Record()
    async with serving(refuse) as address:
        await offer(client(Payload(REQUEST, len(REPLY), 0), record, None), address, 3)
    assert record.failed == dict.fromkeys(range(3), "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("client", [Calls, GrpcCalls])
async def test_a_deadline_is_sent(serving, client):
    left = []

    async def tell(_request, context):
        left.append(context.time_remaining())
        return REPLY

    async with serving(tell) as address:
        await offer(client(Payload(REQUEST, len(REPLY), 0), Record(), 60 * SECOND), address, 1)
    # Some versions count from a clock of their own.
    assert 50 < left[0] < 61


async def test_a_reply_of_another_length_is_a_failure(serving):
    record = Record()
    async with serving(echo) as address:
        await offer(Calls(Payload(REQUEST, len(REPLY) + 1, 0), record, None), address, 1)
    assert record.failed == {0: "a reply of another length"}


async def test_it_waits_where_the_server_takes_few_calls_at_once(serving):
    record = Record()
    async with serving(echo, options=[("grpc.max_concurrent_streams", 2)]) as address:
        await offer(Calls(Payload(REQUEST, len(REPLY), 0), record, None), address, 50)
    assert (len(record.latency_ns), record.failed) == (50, {})


async def test_calls_of_one_moment_are_sent_in_one_write(serving, monkeypatch):
    record = Record()
    load = Calls(Payload(REQUEST, len(REPLY), 0), record, None)
    async with serving(echo) as address:
        await load.open(address, 1)
        transport = load._links[0]._transport
        write, sizes = transport.write, []
        monkeypatch.setattr(transport, "write", lambda data: (sizes.append(len(data)), write(data)))
        for place in range(5):
            load.send(place, 0)
        await load.finish()
    assert sizes[0] > 5 * len(REQUEST)
    assert len(record.latency_ns) == 5


async def test_it_knows_unix_sockets(serving, tmp_path):
    record = Record()
    async with serving(echo, f"unix:{tmp_path}/s") as address:
        await offer(Calls(Payload(REQUEST, len(REPLY), 0), record, None), address, 4)
    assert len(record.latency_ns) == 4


async def test_calls_without_an_answer_are_neither_answered_nor_failed(serving, monkeypatch):
    async def never(_request, _context):
        await asyncio.Event().wait()

    monkeypatch.setattr(clients, "PATIENCE_S", 0.01)
    record = Record()
    async with serving(never) as address:
        await offer(Calls(Payload(REQUEST, len(REPLY), 0), record, None), address, 2)
    assert record == Record()


async def test_calls_fail_where_the_server_closes(serving):
    entered = asyncio.Event()

    async def never(_request, _context):
        entered.set()
        await asyncio.Event().wait()

    record = Record()
    load = Calls(Payload(REQUEST, len(REPLY), 0), record, None)
    async with serving(never) as address:
        await load.open(address, 1)
        load.send(0, 0)
        await entered.wait()
    await load.finish()
    load.send(1, 0)
    assert set(record.failed) == {0, 1}


async def test_a_request_above_the_window_of_a_stream_is_refused(serving):
    async with serving(echo) as address:
        load = Calls(Payload(bytes(2**23), len(REPLY), 0), Record(), None)
        with pytest.raises(SystemExit, match="--client grpc"):
            await load.open(address, 1)
        await load.finish()
