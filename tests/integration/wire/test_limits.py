"""Each limit on what a caller may send: what the caller sees beyond it, and that others are served."""

import asyncio
import json

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.protocol import HEALTH, health, inference
from batcher.server.listeners import MAX_METADATA_BYTES
from batcher.testing.messages import infer_request, output_arrays

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
RETRIES = {
    "name": [{}],
    "retryPolicy": {
        "maxAttempts": 5,
        "initialBackoff": "0.05s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}


def rows_of(rows):
    return infer_request("hello", {"X": np.ones((rows, 4), np.float32)})


class TestMessages:
    @pytest.fixture
    async def address(self, start, hello):
        batching = {"max_batch_size": 8192}
        document = hello(server={"max_message": "64KiB"}, batching=batching)
        return (await start(document)).grpc.addresses[0]

    async def test_a_larger_one_is_refused_with_both_sizes(self, address, dial, request_of):
        stub = await dial(address, options=ANY_SIZE)
        large = rows_of(5000)

        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(large)

        assert caught.value.code() is EXHAUSTED
        assert f"larger than max ({large.ByteSize()} vs. {64 * 1024})" in caught.value.details()
        assert (await stub.ModelInfer(request_of())).model_name == "hello"

    async def test_a_larger_one_ends_its_stream_alone(self, address, dial, request_of):
        stub = await dial(address, options=ANY_SIZE)
        other, greedy = stub.ModelStreamInfer(), stub.ModelStreamInfer()
        for call in (other, greedy):
            await call.write(request_of(id="small"))
            assert (await call.read()).infer_response.id == "small"

        await greedy.write(rows_of(5000))
        assert await greedy.code() is EXHAUSTED
        assert "larger than max" in await greedy.details()

        await other.write(request_of(id="after"))
        assert (await other.read()).infer_response.id == "after"
        other.cancel()

    async def test_a_larger_answer_is_refused_with_both_sizes(self, address, dial, request_of):
        """A request just below the limit, whose answer is just above it."""
        stub = await dial(address, options=ANY_SIZE)
        rows = 64 * 1024 // 16 - 10

        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(rows_of(rows))

        assert caught.value.code() is EXHAUSTED
        assert "hello" in caught.value.details()
        assert "max_message" in caught.value.details()
        assert (await stub.ModelInfer(request_of())).model_name == "hello"

    async def test_a_larger_answer_on_a_stream_is_an_error_message(self, address, dial, request_of):
        stub = await dial(address, options=ANY_SIZE)
        call = stub.ModelStreamInfer()
        large = rows_of(64 * 1024 // 16 - 10)
        large.id = "large"
        await call.write(large)
        await call.write(request_of(id="small"))
        await call.done_writing()
        answers = [answer async for answer in call]

        assert await call.code() is grpc.StatusCode.OK
        assert [a.infer_response.id for a in answers] == ["large", "small"]
        assert "max_message" in answers[0].error_message
        assert not answers[1].error_message


class TestConnections:
    async def test_each_listener_takes_max_connections(self, start, hello, dial, request_of):
        server = {"max_connections": 2, "grpc": ["127.0.0.1:0", "127.0.0.1:0"]}
        application = await start(hello(server=server))
        first, second = application.grpc.addresses
        served = [await dial(first), await dial(first), await dial(second), await dial(second)]
        for stub in served:
            await stub.ModelInfer(request_of())

        for address in (first, second):
            beyond = await dial(address)
            with pytest.raises(aio.AioRpcError) as caught:
                await beyond.ModelInfer(request_of())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for stub in served:
            await stub.ModelInfer(request_of())

    async def test_a_closed_connection_can_be_replaced(self, start, hello, dial, request_of):
        application = await start(hello(server={"max_connections": 1}))
        address = application.grpc.addresses[0]
        async with aio.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            await channel.channel_ready()
            options = [
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.service_config", json.dumps({"methodConfig": [RETRIES]})),
            ]
            waiting = await dial(address, options=options)
            with pytest.raises(aio.AioRpcError):
                await (await dial(address)).ModelInfer(request_of())
        # The server may see a moment later that it was closed.
        call = waiting.ModelInfer(request_of(), wait_for_ready=True, timeout=20)
        assert (await call).model_name == "hello"

    async def test_probes_have_connections_of_their_own(
        self, start, hello, dial, request_of, transport
    ):
        application = await start(hello(server={"max_connections": 2}))
        address = application.grpc.addresses[0]
        open_streams = [(await dial(address)).ModelStreamInfer() for _ in range(2)]
        for stream in open_streams:
            await stream.write(request_of(id="open"))
            assert (await stream.read()).infer_response.id == "open"

        checks = await dial(address, HEALTH)
        if transport == "grpcio":
            with pytest.raises(aio.AioRpcError) as caught:
                await checks.Check(health.HealthCheckRequest())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        else:
            answer = await checks.Check(health.HealthCheckRequest())
            assert answer.status == health.HealthCheckResponse.SERVING
            with pytest.raises(aio.AioRpcError) as caught:
                await (await dial(address)).ModelInfer(request_of())
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "server.max_connections" in caught.value.details()
            assert await checks.Check(health.HealthCheckRequest()) == answer
        for stream in open_streams:
            await stream.write(request_of(id="still open"))
            assert (await stream.read()).infer_response.id == "still open"
            stream.cancel()

    async def test_silent_connections_count_too(self, start, hello, dial, request_of):
        application = await start(hello(server={"max_connections": 1}))
        host, _, port = application.grpc.addresses[0].partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.readexactly(9)  # the server's settings: the connection is taken

        with pytest.raises(aio.AioRpcError) as caught:
            await (await dial(application.grpc.addresses[0])).ModelInfer(request_of())

        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        writer.close()
        await writer.wait_closed()


class TestStreams:
    async def test_calls_beyond_the_limit_of_a_connection_wait_in_the_client(
        self, start, hello, fakes, dial, request_of
    ):
        document = hello(server={"max_concurrent_streams": 2}, executor="fake", options={})
        application = await start(document)
        hang = fakes[0].hang_next()
        stub = await dial(application.grpc.addresses[0])
        await stub.ServerLive(inference.ServerLiveRequest())  # by now the client knows the limit
        calls = [stub.ModelInfer(request_of(n)) for n in range(5)]
        await asyncio.to_thread(hang.wait_entered)

        # Another connection has its own limit.
        other = await dial(application.grpc.addresses[0])
        await other.ServerLive(inference.ServerLiveRequest())
        assert application.batcher.unanswered <= 2

        hang.release()
        # A call that begins in the moment in which another ends may still be refused.
        replies = await asyncio.gather(*calls, return_exceptions=True)
        refused = [reply for reply in replies if isinstance(reply, aio.AioRpcError)]
        assert len(refused) <= len(calls) - 2
        assert all(error.code() is grpc.StatusCode.UNAVAILABLE for error in refused)
        for n, reply in enumerate(replies):
            if reply not in refused:
                assert output_arrays(reply)["Y"].max() == 2 * n

    async def test_reading_pauses_at_the_limit_in_flight_of_a_stream(
        self, start, hello, fakes, dial, request_of
    ):
        document = hello(server={"max_in_flight_per_stream": 3}, executor="fake", options={})
        application = await start(document)
        hang = fakes[0].hang_next()
        stub = await dial(application.grpc.addresses[0])
        call = stub.ModelStreamInfer()
        for n in range(10):
            await call.write(request_of(n, id=str(n)))
        await call.done_writing()
        await asyncio.to_thread(hang.wait_entered)

        # A whole exchange later, what the server wanted to read has been read.
        await stub.ServerLive(inference.ServerLiveRequest())
        assert application.batcher.unanswered == 3

        hang.release()
        answers = [answer.infer_response.id async for answer in call]
        assert answers == [str(n) for n in range(10)]


class TestMetadata:
    async def test_too_much_metadata_is_refused(self, start, hello, dial, request_of):
        application = await start(hello())
        stub = await dial(application.grpc.addresses[0])
        with pytest.raises(aio.AioRpcError) as caught:
            await stub.ModelInfer(
                request_of(), metadata=[("x-batcher-tenant", "t" * 2 * MAX_METADATA_BYTES)]
            )
        assert caught.value.code() is EXHAUSTED
        assert "metadata size" in caught.value.details()
        assert (await stub.ModelInfer(request_of())).model_name == "hello"


@pytest.mark.slow
async def test_thousands_of_calls_at_once_are_all_answered(start, hello, dial, request_of):
    batching = {"max_batch_size": 4096}
    document = hello(batching=batching, queue={"max_requests": 1500})
    stub = await dial((await start(document)).grpc.addresses[0])
    calls = [stub.ModelInfer(request_of()) for _ in range(1500)]
    assert {answer.model_name for answer in await asyncio.gather(*calls)} == {"hello"}
