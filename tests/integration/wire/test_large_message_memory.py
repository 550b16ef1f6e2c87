"""Of a large message nothing is left when its call has ended, however it ended and without the
collector: what is read and written on another thread is let go of there, too."""

import asyncio
import gc

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.server.messages.wire import WireRequest
from batcher.testing.messages import infer_request

# The server of grpcio holds the last call until the next one comes.
pytestmark = pytest.mark.parametrize("transport", ["builtin"])

ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
LARGE = np.ones((70_000, 4), np.float32)


KINDS = (WireRequest, InferenceRequest, InferenceReply)


def held():
    """What there is of requests and replies."""
    return [each for each in gc.get_objects() if isinstance(each, KINDS)]


@pytest.fixture
def before():
    """What other tests have left, with the collector off from now on."""
    gc.collect()
    gc.disable()
    yield held()
    gc.enable()


@pytest.fixture
async def stub(start, hello, fakes, dial, before):
    batching = {"policy": "none", "max_batch_size": 65_536}
    application = await start(hello(executor="fake", options={}, batching=batching))
    return await dial(application.grpc.addresses[0], options=ANY_SIZE)


@pytest.fixture
def nothing_left(eventually, before):
    async def check():
        await eventually(lambda: len(held()) == len(before), within_s=5)

    return check


async def test_answered(stub, nothing_left):
    await stub.ModelInfer(infer_request("hello", {"X": LARGE}))
    await nothing_left()


async def test_refused_as_it_is_read(stub, nothing_left):
    request = infer_request("hello", {"X": LARGE})
    request.inputs[0].datatype = "FP64"
    with pytest.raises(aio.AioRpcError, match="expected 2240000 bytes") as caught:
        await stub.ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    del caught
    await nothing_left()


async def test_refused_as_it_is_answered(stub, nothing_left):
    request = infer_request("hello", {"X": LARGE})
    request.outputs.add(name="Y").parameters["classification"].int64_param = 4
    with pytest.raises(aio.AioRpcError, match="got 70000 rows of 4") as caught:
        await stub.ModelInfer(request)
    del caught
    await nothing_left()


async def test_failed(stub, fakes, nothing_left):
    fakes[0].fail_next(ValueError("no"))
    with pytest.raises(aio.AioRpcError, match="no") as caught:
        await stub.ModelInfer(infer_request("hello", {"X": LARGE}))
    del caught
    await nothing_left()


async def test_cancelled(stub, fakes, nothing_left):
    hang = fakes[0].hang_next()
    call = stub.ModelInfer(infer_request("hello", {"X": LARGE}))
    waiting = asyncio.ensure_future(call.code())
    await asyncio.to_thread(hang.wait_entered)
    call.cancel()
    await waiting
    hang.release()
    await nothing_left()


async def test_on_a_stream(stub, nothing_left):
    call = stub.ModelStreamInfer()
    for datatype in ("FP32", "FP64"):
        request = infer_request("hello", {"X": LARGE})
        request.inputs[0].datatype = datatype
        await call.write(request)
    await call.done_writing()
    assert [bool(answer.error_message) async for answer in call] == [False, True]
    await nothing_left()
