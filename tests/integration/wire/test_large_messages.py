"""What takes long is done beside the event loop, and what small requests need on it."""

import threading

import numpy as np
import pytest

from batcher.server import convert
from batcher.testing.messages import infer_request, output_arrays

ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
STEPS = ("parse", "to_request", "response_parts")


@pytest.fixture
def threads(monkeypatch):
    """The name of the thread that each step of a conversion ran on, in order."""
    seen = []

    def watched(step):
        real = getattr(convert, step)

        def call(*args, **kwargs):
            seen.append((step, threading.current_thread().name.partition("_")[0]))
            return real(*args, **kwargs)

        return call

    for step in STEPS:
        monkeypatch.setattr(convert, step, watched(step))
    return seen


@pytest.fixture
async def stub(start, hello, dial):
    application = await start(hello(batching={"max_batch_size": 8192}))
    return await dial(application.grpc.addresses[0], options=ANY_SIZE)


def rows_of(rows):
    return infer_request("hello", {"X": np.ones((rows, 4), np.float32)})


async def test_a_small_request_stays_on_the_loop(stub, threads):
    await stub.ModelInfer(rows_of(1))

    assert threads == [(step, "MainThread") for step in STEPS]


async def test_a_large_one_is_read_and_answered_beside_it(stub, threads):
    answer = await stub.ModelInfer(rows_of(70_000))

    assert output_arrays(answer)["Y"].shape == (70_000, 4)
    assert threads == [(step, "large-messages") for step in STEPS]


async def test_so_is_one_of_a_stream(stub, threads):
    call = stub.ModelStreamInfer()
    await call.write(rows_of(70_000))
    await call.done_writing()
    (answer,) = [answer async for answer in call]

    assert output_arrays(answer.infer_response)["Y"].shape == (70_000, 4)
    assert threads == [(step, "large-messages") for step in STEPS]


async def test_many_classes_are_found_beside_it(stub, threads):
    request = rows_of(2000)
    request.outputs.add(name="Y").parameters["classification"].int64_param = 4

    answer = await stub.ModelInfer(request)

    assert answer.outputs[0].shape == [2000, 4]
    assert threads[-1] == ("response_parts", "large-messages")
