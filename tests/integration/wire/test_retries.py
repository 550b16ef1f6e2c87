"""A client of grpcio with a retry policy obeys `grpc-retry-pushback-ms`, over both transports."""

import asyncio
import json

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.testing.messages import infer_request

EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
ATTEMPTS = 3
POLICY = {
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}],
            "retryPolicy": {
                "maxAttempts": ATTEMPTS,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.01s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED", "UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(POLICY)),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
]


@pytest.fixture
async def served(start, hello, dial):
    """A function that starts a server and returns (stub, count); `await count(...)` is how often a reason was counted."""

    async def serve(server=None, **model):
        application = await start(hello(server=server, **model))
        stub = await dial(application.grpc.addresses[0], options=OPTIONS)

        async def count(outcome, reason, model="hello", version="1"):
            await application.batcher.idle()  # a call ends for its caller before it does here
            labels = {"outcome": outcome, "reason": reason, "model": model, "version": version}
            return application.registry.get_sample_value("batcher_requests_total", labels)

        return stub, count

    return serve


async def refusal(call):
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    error = caught.value
    return error.code(), dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")


def rows(count):
    return infer_request("hello", {"X": np.ones((count, 4), np.float32)})


@pytest.mark.parametrize("style", ["standard", "triton"])
async def test_a_full_queue_is_tried_again_after_the_hint(
    served, fakes, request_of, eventually, style
):
    stub, count = await served(
        {"status_codes": style},
        executor="fake",
        options={},
        queue={"max_requests": 1, "timeout": "1h"},
        batching={"policy": "none"},
    )
    hang = fakes[0].hang_next()
    running = asyncio.ensure_future(stub.ModelInfer(request_of()))
    await asyncio.to_thread(hang.wait_entered)
    waiting = asyncio.ensure_future(stub.ModelInfer(request_of()))

    code, pushback = await refusal(stub.ModelInfer(request_of()))

    hang.release()
    await asyncio.gather(running, waiting)
    assert code is (UNAVAILABLE if style == "triton" else EXHAUSTED)
    assert int(pushback) > 0
    assert await count("rejected", "queue_requests") == ATTEMPTS


async def test_an_answer_that_is_too_large_is_not_tried_again(served):
    stub, count = await served({"max_message": "64KiB"}, batching={"max_batch_size": 8192})

    assert await refusal(stub.ModelInfer(rows(64 * 1024 // 16 - 10))) == (EXHAUSTED, "-1")

    assert await count("failed", "answer_too_large") == 1


async def test_a_request_whose_time_is_over_is_not_tried_again(served, fakes, request_of):
    """Triton says UNAVAILABLE for it, which is a code that callers retry."""
    stub, count = await served(
        {"status_codes": "triton"},
        executor="fake",
        options={},
        queue={"timeout": "20ms"},
        batching={"policy": "none"},
    )
    hang = fakes[0].hang_next()
    running = asyncio.ensure_future(stub.ModelInfer(request_of()))
    await asyncio.to_thread(hang.wait_entered)

    assert await refusal(stub.ModelInfer(request_of())) == (UNAVAILABLE, "-1")

    hang.release()
    await running
    assert await count("expired", "queue_timeout") == 1


class TestTheTransportsOwnRefusals:
    """Those of `builtin`: grpcio's server refuses what is too large by itself, and sends no hint."""

    @pytest.fixture
    def transport(self):
        return "builtin"

    async def test_a_message_that_is_too_large(self, served):
        stub, count = await served({"max_message": "64KiB"})

        assert await refusal(stub.ModelInfer(rows(5000))) == (EXHAUSTED, "-1")

        assert await count("rejected", "message_too_large", "", "") == 1

    async def test_metadata_that_is_too_large(self, served, request_of):
        stub, count = await served()
        metadata = [("x-batcher-tenant", "t" * 20_000)]

        code, pushback = await refusal(stub.ModelInfer(request_of(), metadata=metadata))

        assert (code, pushback) == (EXHAUSTED, "-1")
        assert await count("rejected", "metadata_too_large", "", "") == 1
