"""Requests from the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer_messages import message, one_raw_input, read, wire_input

from batcher.errors import InvalidRequest, NotSupported
from batcher.protocol import inference
from batcher.server import messages
from batcher.server.messages import requests
from batcher.tensors import DTYPES


def test_a_plain_request():
    values = np.array([[1.5, -2.0]], np.float32)

    request = read(
        message(wire_input(), raw=[values.tobytes()], model_version="3", id="7"),
        arrival_ns=5,
        deadline_ns=9,
        tenant="gold",
        priority=2,
    )

    assert (request.model, request.version, request.id) == ("m", "3", "7")
    assert (request.arrival_ns, request.deadline_ns) == (5, 9)
    assert (request.tenant, request.priority) == ("gold", 2)
    assert request.outputs is None
    assert request.parameters is None
    assert request.inputs["X"].datatype == "FP32"
    np.testing.assert_array_equal(request.inputs["X"].array, values)


def test_raw_inputs_are_views_of_the_message():
    data = one_raw_input().SerializeToString()

    array = messages.to_request(messages.parse(data), arrival_ns=1).inputs["X"].array

    assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_raw_contents_belong_to_the_inputs_in_order():
    first, second = np.arange(2, dtype=np.int64), np.arange(3, dtype=np.uint8)

    request = read(
        message(
            wire_input("A", "INT64", (2,)),
            wire_input("B", "UINT8", (3,)),
            raw=[first.tobytes(), second.tobytes()],
        )
    )

    np.testing.assert_array_equal(request.inputs["A"].array, first)
    np.testing.assert_array_equal(request.inputs["B"].array, second)


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-32768, 32767]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [0.5, -2.0]),
        ("FP64", "fp64_contents", [0.1, -2.0]),
        ("BYTES", "bytes_contents", [b"", b"\x00\xff"]),
    ],
)
def test_typed_contents(datatype, field, values):
    tensor = read(message(wire_input("X", datatype, (1, 2), **{field: values}))).inputs["X"]

    assert tensor.datatype == datatype
    assert tensor.array.dtype == DTYPES[datatype]
    assert tensor.array.tolist() == [values]


@pytest.mark.parametrize("contents", [{}, {"fp32_contents": []}])
def test_zero_rows_need_no_contents(contents):
    assert read(message(wire_input(shape=(0, 2), **contents))).inputs["X"].array.shape == (0, 2)


MALFORMED = {
    "raw too short": (message(wire_input(), raw=[bytes(7)]), "expected 8 bytes.*got 7"),
    "raw too long": (message(wire_input(), raw=[bytes(9)]), "expected 8 bytes.*got 9"),
    "raw missing": (
        message(wire_input("A"), wire_input("X"), raw=[bytes(8)]),
        "expected raw_input_contents for each of 2 inputs, got 1",
    ),
    "raw superfluous": (
        message(wire_input(), raw=[bytes(8), b""]),
        "expected raw_input_contents for each of 1 inputs, got 2",
    ),
    "no contents at all": (message(wire_input()), "no contents"),
    "raw and typed mixed": (
        message(wire_input(fp32_contents=[1, 2]), raw=[bytes(8)]),
        "has contents and the request has raw_input_contents",
    ),
    "typed too short": (message(wire_input(fp32_contents=[1])), "expected 2 elements.*got 1"),
    "typed too long": (message(wire_input(fp32_contents=[1] * 3)), "expected 2 elements.*got 3"),
    "typed in the wrong field": (
        message(wire_input(int_contents=[1, 2])),
        "FP32 elements belong in fp32_contents, got int_contents",
    ),
    "typed in two fields": (
        message(wire_input(fp32_contents=[1, 2], int_contents=[1])),
        "got int_contents",
    ),
    "typed out of range": (
        message(wire_input(datatype="INT8", int_contents=[1, 128])),
        "INT8 elements must be -128 to 127, got 1 to 128",
    ),
    "typed FP16": (message(wire_input(datatype="FP16", fp32_contents=[1, 2])), "FP16 has no typed"),
    "typed BF16": (message(wire_input(datatype="BF16", fp32_contents=[1, 2])), "BF16 has no typed"),
    "raw BOOL of 2": (message(wire_input(datatype="BOOL"), raw=[b"\x01\x02"]), "0 or 1"),
    "unknown datatype": (message(wire_input(datatype="FP8"), raw=[b""]), "got 'FP8'"),
    "no datatype": (message(wire_input(datatype=""), raw=[b""]), "got ''"),
    "negative axis": (
        message(wire_input(shape=(1, -1)), raw=[b""]),
        r"negative axes, got \[1, -1\]",
    ),
    "too many axes": (
        message(wire_input(shape=[1] * 33), raw=[bytes(4)]),
        "at most 32 axes, got 33",
    ),
    "too many elements": (message(wire_input(shape=[2**62] * 2), raw=[b""]), "too large for any"),
    "too many of nothing": (
        message(wire_input(shape=[0, 2**62, 2**62]), raw=[b""]),
        "too large for",
    ),
    "many BYTES": (
        message(wire_input(datatype="BYTES", shape=[2**17]), raw=[bytes(8)]),
        "at least 524288 bytes.*got 8 bytes",
    ),
    "BYTES that end early": (
        message(wire_input(datatype="BYTES"), raw=[b"\x02\x00\x00\x00ab\x01\x00"]),
        r"\(8 bytes\) end after 1 of 2",
    ),
    "BYTES longer than the rest": (
        message(wire_input(datatype="BYTES"), raw=[b"\x00\x00\x00\x00\x05\x00\x00\x00a"]),
        "element 1 has the length 5, but only 1",
    ),
    "BYTES left over": (
        message(wire_input(datatype="BYTES"), raw=[bytes(9)]),
        "1 of 9 bytes of raw contents are left",
    ),
    "too many BYTES": (
        message(
            wire_input("A", datatype="BYTES", shape=[100_000]),
            wire_input(datatype="BYTES", shape=[31_073]),
            raw=[bytes(400_000), bytes(4 * 31_073)],
        ),
        "at most 131072 BYTES elements in one request, got 131073",
    ),
    "input twice": (message(wire_input(), wire_input(), raw=[bytes(8)] * 2), "'X' is given twice"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_inputs_are_named(case):
    request, text = MALFORMED[case]

    with pytest.raises(InvalidRequest, match=text) as caught:
        read(request)

    assert str(caught.value).startswith("model 'm': ")
    assert "raw_input_contents for each" in str(caught.value) or "input 'X'" in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (inference.ModelInferRequest(inputs=[wire_input()]), "names no model"),
        (message(wire_input(name=""), raw=[bytes(8)]), "an input has no name"),
        (one_raw_input(outputs=[{}]), "a requested output has no name"),
        (one_raw_input(outputs=[{"name": "Y"}, {"name": "Y"}]), "'Y' is requested twice"),
    ],
)
def test_what_every_request_needs(request_, text):
    with pytest.raises(InvalidRequest, match=text):
        read(request_)


@pytest.mark.parametrize("tag", [b"\x22", b"\x2a", b"\x32"])
def test_corrupt_nested_messages_are_invalid(tag):
    data = message(wire_input(fp32_contents=[1, 2])).SerializeToString() + tag + b"\x01\x0a"

    with pytest.raises(InvalidRequest, match=r"model 'm': .* not valid protobuf"):
        messages.to_request(messages.parse(data), arrival_ns=1)


def test_requested_outputs_and_classification():
    request = one_raw_input(outputs=[{"name": "Y"}, {"name": "Z"}])
    request.outputs[1].parameters["classification"].int64_param = 3

    parsed = read(request)

    assert parsed.outputs == ("Y", "Z")
    assert parsed.classifications == {"Z": 3}


@pytest.mark.parametrize(
    ("choice", "value", "text"),
    [
        ("int64_param", 0, "expected more than 0, got 0"),
        ("string_param", "3", "expected int64_param, got string_param"),
    ],
)
def test_classification_is_a_positive_integer(choice, value, text):
    request = one_raw_input(outputs=[{"name": "Y"}])
    setattr(request.outputs[0].parameters["classification"], choice, value)

    with pytest.raises(InvalidRequest, match=f"output 'Y': parameter 'classification': {text}"):
        read(request)


@pytest.mark.parametrize("place", ["inputs", "outputs"])
def test_shared_memory_is_refused(place):
    request = one_raw_input(outputs=[{"name": "X"}])
    getattr(request, place)[0].parameters["shared_memory_region"].string_param = "r"

    with pytest.raises(NotSupported, match=r"model 'm': .*put 'X': .*shared memory"):
        read(request)


@pytest.mark.parametrize("place", [0, 1])
def test_shared_memory_beside_raw_contents_is_the_reason(place):
    """A client that sends one input in shared memory sends raw contents for the others alone."""
    request = message(wire_input("A"), wire_input("B"), raw=[bytes(8)])
    request.inputs[place].parameters["shared_memory_region"].string_param = "r"

    with pytest.raises(NotSupported, match=f"input '{'AB'[place]}': .*shared memory"):
        read(request)


@pytest.mark.parametrize("name", ["x" * 60_000, "x" * 101])
def test_what_is_wrong_is_said_after_a_long_name_too(name):
    with pytest.raises(InvalidRequest) as caught:
        read(message(wire_input(name, datatype="FP8"), raw=[bytes(8)]))

    assert f"input '{'x' * 97}...': expected a datatype of BOOL" in str(caught.value)


def test_empty_contents_beside_raw_ones_are_nothing():
    request = one_raw_input()
    request.inputs[0].contents.SetInParent()

    assert read(request).inputs["X"].array.shape == (1, 2)


def test_a_request_without_inputs_is_for_the_model_to_judge():
    assert read(message()).inputs == {}


def test_remembered_headers_are_bounded():
    for number in range(requests.REMEMBERED_HEADERS + 10):
        read(message(wire_input(f"input {number}"), raw=[bytes(8)]))

    assert len(requests._headers) <= requests.REMEMBERED_HEADERS


def test_long_headers_are_not_remembered():
    name = "n" * requests.REMEMBERED_HEADER_BYTES

    assert name in read(message(wire_input(name), raw=[bytes(8)])).inputs
    assert not any(header.name == name for header in requests._headers.values())


def rich():
    request = one_raw_input(outputs=[{"name": "Y"}], id="1")
    request.inputs.add(name="B", datatype="BYTES", shape=[2])
    request.raw_input_contents.append(b"\x01\x00\x00\x00a\x00\x00\x00\x00")
    request.parameters["priority"].uint64_param = 1
    request.outputs[0].parameters["classification"].int64_param = 1
    return request.SerializeToString()


@given(
    st.lists(
        st.tuples(st.integers(0, len(rich()) - 1), st.integers(0, 255)), min_size=1, max_size=5
    )
)
def test_mutated_requests_are_refused_or_read(changes):
    data = bytearray(rich())
    for at, value in changes:
        data[at] = value

    try:
        request = messages.to_request(messages.parse(bytes(data)), arrival_ns=1)
    except (InvalidRequest, NotSupported):
        return
    assert request.inputs
