"""An executor that takes raw contents gets the encoding of the arrays that it would get otherwise."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from batcher.protocol import inference
from batcher.protocol.elements import MalformedTensorError, bytes_to_raw, from_raw
from batcher.protocol.raw_tensor import RawTensor, read_raw
from batcher.runtime.execution.gather import Slice, gather
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import Padded
from batcher.server import messages
from batcher.tensors import DTYPES, Tensor

TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "UINT32": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
INPUTS = ("x", "y")
SHARED = "bias"
texts = st.binary(max_size=6)


def random_array(datatype, shape, draw):
    if datatype == "BYTES":
        array = np.empty(shape, np.object_)
        flat = [draw.bytes(int(draw.integers(0, 7))) for _ in range(array.size)]
        array.reshape(-1)[:] = flat
        return array
    if datatype == "BOOL":
        return draw.integers(0, 2, shape).astype(np.bool_)
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        return draw.standard_normal(shape).astype(dtype)
    return draw.integers(0, 100, shape).astype(dtype)


def contents(datatype, array):
    if datatype == "BYTES":
        return b"".join(bytes_to_raw(array)[0])
    return np.ascontiguousarray(array).tobytes()


def message(arrays, *, raw):
    """A serialized request with these inputs: name -> (datatype, array)."""
    request = inference.ModelInferRequest(model_name="m")
    for name, (datatype, array) in arrays.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            request.raw_input_contents.append(contents(datatype, array))
        else:
            values = array.reshape(-1).tolist()
            getattr(tensor.contents, TYPED[datatype]).extend(values)
    return request.SerializeToString()


@st.composite
def batches(draw):
    """Requests with their rows, how each came, and what its batch looks like."""
    datatypes = {name: draw(st.sampled_from(list(TYPED))) for name in (*INPUTS, SHARED)}
    inner = draw(st.sampled_from([(), (2,), (0,), (2, 3)]))
    bucket = tuple(axis + draw(st.integers(0, 2)) for axis in inner)
    pads = draw(st.booleans())
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    bias = random_array(datatypes[SHARED], draw(st.sampled_from([(), (3,), (2, 2)])), numbers)
    requests = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.integers(1, 4))
        own = tuple(min(axis, draw(st.integers(0, 3))) for axis in bucket) if pads else inner
        arrays = {
            name: (datatypes[name], random_array(datatypes[name], (rows, *own), numbers))
            for name in INPUTS
        }
        arrays[SHARED] = datatypes[SHARED], bias
        start = draw(st.integers(0, rows - 1))
        stop = draw(st.integers(start + 1, rows))
        how = draw(st.sampled_from(["raw", "typed", "array"]))
        requests.append((arrays, start, stop, how))
    padded = None
    if pads:
        values = {name: b"pad" if datatypes[name] == "BYTES" else 1 for name in INPUTS}
        padded = Padded(dict.fromkeys(INPUTS, bucket), values, {})
    return requests, padded, draw(st.sampled_from([(), (5,), (20,), (1, 2, 4, 8), (3, 7)]))


def slices_of(requests, padded, *, raw):
    found = []
    for arrays, start, stop, how in requests:
        wire = messages.parse(message(arrays, raw=how == "raw"))
        request = messages.to_request(wire, arrival_ns=0, raw=raw and how != "array")
        if how == "array":  # injected by the server itself, or read before its model was reloaded
            for name, (datatype, array) in arrays.items():
                request.inputs[name] = Tensor(datatype, array)
        found.append(Slice(request, start, stop, padded))
    return found


@given(batches())
def test_raw_contents_are_the_encoding_of_the_arrays(batch):
    requests, padded, sizes = batch
    layout = Layout({}, frozenset({SHARED}), batch_sizes=sizes)
    slices = slices_of(requests, padded, raw=False)
    plain = gather(slices, layout)
    rows = sum(each.stop - each.start for each in slices)
    assert plain.rows == min([size for size in sizes if size >= rows], default=rows)
    assert {len(plain.inputs[name]) for name in INPUTS} == {plain.rows}
    layout = Layout({}, frozenset({SHARED}), batch_sizes=sizes, raw=True)
    raw = gather(slices_of(requests, padded, raw=True), layout)
    assert raw.inputs == {}
    assert raw.rows == plain.rows
    assert raw.shapes == {name: array.shape for name, array in plain.inputs.items()}
    datatypes = {name: datatype for name, (datatype, _) in requests[0][0].items()}
    for name, array in plain.inputs.items():
        assert b"".join(raw.raw[name]) == contents(datatypes[name], array)


@given(batches())
def test_inputs_that_were_read_raw_also_serve_an_executor_that_takes_arrays(batch):
    """The model may be reloaded with another executor between reading and gathering."""
    requests, padded, sizes = batch
    layout = Layout({}, frozenset({SHARED}), batch_sizes=sizes)
    plain = gather(slices_of(requests, padded, raw=False), layout)
    kept = gather(slices_of(requests, padded, raw=True), layout)
    for name, array in plain.inputs.items():
        np.testing.assert_array_equal(kept.inputs[name], array)
        assert kept.inputs[name].dtype == array.dtype


@given(st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=6), st.data())
def test_rows_of_texts_are_cut_where_their_elements_begin(rows, data):
    array = np.empty((len(rows), 2), np.object_)
    array[:] = rows
    encoded = b"??" + contents("BYTES", array)
    tensor = RawTensor("BYTES", array.shape, encoded, 2, len(encoded) - 2)
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start, len(rows)))
    cut = bytes(tensor.rows(start, stop))
    shape = (stop - start, 2)
    count = 2 * (stop - start)
    found = from_raw(cut, 0, len(cut), "BYTES", shape, count)
    assert found.tolist() == rows[start:stop]


@given(
    st.sampled_from(["BYTES", "BOOL", "INT32"]),
    st.binary(max_size=24),
    st.integers(0, 3),
    st.integers(0, 6),
)
def test_contents_that_are_kept_are_checked_as_those_that_become_arrays(
    datatype, data, offset, elements
):
    offset = min(offset, len(data))
    given_ = data, offset, len(data) - offset, datatype, (elements,), elements
    assert refusal(read_raw, given_) == refusal(from_raw, given_)


def refusal(read, given_):
    try:
        read(*given_)
    except MalformedTensorError as error:
        return str(error), error.sizes
    return None
