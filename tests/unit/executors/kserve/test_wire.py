"""The hand-written messages beside protobuf's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.executors.kserve.answer import AnswerReader, WrongAnswerError
from batcher.executors.kserve.request import RequestWriter, joined, joined_large, message_bytes
from batcher.protocol import inference
from batcher.protocol.elements import bytes_to_raw, to_raw
from batcher.tensors import DTYPES, TensorSpec

TYPED = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "UINT64": "uint64_contents", "INT8": "int_contents",
    "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip

names = st.text(min_size=1, max_size=12)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
values = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=9), st.floats(allow_nan=False)
)


@st.composite
def cut(draw, data):
    """Bytes as views of the pieces that they are cut into."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    view = memoryview(data)
    return [view[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def inputs(draw):
    found = draw(st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes)))
    return [
        (name, datatype, shape, draw(cut(draw(st.binary(max_size=300)))))
        for name, (datatype, shape) in found.items()
    ]


@given(names, st.text(max_size=4), inputs(), st.frozensets(names), st.dictionaries(names, values))
def test_the_request_is_what_protobuf_reads(model, version, tensors, outputs, parameters):
    writer = RequestWriter(model, version)
    pieces = writer.pieces(tensors, outputs, parameters)
    data = joined(pieces)
    assert message_bytes(pieces) == len(data)
    assert joined_large(pieces) == data
    assert joined(writer.pieces(tensors, outputs, parameters)) == data
    request = inference.ModelInferRequest.FromString(data)
    assert (request.model_name, request.model_version) == (model, version)
    assert [(i.name, i.datatype, tuple(i.shape)) for i in request.inputs] == [
        (name, datatype, shape) for name, datatype, shape, _ in tensors
    ]
    assert list(request.raw_input_contents) == [b"".join(pieces) for *_, pieces in tensors]
    assert [output.name for output in request.outputs] == sorted(outputs)
    found = {
        name: getattr(each, each.WhichOneof("parameter_choice"))
        for name, each in request.parameters.items()
    }
    assert found == parameters
    assert {name: type(value) for name, value in found.items()} == {
        name: type(value) for name, value in parameters.items()
    }


@st.composite
def arrays(draw, datatypes):
    """(datatype, array) with 3 rows."""
    datatype = draw(st.sampled_from(datatypes))
    shape = (3, *draw(shapes))
    count = int(np.prod(shape))
    if datatype == "BYTES":
        array = np.empty(count, np.object_)
        array[:] = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
        return datatype, array.reshape(shape)
    dtype = DTYPES[datatype]
    data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if datatype == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return datatype, np.frombuffer(data, dtype).reshape(shape)


def raw_of(datatype, array):
    return b"".join(bytes_to_raw(array)[0]) if datatype == "BYTES" else bytes(to_raw(array))


def reader(outputs, *, batched=True):
    specs = {
        name: TensorSpec(name, datatype, (-1,) * array.ndim)
        for name, (datatype, array) in outputs.items()
    }
    return AnswerReader(specs, batched=batched)


