"""Large messages are read and made off the event loop, small ones on it."""

import asyncio
import struct
import threading

import grpc
import numpy as np
import pytest
from grpc import aio

from batcher import protocol
from batcher.protocol import inference
from batcher.protocol.wire_format import encode_length
from batcher.server import messages
from batcher.server.messages.classification import MAX_CLASSES
from batcher.server.messages.requests import MAX_BYTES_ELEMENTS
from batcher.server.messages.wire import MAX_FIELDS, MAX_NESTED, MAX_PARAMETERS
from batcher.testing.messages import infer_request, output_arrays

ANY_SIZE = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
STEPS = ("parse", "to_request", "response_parts")


@pytest.fixture
def threads(monkeypatch):
    """The name of the thread that each step of a conversion ran on, in order."""
    seen = []

    def watched(step):
        real = getattr(messages, step)

        def call(*args, **kwargs):
            seen.append((step, threading.current_thread().name.partition("_")[0]))
            return real(*args, **kwargs)

        return call

    for step in STEPS:
        monkeypatch.setattr(messages, step, watched(step))
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


async def test_a_large_one_is_read_and_answered_off_the_loop(stub, threads):
    rows = np.arange(280_000, dtype=np.float32).reshape(-1, 4)

    answer = await stub.ModelInfer(infer_request("hello", {"X": rows}))

    assert np.array_equal(output_arrays(answer)["Y"], 2 * rows)  # joined from nine batches
    assert threads == [(step, "large-messages") for step in STEPS]


async def test_so_is_one_of_a_stream(stub, threads):
    call = stub.ModelStreamInfer()
    await call.write(rows_of(70_000))
    await call.done_writing()
    (answer,) = [answer async for answer in call]

    assert output_arrays(answer.infer_response)["Y"].shape == (70_000, 4)
    assert threads == [(step, "large-messages") for step in STEPS]


async def test_many_classes_are_found_off_the_loop(stub, threads):
    request = rows_of(2000)
    request.outputs.add(name="Y").parameters["classification"].int64_param = 4

    answer = await stub.ModelInfer(request)

    assert answer.outputs[0].shape == [2000, 4]
    assert threads[-1] == ("response_parts", "large-messages")


ROOM = 1024
"""Bytes of a message for all but its tensors."""

_TYPED = {
    "BOOL": ("bool_contents", True, 1),
    "INT8": ("int_contents", 1, 1),
    "INT32": ("int_contents", 1, 1),
    "INT64": ("int64_contents", 1, 1),
    "UINT8": ("uint_contents", 1, 1),
    "UINT32": ("uint_contents", 1, 1),
    "UINT64": ("uint64_contents", 1, 1),
    "FP32": ("fp32_contents", 0.5, 4),
    "FP64": ("fp64_contents", 0.5, 8),
    "BYTES": ("bytes_contents", b"", 2),
}
"""Datatype -> the field of its typed contents, an element, and the bytes that one takes there."""


