"""What a request can make its reader cost is bounded, and what is large but allowed is read."""

import struct

import pytest
from infer_messages import message, read, wire_input

from batcher.errors import InvalidRequest
from batcher.protocol import inference
from batcher.server.messages import wire


def with_text(field):
    return inference.ModelInferRequest(**{"model_name": "m", field: "x" * (wire.MAX_TEXT + 1)})


def with_parameters(value, count=1):
    request = message()
    for number in range(count):
        request.parameters[str(number)].string_param = value
    return request


def large_input(parameters=(), **fields):
    made = inference.ModelInferRequest.InferInputTensor(**wire_input("x" * 70_000, **fields))
    for name in parameters:
        made.parameters[name].bool_param = True
    return made


BEYOND = {
    "a long name": (
        with_text("model_name"),
        "the model's name may take at most 4096 bytes, got 4097",
    ),
    "a long version": (with_text("model_version"), "the model's version may take at most 4096"),
    "a long id": (with_text("id"), "the id may take at most 4096 bytes, got 4097"),
    "a long parameter": (
        with_parameters("x" * 65_536),
        "a parameter may take at most 65536 bytes, got",
    ),
    "long parameters": (
        with_parameters("x" * 1000, count=66),
        "the parameters of one request may take at most 65536 bytes, got",
    ),
    "many parameters": (
        message(*[wire_input()] * 4000, outputs=[{"name": "Y"}] * 97),
        "may have at most 4096 inputs, outputs, raw contents and parameters together, got more",
    ),
    "a long output": (
        message(outputs=[{"name": "Y" * 65_536}]),
        "a requested output may take at most 65536 bytes, got",
    ),
    "long outputs": (
        message(outputs=[{"name": "Y" * 33_000}] * 2),
        "the requested outputs of one request may take at most 65536 bytes, got 66",
    ),
    "typed contents": (
        message(wire_input(datatype="INT8", shape=[2**22], int_contents=[1] * 2**22)),
        "may take at most 4194304 bytes besides raw_input_contents, got 41943.*send larger",
    ),
    "typed contents together": (
        message(*[wire_input(f"{n}", "INT8", [2**20], int_contents=[1] * 2**20) for n in range(4)]),
        "may take at most 4194304 bytes besides raw_input_contents, got 41943",
    ),
    "an input of many fields": (
        message(large_input(map(str, range(4096)))),
        "an input may have at most 4096 fields and parameters, got more",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_would_take_long_to_read_is_refused(case):
    request, text = BEYOND[case]

    with pytest.raises(InvalidRequest, match=text):
        read(request)


def test_a_large_input_is_read_like_a_small_one():
    values = list(range(100_000))
    request = message(large_input(datatype="INT32", shape=(2, 50_000), int_contents=values))

    (tensor,) = read(request).inputs.values()

    assert tensor.array.ravel().tolist() == values


def test_an_element_of_megabytes_is_read_whole():
    content = b"\x01\x02" * 600_000
    raw = struct.pack("<I", len(content)) + content

    array = read(message(wire_input(datatype="BYTES", shape=[1]), raw=[raw])).inputs["X"].array

    assert array[0] == content
