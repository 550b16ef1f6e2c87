"""Calls through nginx and HAProxy, as Debian ships them, with raised limits."""

import asyncio
import urllib.request

import grpc
import numpy as np
import pytest
from grpc import aio
from prometheus_client.parser import text_string_to_metric_families

from batcher import protocol
from batcher.testing.messages import infer_request, output_arrays

pytestmark = pytest.mark.conformance

LONG_S = 60
LARGE = 128 * 1024**2
MIB = 1024**2


@pytest.fixture
async def channel(address):
    async with connected(address) as made:
        yield made


@pytest.fixture
def stub(channel):
    return protocol.Stub(channel, protocol.INFERENCE)


def connected(address):
    """A channel with a connection of its own."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", LARGE),
        ("grpc.max_send_message_length", LARGE),
    ]
    return aio.insecure_channel(address, options=options)


def ask(value=1.0, *, model="hello", rows=1, columns=4, **fields):
    return infer_request(model, {"X": np.full((rows, columns), value, np.float32)}, **fields)


def answer(reply):
    """The one value of the answer's rows."""
    (value,) = np.unique(output_arrays(reply)["Y"])
    return value


async def answers(stub, model="hello"):
    """Check that a call is still answered."""
    return answer(await stub.ModelInfer(ask(21, model=model), timeout=LONG_S)) == 42


async def total(server, name, **labels):
    """The sum of the server's samples of that name that have these labels."""

    def read():
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as reply:
            return reply.read().decode()

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    samples = (sample for family in families for sample in family.samples)
    wanted = labels.items()
    return sum(s.value for s in samples if s.name == name and wanted <= s.labels.items())


async def until(condition):
    """Return when the coroutine returns true."""
    async with asyncio.timeout(LONG_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def test_consecutive_unary_calls(stub):
    for number in range(200):
        reply = await stub.ModelInfer(ask(number, id=str(number)), timeout=LONG_S)
        assert (reply.id, answer(reply)) == (str(number), 2 * number)


async def test_a_stream_is_answered_message_by_message(stub):
    call = stub.ModelStreamInfer(timeout=LONG_S)
    for number in range(50):
        await call.write(ask(number, id=str(number)))
        reply = (await call.read()).infer_response
        assert (reply.id, answer(reply)) == (str(number), 2 * number)
    await call.done_writing()
    assert await call.read() is aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_that_sends_ahead(stub):
    call = stub.ModelStreamInfer((ask(number) for number in range(200)), timeout=LONG_S)
    got = [answer(reply.infer_response) async for reply in call]
    assert got == [2.0 * number for number in range(200)]


async def test_a_status_with_its_text(stub):
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(ask(model="unknown"), timeout=LONG_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "unknown" in caught.value.details()
    assert await answers(stub)


async def test_a_cancelled_call_reaches_the_server(stub, server):
    async def cancelled():
        return await total(server, "batcher_requests_total", model="slow", outcome="cancelled")

    before = await cancelled()
    call = stub.ModelInfer(ask(model="slow"), timeout=LONG_S)
    await until(lambda: total(server, "batcher_executing_requests", model="slow"))
    assert call.cancel()

    async def one_more():
        return await cancelled() == before + 1

    await until(one_more)
    assert await answers(stub)


async def test_a_deadline_that_passes(stub):
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(ask(model="slow"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await answers(stub)
    assert await answers(stub, "slow")


@pytest.mark.parametrize("values", [MIB // 4, 15 * 1_000_000], ids=["1 MiB", "60 MB"])
async def test_large_messages_both_ways(stub, values):
    rows = -(-values // 1_000_000)
    tensor = np.zeros((rows, 1_000_000), np.float32)
    tensor.flat[:values] = np.arange(values, dtype=np.float32)
    reply = await stub.ModelInfer(infer_request("wide", {"X": tensor}), timeout=LONG_S)
    assert np.array_equal(output_arrays(reply)["Y"], 2 * tensor)


async def test_a_thousand_calls_at_once_on_one_connection(stub):
    replies = await asyncio.gather(
        *(stub.ModelInfer(ask(number), timeout=LONG_S) for number in range(1000))
    )
    assert [answer(reply) for reply in replies] == [2.0 * number for number in range(1000)]


async def test_five_hundred_connections_at_once(address):
    async def one(number):
        async with connected(address) as channel:
            stub = protocol.Stub(channel, protocol.INFERENCE)
            return answer(await stub.ModelInfer(ask(number), timeout=LONG_S))

    found = await asyncio.gather(*map(one, range(500)), return_exceptions=True)
    assert found == [2.0 * number for number in range(500)]