def same(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes() if got.dtype != object else (got == want).all()


@given(st.dictionaries(names, arrays(sorted(DTYPES)), min_size=1), st.randoms(), st.data())
def test_raw_answers_in_any_order_are_read(outputs, random, data):
    order = list(outputs)
    random.shuffle(order)
    response = inference.ModelInferResponse(model_name="m", model_version="1", id="x")
    response.parameters["p"].bool_param = True
    for name in order:
        datatype, array = outputs[name]
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(raw_of(datatype, array))
    wanted = data.draw(st.frozensets(st.sampled_from(order)))
    found = reader(outputs).read(response.SerializeToString(), wanted, 3)
    assert set(found) == wanted
    for name in wanted:
        same(found[name], outputs[name][1])


@given(st.dictionaries(names, arrays(sorted(TYPED)), min_size=1))
def test_typed_answers_are_read(outputs):
    response = inference.ModelInferResponse()
    for name, (datatype, array) in outputs.items():
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(output.contents, TYPED[datatype]).extend(array.reshape(-1).tolist())
    found = reader(outputs).read(response.SerializeToString(), frozenset(outputs), 3)
    for name, (_, array) in outputs.items():
        if array.dtype.kind == "f":
            np.testing.assert_array_equal(found[name], array)
        else:
            same(found[name], array)


def test_typed_and_raw_outputs_in_one_answer():
    outputs = {name: ("FP32", np.full((3,), place, np.float32)) for place, name in enumerate("abc")}
    response = inference.ModelInferResponse()
    for name, (datatype, array) in outputs.items():
        output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if name == "b":
            output.contents.fp32_contents.extend(array)
        else:
            response.raw_output_contents.append(array.tobytes())
    found = reader(outputs).read(response.SerializeToString(), frozenset(outputs), 3)
    for name, (_, array) in outputs.items():
        same(found[name], array)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data):
    outputs = {"Y": ("FP32", np.zeros((3, 4), np.float32))}
    try:
        found = reader(outputs).read(data, frozenset({"Y"}), 3)
    except WrongAnswerError:
        return
    assert found["Y"].shape == (3, 4)


@given(st.data())
def test_a_damaged_answer_is_read_or_refused(data):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    response = inference.ModelInferResponse(model_name="m")
    response.outputs.add(name="Y", datatype="FP32", shape=(3, 4))
    response.raw_output_contents.append(array.tobytes())
    damaged = bytearray(response.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        found = reader({"Y": ("FP32", array)}).read(damaged, frozenset({"Y"}), 3)
    except WrongAnswerError:
        return
    assert found["Y"].shape[0] == 3


@pytest.mark.parametrize(
    ("header", "contents", "said"),
    [
        ({"name": "Y", "datatype": "FP32", "shape": [3, 4]}, [b"\0" * 47], "expected 48 bytes"),
        ({"name": "Y", "datatype": "FP32", "shape": [3, 4]}, [], "no contents"),
        ({"name": "Y", "datatype": "FP32", "shape": [3, 4]}, [b""] * 2, "1 outputs and 2 raw"),
        ({"name": "Y", "datatype": "FP32", "shape": [3, -4]}, [b""], r"of shape \[3, -4\]"),
        ({"name": "Y", "datatype": "FP32", "shape": [2**62, 2**62]}, [b""], "of shape"),
        ({"name": "Y" * 500, "datatype": "FP32", "shape": [3]}, [b""], r"YYY\.\.\.'"),
    ],
)
def test_contents_must_be_as_long_as_their_shape_says(header, contents, said):
    response = inference.ModelInferResponse(raw_output_contents=contents)
    response.outputs.add(**header)
    expected = {"Y": ("FP32", np.zeros((3, 4), np.float32))}
    with pytest.raises(WrongAnswerError, match=said):
        reader(expected).read(response.SerializeToString(), frozenset({"Y"}), 3)


def test_an_output_twice_is_refused():
    response = inference.ModelInferResponse(raw_output_contents=[b"\0" * 4, b"\0" * 4])
    for _ in range(2):
        response.outputs.add(name="Y", datatype="FP32", shape=[1])
    with pytest.raises(WrongAnswerError, match="'Y' twice"):
        reader({"Y": ("FP32", np.zeros(1, np.float32))}).read(
            response.SerializeToString(), frozenset({"Y"}), 1
        )


def test_without_a_batch_axis_any_first_axis_is_taken():
    response = inference.ModelInferResponse(raw_output_contents=[b"\0" * 8])
    response.outputs.add(name="Y", datatype="FP32", shape=[2])
    found = reader({"Y": ("FP32", np.zeros(1, np.float32))}, batched=False).read(
        response.SerializeToString(), frozenset({"Y"}), 1
    )
    assert found["Y"].shape == (2,)
