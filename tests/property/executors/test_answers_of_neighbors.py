"""Whatever a neighbor answers, it is outputs that fit the model, or an `ExecutionError`."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.executor import ExecutionError
from batcher.executors.http.v2 import Bodies
from batcher.executors.remote.instances import Instances
from batcher.executors.torchserve.safetensors import FormatError, load
from batcher.tensors import DTYPES, TensorSpec

pytestmark = pytest.mark.slow

ROWS = 2

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([2**53, 2**63, 2**64, 1e39, 0, 1]))
leaves = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=3))
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["Y", "b64", "error", "data", "shape", "name", "x"]), inner, max_size=3
        ),
    ),
    max_leaves=12,
)
datatypes = st.sampled_from(sorted(DTYPES))
shapes = st.sampled_from([(-1,), (-1, 1), (-1, 2), (-1, -1), (-1, 2, 2)])


def fits(array, spec):
    assert array.dtype == DTYPES[spec.datatype]
    assert len(array) == ROWS
    assert array.ndim == len(spec.shape)
    wanted = zip(spec.shape[1:], array.shape[1:], strict=True)
    assert all(want in {-1, have} for want, have in wanted)
    if spec.datatype == "BYTES":
        assert all(isinstance(each, bytes) for each in array.flat)


@given(datatypes, shapes, st.one_of(anything, st.lists(anything, min_size=2, max_size=2)))
def test_predictions(datatype, shape, predictions):
    spec = TensorSpec("Y", datatype, shape)
    codec = Instances({"X": spec}, {"Y": spec}, batched=True, style="text")
    try:
        answer = codec.answer(json.dumps({"predictions": predictions}).encode(), ROWS)
    except ExecutionError:
        return
    fits(answer.outputs["Y"], spec)
    assert answer.row_errors.keys() <= set(range(ROWS))


tensors = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("Y"), leaves),
        "datatype": st.one_of(datatypes, leaves),
        "shape": st.one_of(st.lists(st.integers(-2, 3), max_size=3), anything),
        "data": st.one_of(st.lists(numbers, max_size=6), anything),
    },
    optional={
        "parameters": st.one_of(
            st.fixed_dictionaries({"binary_data_size": st.one_of(st.integers(-1, 40), leaves)}),
            anything,
        )
    },
)


@given(
    datatypes,
    shapes,
    st.one_of(anything, st.lists(tensors, max_size=2)),
    st.binary(max_size=32),
    st.booleans(),
)
def test_outputs(datatype, shape, outputs, contents, binary):
    spec = TensorSpec("Y", datatype, shape)
    codec = Bodies({"X": spec}, {"Y": spec}, batched=True, binary=binary)
    head = json.dumps({"outputs": outputs}).encode()
    length = str(len(head)) if binary else None
    try:
        answer = codec.answer(head + (contents if binary else b""), length, ROWS, None, "1")
    except ExecutionError:
        return
    fits(answer.outputs["Y"], spec)


@given(st.binary(max_size=64), anything, st.binary(max_size=32))
def test_safetensors(noise, header, contents):
    head = json.dumps(header).encode()
    for data in (noise, len(head).to_bytes(8, "little") + head + contents):
        try:
            found, _ = load(data, {"Y": "FP32"})
        except FormatError:
            continue
        assert found["Y"].dtype == np.float32


entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", 1]),
        "shape": st.lists(st.one_of(st.integers(-1, 4), leaves), max_size=3),
        "data_offsets": st.lists(st.one_of(st.integers(-1, 40), leaves), max_size=3),
    }
)


@given(entries, st.binary(max_size=40))
def test_entries_of_safetensors(entry, contents):
    head = json.dumps({"Y": entry}).encode()
    try:
        found, _ = load(len(head).to_bytes(8, "little") + head + contents, {"Y": "FP32"})
    except FormatError:
        return
    assert list(found["Y"].shape) == entry["shape"]
