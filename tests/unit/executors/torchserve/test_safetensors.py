"""The format safetensors, held against its own library where that is installed."""

import numpy as np
import pytest

from batcher.executors.torchserve.safetensors import FormatError, load, save
from batcher.tensors import DTYPES

DATATYPES = {name: dtype for name, dtype in DTYPES.items() if name != "BYTES"}


def some(datatype):
    return np.arange(6).reshape(2, 3).astype(DATATYPES[datatype])


@pytest.mark.parametrize("datatype", DATATYPES)
def test_tensors_come_back(datatype):
    tensors = {"a": (datatype, some(datatype)), "b": ("INT8", np.zeros((0, 2), np.int8))}
    found, metadata = load(save(tensors), {"a": datatype, "b": "INT8"})
    assert found["a"].dtype == DATATYPES[datatype]
    np.testing.assert_array_equal(found["a"], some(datatype))
    assert found["b"].shape == (0, 2)
    assert not metadata


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BF16"])
def test_the_library_reads_and_writes_the_same(datatype):
    library = pytest.importorskip("safetensors.numpy")
    array = some(datatype)
    np.testing.assert_array_equal(library.load(save({"a": (datatype, array)}))["a"], array)
    found, metadata = load(library.save({"a": array, "b": array}, {"k": "v"}), {"a": datatype})
    np.testing.assert_array_equal(found["a"], array)
    assert metadata == {"k": "v"}


def with_header(header, contents=bytes(8)):
    return len(header).to_bytes(8, "little") + header + contents


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not in the format"),
        (bytes(7), "not in the format"),
        (b"\xff" * 16, "not in the format"),
        (with_header(b"[]"), "not in the format"),
        (with_header(b"{}"), "no output 'a'"),
        (with_header(b'{"a": 1}'), "no object"),
        (with_header(b'{"a": {"dtype": "F64"}}'), "dtype is 'F64', not F32"),
        (with_header(b'{"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}'), "whole"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'), "whole"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}'), "outside"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}'), "outside"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'), "12 bytes"),
        (with_header(b'{"a": {"dtype": "F32", "shape": [2]}}'), "whole"),
    ],
)
def test_what_is_wrong_is_said(data, why):
    with pytest.raises(FormatError, match=why):
        load(data, {"a": "FP32"})


def test_arrays_are_aligned_wherever_they_begin():
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}'
    found, _ = load(with_header(header), {"a": "FP32"})
    assert found["a"].flags.aligned


def test_metadata_of_any_kind_is_no_harm():
    header = b'{"__metadata__": 5, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    assert load(with_header(header), {"a": "FP32"})[1] == {}
