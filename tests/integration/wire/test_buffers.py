"""`server.max_buffered` over both transports, and the metrics of it."""

import asyncio

import grpc
import pytest
from grpc import aio

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
ROWS = 3500
"""56,000 bytes: two such requests fit."""


@pytest.fixture
async def held(start, hello, fakes, dial):
    """A server whose buffers fit two large requests, and whose executor waits: `application, stub, hang`."""
    server = {"max_message": "64KiB", "max_buffered": "128KiB", "http": "127.0.0.1:0"}
    batching = {"max_batch_size": 4096, "policy": "none"}
    document = hello(server=server, batching=batching, executor="fake", options={})
    application = await start(document)
    hang = fakes[0].hang_next()
    yield application, await dial(application.grpc.addresses[0]), hang
    hang.release()


def value(application, name):
    return application.registry.get_sample_value(name)


async def test_requests_beyond_it_are_refused_with_pushback(held, request_of, eventually):
    application, stub, hang = held
    calls = [asyncio.ensure_future(stub.ModelInfer(request_of(rows=ROWS))) for _ in range(2)]
    await eventually(lambda: application.batcher.unanswered == 2)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.ModelInfer(request_of(rows=ROWS))
    assert caught.value.code() is EXHAUSTED
    assert "server.max_buffered" in caught.value.details()
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert value(application, "batcher_buffer_refusals_total") == 1
    assert 112_000 < value(application, "batcher_buffered_bytes") <= 2**17
    assert value(application, "batcher_buffered_limit_bytes") == 2**17

    hang.release()
    for call in calls:
        assert (await call).model_name == "hello"
    await eventually(lambda: value(application, "batcher_buffered_bytes") == 0)


async def test_on_a_stream_they_are_refused_as_well(held, request_of, eventually, transport):
    application, stub, hang = held
    call = stub.ModelStreamInfer()
    for number in range(2):
        await call.write(request_of(rows=ROWS, id=str(number)))
    await eventually(lambda: application.batcher.unanswered == 2)
    other = stub.ModelStreamInfer()
    await other.write(request_of(rows=1300, id="small"))
    if transport == "grpcio":
        answer = await other.read()
        assert "server.max_buffered" in answer.error_message
        assert answer.infer_response.id == "small"
        other.cancel()
    else:  # there is no room to read it
        assert await other.code() is EXHAUSTED
        assert "server.max_buffered" in await other.details()

    hang.release()
    for number in range(2):
        assert (await call.read()).infer_response.id == str(number)
    call.cancel()
    await eventually(lambda: value(application, "batcher_buffered_bytes") == 0)


async def test_a_cancelled_stream_releases_its_buffers(held, request_of, eventually):
    application, stub, _ = held
    call = stub.ModelStreamInfer()
    await call.write(request_of(rows=ROWS))
    await eventually(lambda: application.batcher.unanswered == 1)
    call.cancel()
    await eventually(lambda: value(application, "batcher_buffered_bytes") == 0)


async def test_connections_are_counted_under_the_builtin_transport(
    held, request_of, transport, dial
):
    application, _, hang = held
    hang.release()
    stub = await dial(application.grpc.addresses[0])
    await stub.ModelInfer(request_of())
    found = {family.name: family.samples for family in application.registry.collect()}
    expected = 2 if transport == "builtin" else None
    events = {sample.labels["event"] for sample in found["batcher_connection_events"]}
    reasons = {sample.labels["reason"] for sample in found["batcher_connection_errors"]}
    if transport == "grpcio":
        assert events == reasons == set()
        return
    assert value(application, "batcher_connections") in {
        1,
        expected,
    }  # the first may not have dialled
    assert events == {"accepted", "refused", "evicted"}
    assert reasons >= {"protocol_error", "enhance_your_calm", "handshake", "internal"}
