"""The outermost layer of a request: equal to protobuf's reading, and never a crash."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.errors import InvalidRequest
from batcher.protocol import inference
from batcher.protocol.wire_format import encode_length
from batcher.server.messages.wire import parse

LONG = "x" * 300


def message(**fields):
    return inference.ModelInferRequest(**fields)


def everything():
    request = message(
        model_name="m",
        model_version="2",
        id="é",
        inputs=[{"name": "a", "datatype": "FP32", "shape": [1]}, {"name": LONG}],
        outputs=[{"name": "y"}],
        raw_input_contents=[b"1234", b"", b"z" * 70_000],
    )
    request.parameters["p"].int64_param = 7
    return request


def test_all_fields_are_found():
    request = everything()

    wire = parse(request.SerializeToString())

    assert (wire.model, wire.version, wire.id) == ("m", "2", "é")
    assert wire.inputs == [each.SerializeToString() for each in request.inputs]
    assert wire.outputs == [each.SerializeToString() for each in request.outputs]
    assert [wire.data[at : at + length] for at, length in wire.raw] == request.raw_input_contents
    again = inference.ModelInferRequest.FromString(b"".join(wire.parameters))
    assert again == message(parameters=request.parameters)


def test_an_empty_message_is_an_empty_request():
    wire = parse(b"")

    assert (wire.model, wire.inputs, wire.raw) == ("", [], [])


def test_unknown_fields_are_skipped():
    unknown = b"\x7a\x03abc" + b"\x40\x05"  # field 15, three bytes; field 8, a varint

    wire = parse(unknown + everything().SerializeToString() + unknown)

    assert wire.model == "m"
    assert len(wire.raw) == 3


def test_the_last_of_a_repeated_singular_field_counts():
    wire = parse(message(model_name="a").SerializeToString() + b"\x0a\x01b")

    assert wire.model == "b"


@pytest.mark.parametrize("cut", [1, 2, 4, 20, -1, -70_000, -70_002])
def test_a_message_cut_short_is_invalid(cut):
    data = everything().SerializeToString()[:cut]

    with pytest.raises(InvalidRequest, match="not a valid ModelInferRequest"):
        parse(data)


def test_text_that_is_not_utf8_is_invalid():
    with pytest.raises(InvalidRequest, match="not a valid ModelInferRequest"):
        parse(b"\x0a\x01\xff")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16_383, 16_384, 2**31, 2**35 + 1])
def test_lengths_are_written_as_protobuf_reads_them(value):
    # A varint field of any message shows how protobuf reads it.
    message_bytes = b"\x08" + encode_length(value)

    assert inference.StatisticDuration.FromString(message_bytes).count == value


def outcome(reader, data):
    try:
        return reader(data)
    except (InvalidRequest, DecodeError):
        return None


def by_protobuf(data):
    request = inference.ModelInferRequest.FromString(data)
    raw = list(request.raw_input_contents)
    return request.model_name, request.model_version, request.id, raw


def by_us(data):
    wire = parse(data)
    raw = [wire.data[at : at + length] for at, length in wire.raw]
    return wire.model, wire.version, wire.id, raw


VALID = everything().SerializeToString()[:400]


@st.composite
def mutated(draw):
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["set", "insert", "delete"]))
        if change == "set":
            data[at] = draw(st.integers(0, 255))
        elif change == "insert":
            data[at:at] = draw(st.binary(max_size=6))
        elif len(data) > 1:
            del data[at]
    return bytes(data)


@given(st.one_of(st.binary(max_size=60), mutated()))
@example(b"\x0a\x80\x80\x80\x80\x80\x00")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x3a\x85\x80\x80\x80\x00abcde")
def test_what_protobuf_accepts_we_read_alike(data):
    theirs = outcome(by_protobuf, data)
    if theirs is not None:
        assert outcome(by_us, data) == theirs


@given(st.one_of(st.binary(max_size=60), mutated()))
def test_any_bytes_are_a_request_or_invalid(data):
    outcome(by_us, data)
