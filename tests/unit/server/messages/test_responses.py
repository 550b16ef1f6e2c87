"""Replies to the wire."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import ExecutionFailed
from batcher.protocol import inference
from batcher.runtime.request import InferenceReply
from batcher.server import messages
from batcher.server.messages.classification import Classes
from batcher.telemetry.stamps import Stamps
from batcher.tensors import DTYPES, Tensor


def read(inputs, raw):
    """The inputs of a request that has these tensors."""
    request = inference.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw)
    return messages.to_request(messages.parse(request.SerializeToString()), arrival_ns=1).inputs


def reply(outputs, **fields):
    return InferenceReply("m", "1", fields.pop("id", ""), outputs, Stamps(1), **fields)


def written(answer, **context):
    return inference.ModelInferResponse.FromString(
        b"".join(messages.response_parts(answer, **context))
    )


@pytest.mark.parametrize(
    ("datatype", "array", "classes", "long"),
    [
        ("FP32", np.zeros((1, 2**18), np.float32), 0, False),
        ("FP32", np.zeros((1, 2**18 + 1), np.float32), 0, True),
        ("BYTES", np.full((1, 4096), b"", np.object_), 0, False),
        ("BYTES", np.full((1, 4097), b"", np.object_), 0, True),
        ("FP32", np.zeros((1, 2**16), np.float32), 1, False),
        ("FP32", np.zeros((1, 2**16 + 1), np.float32), 1, True),
        ("FP32", np.zeros((5, 1000), np.float32), 1000, True),
    ],
)
def test_answers_that_take_long_to_serialize_are_recognized(datatype, array, classes, long):
    answer = reply({"Y": Tensor(datatype, array)})

    assert messages.takes_long(answer, {"Y": Classes(classes)} if classes else None) is long


def test_a_tensor_without_axes_is_one_element():
    inputs = read([{"name": "X", "datatype": "FP32", "shape": ()}], [bytes(4)])

    assert inputs["X"].array.shape == ()
    response = written(reply(inputs))
    assert list(response.outputs[0].shape) == []
    assert response.raw_output_contents == [bytes(4)]


def test_the_classes_of_an_answer_without_rows_have_none():
    outputs = {"Y": Tensor("FP32", np.array([1, 3, 2], np.float32))}
    response = written(reply(outputs, batched=False), classifications={"Y": Classes(2)})

    assert list(response.outputs[0].shape) == [2]


def test_a_plain_response():
    array = np.array([[1, 2]], np.int32)

    response = written(reply({"Y": Tensor("INT32", array)}, id="é" * 100))

    assert response == inference.ModelInferResponse(
        model_name="m",
        model_version="1",
        id="é" * 100,
        outputs=[{"name": "Y", "datatype": "INT32", "shape": [1, 2]}],
        raw_output_contents=[array.tobytes()],
    )


def test_response_parameters_keep_their_types():
    parameters = {"a": True, "b": -1, "c": "x", "d": 0.5, "e": 2**64 - 1}

    response = written(reply({}, parameters=parameters))

    choices = {
        name: each.WhichOneof("parameter_choice") for name, each in response.parameters.items()
    }
    assert choices == {
        "a": "bool_param",
        "b": "int64_param",
        "c": "string_param",
        "d": "double_param",
        "e": "uint64_param",
    }
    assert response.parameters["e"].uint64_param == 2**64 - 1


@pytest.mark.parametrize(
    "array", [np.zeros((64, 64), np.float32)[:, ::2], np.arange(6.0).reshape(2, 3).T]
)
def test_outputs_are_written_in_row_major_order(array):
    response = written(reply({"Y": Tensor("FP32", array)}))

    assert response.raw_output_contents[0] == np.ascontiguousarray(array).tobytes()


def test_text_is_written_as_utf8():
    array = np.array([["é"]], np.object_)

    assert written(reply({"Y": Tensor("BYTES", array)})).raw_output_contents == [
        b"\x02\x00\x00\x00\xc3\xa9"
    ]


def test_an_executors_bytes_that_are_not_bytes_fail():
    answer = reply({"Y": Tensor("BYTES", np.array([[7]], np.object_))})

    with pytest.raises(ExecutionFailed, match=r"model 'm': output 'Y': .*got int"):
        messages.response_parts(answer)


def test_classified_outputs_are_bytes():
    answer = reply({"Y": Tensor("FP32", np.array([[0.25, 0.5]], np.float32))})

    response = written(answer, classifications={"Y": Classes(1)})

    assert (response.outputs[0].datatype, response.outputs[0].shape) == ("BYTES", [1, 1])
    assert response.raw_output_contents == [b"\x0a\x00\x00\x000.500000:1"]


def test_a_stream_response_wraps_a_response():
    answer = reply({"Y": Tensor("UINT8", np.zeros((1, 300), np.uint8))}, id="7")

    parts = messages.response_parts(answer)
    wrapped = inference.ModelStreamInferResponse.FromString(
        b"".join(messages.stream_parts(parts, sum(map(len, parts))))
    )

    assert wrapped.infer_response.parameters.pop("triton_final_response").bool_param
    assert wrapped.infer_response == written(answer)
    assert not wrapped.error_message


def test_a_stream_error_names_the_request():
    wrapped = inference.ModelStreamInferResponse.FromString(
        messages.stream_error("no", request_id="7")
    )

    assert (wrapped.error_message, wrapped.infer_response.id) == ("no", "7")
    assert wrapped.infer_response.parameters["triton_final_response"].bool_param


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), min_size=1, max_size=3)))
    count = int(np.prod(shape))
    if datatype == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
    elif datatype == "BOOL":
        array = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
    else:
        size = count * DTYPES[datatype].itemsize
        array = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), DTYPES[datatype])
    return Tensor(datatype, array.reshape(shape))


@pytest.mark.slow
@given(st.dictionaries(st.text(min_size=1, max_size=5), tensors(), min_size=1, max_size=3))
def test_every_tensor_survives_a_round_trip(tensors):
    # A response read as a request: field by field, they carry tensors the same way.
    response = written(reply(tensors))
    headers = [
        {"name": each.name, "datatype": each.datatype, "shape": each.shape}
        for each in response.outputs
    ]

    inputs = read(headers, response.raw_output_contents)

    assert list(inputs) == list(tensors)
    for name, tensor in tensors.items():
        assert inputs[name].datatype == tensor.datatype
        assert inputs[name].array.shape == tensor.array.shape
        assert inputs[name].array.tolist() == tensor.array.tolist() or (
            inputs[name].array.tobytes() == tensor.array.tobytes()
        )


@pytest.mark.parametrize(
    "parts",
    [
        [b"head", b"", b"text"],
        [b"head", memoryview(np.arange(2000, dtype="f4")).cast("B"), b"", b"tail"],
    ],
)
def test_a_large_answer_is_one_buffer_of_all_its_parts(parts):
    assert bytes(messages.joined(parts)) == b"".join(parts)


def test_an_answer_in_pieces_is_joined_as_it_is_written():
    pieces = [{"Y": Tensor("INT8", np.full((n, 1), n, np.int8))} for n in (1, 2)]

    response = written(reply({}, pieces=pieces))

    assert response.outputs[0].shape == [3, 1]
    assert response.raw_output_contents == [b"\x01\x02\x02"]
    assert messages.takes_long(reply({}, pieces=pieces), None)