def largest_requests(model, max_message, columns):
    """Kind -> a serialized `ModelInferRequest` of about `max_message` bytes, or at another bound.

    `model` has one input, `X`, FP32 of `[-1, columns]`, and the output `Y` of the same shape: the
    kinds named `served` are answered if the model takes so many rows; all others are read and then
    refused with INVALID_ARGUMENT.
    """
    kinds = {
        "served: raw FP32": lambda: _rows(model, max_message, columns),
        "served: classification": lambda: _classified(model, max_message, columns),
        "raw BOOL": lambda: _raw(model, "BOOL", bytes(max_message - ROOM), max_message - ROOM),
        "raw BYTES, one element": lambda: _one_element(model, max_message),
        "raw BYTES, many elements": lambda: _many_elements(model, max_message),
        "parameters": lambda: _parameters(model),
        "inputs": lambda: inference.ModelInferRequest(
            model_name=model, inputs=[{"name": str(n)} for n in range(MAX_FIELDS - 1)]
        ),
        "parameters of an input": lambda: _parameters_of_an_input(model),
    }
    made = {kind: make().SerializeToString() for kind, make in kinds.items()}
    for datatype in _TYPED:
        made[f"typed {datatype}"] = _typed(model, datatype).SerializeToString()
    unknown = b"\x7a" + encode_length(max_message - ROOM) + bytes(max_message - ROOM)
    made["an unknown field"] = (
        inference.ModelInferRequest(model_name=model).SerializeToString() + unknown
    )
    made["many unknown fields"] = b"\x7a\x00" * (max_message // 2)
    made["many empty inputs"] = b"\x2a\x00" * (max_message // 2)
    return made


def _raw(model, datatype, content, elements):
    return inference.ModelInferRequest(
        model_name=model,
        inputs=[{"name": "X", "datatype": datatype, "shape": [1, elements]}],
        raw_input_contents=[content],
    )


def _rows(model, max_message, columns):
    rows = (max_message - ROOM) // (4 * columns + 8)  # an answer may say more of each row
    array = np.random.default_rng(0).random((rows, columns), np.float32)
    request = _raw(model, "FP32", array.tobytes(), columns)
    request.inputs[0].shape[0] = rows
    return request


def _classified(model, max_message, columns):
    request = _rows(model, max_message, columns)
    rows = request.inputs[0].shape[0]
    request.outputs.add(name="Y").parameters["classification"].int64_param = MAX_CLASSES // rows
    return request


def _one_element(model, max_message):
    size = max_message - ROOM
    return _raw(model, "BYTES", struct.pack("<I", size) + bytes(size), 1)


def _many_elements(model, max_message):
    size = (max_message - ROOM) // MAX_BYTES_ELEMENTS - 4
    content = (struct.pack("<I", size) + bytes(size)) * MAX_BYTES_ELEMENTS
    return _raw(model, "BYTES", content, MAX_BYTES_ELEMENTS)


def _typed(model, datatype):
    field, value, nbytes = _TYPED[datatype]
    elements = (MAX_NESTED - ROOM) // nbytes
    if datatype == "BYTES":
        elements = min(elements, MAX_BYTES_ELEMENTS)
    return inference.ModelInferRequest(
        model_name=model,
        inputs=[
            {
                "name": "X",
                "datatype": datatype,
                "shape": [1, elements],
                "contents": {field: [value] * elements},
            }
        ],
    )


def _names(most):
    """Names of parameters that take at most so many bytes with their tags and values."""
    left = most
    for number in range(MAX_FIELDS - ROOM):
        name = f"parameter {number}"
        left -= len(name) + 10
        if left < 0:
            return
        yield name


def _parameters(model):
    request = inference.ModelInferRequest(model_name=model)
    for name in _names(MAX_PARAMETERS):
        request.parameters[name].bool_param = True
    return request


def _parameters_of_an_input(model):
    request = inference.ModelInferRequest(model_name=model, inputs=[{"name": "X" * MAX_PARAMETERS}])
    for name in _names(MAX_NESTED - 2 * MAX_PARAMETERS):
        request.inputs[0].parameters[name].string_param = "x" * ROOM
    return request


MAX_MESSAGE = 64 * 1024**2
GENEROUS = 5
"""Stalls that a machine may make by itself while the tests share it with others. Before large
messages were bounded and taken off the loop, most of the kinds made one or more each."""


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["builtin"])  # grpcio copies each message on the loop
async def test_the_largest_message_of_every_kind_delays_no_other_call(serve, hello, dial, scrape):
    columns = 1024
    options = {"columns": columns, "base": "0ms"}
    server = serve(hello(options=options, batching={"max_batch_size": 32_768}))
    other = await dial(server.grpc)
    answered = 0

    small = infer_request("hello", {"X": np.ones((1, columns), np.float32)})

    async def ask():
        nonlocal answered
        while True:
            await other.ModelInfer(small)
            answered += 1

    others = asyncio.create_task(ask())
    path = protocol.methods(protocol.INFERENCE)["ModelInfer"].path
    async with aio.insecure_channel(server.grpc, options=ANY_SIZE) as channel:
        call = channel.unary_unary(path)
        for kind, message in largest_requests("hello", MAX_MESSAGE, columns).items():
            before = answered
            try:
                await call(message)
                code = grpc.StatusCode.OK
            except aio.AioRpcError as error:
                code = error.code()
            served = kind.startswith("served")
            assert code is (grpc.StatusCode.OK if served else grpc.StatusCode.INVALID_ARGUMENT), (
                kind
            )
            assert answered > before or len(message) < MAX_MESSAGE // 2, kind
    others.cancel()

    assert (await scrape(server.http)).sum("batcher_event_loop_stalls_total") <= GENEROUS
