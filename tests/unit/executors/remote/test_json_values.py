"""Arrays as JSON and back: exact, or refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batcher.executors.remote.json_values import (
    JsonError,
    dumps,
    from_json,
    loads,
    to_json,
    unfit,
)
from batcher.tensors import DTYPES

NUMBERS = [name for name in DTYPES if name not in {"BYTES", "BF16"}]


@pytest.mark.slow
@pytest.mark.parametrize("datatype", NUMBERS)
@given(data=st.data())
def test_every_number_comes_back_exactly(datatype, data):
    dtype = DTYPES[datatype]
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
    elements = {}
    if dtype.kind == "f":
        elements = {"elements": {"allow_nan": False, "allow_infinity": False}}
    array = data.draw(hnp.arrays(dtype, shapes, **elements))

    back = from_json(loads(dumps(to_json(array, datatype, "text"))), datatype)

    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.slow
@given(hnp.arrays(np.uint16, 8))
def test_bfloat16_comes_back_exactly(bits):
    bits = bits[(bits & 0x7F80) != 0x7F80]  # neither NaN nor infinity
    assert not len(bits) or not unfit(bits, "BF16", "text")
    if len(bits):
        back = from_json(loads(dumps(to_json(bits, "BF16", "text"))), "BF16")
        assert back.tolist() == bits.tolist()


@pytest.mark.parametrize(
    ("value", "bits"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (float("nan"), 0x7FC0)],
)
def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even(value, bits):
    assert from_json([value], "BF16").tolist() == [bits]


@pytest.mark.parametrize("style", ["text", "base64"])
def test_bytes_come_back(style):
    array = np.array([[b"a"], ["\u00e4\u2603".encode()], [b""]], object)
    back = from_json(loads(dumps(to_json(array, "BYTES", style))), "BYTES")
    assert back.tolist() == array.tolist()


def test_base64_carries_any_bytes():
    array = np.array([b"\xff\x00", b"plain"], object)
    assert not unfit(array, "BYTES", "base64")
    assert to_json(array, "BYTES", "base64") == [{"b64": "/wA="}, {"b64": "cGxhaW4="}]


def test_rows_that_json_cannot_carry_are_named():
    values = np.array([[1, 2], [np.nan, 1], [1, np.inf]], np.float32)
    assert sorted(unfit(values, "FP32", "text")) == [1, 2]
    texts = np.array([[b"ok"], [b"\xff"]], object)
    assert list(unfit(texts, "BYTES", "text")) == [1]
    assert "base64" in unfit(texts, "BYTES", "text")[1]
    assert not unfit(np.array([1], np.int64), "INT64", "text")
    infinite = np.array([[0x7F80], [0x3F80]], np.uint16)
    assert list(unfit(infinite, "BF16", "text")) == [0]


def test_words_of_python_for_nan_and_infinity_are_read():
    found = from_json(json.loads("[NaN, Infinity, -Infinity, 1]"), "FP32")
    np.testing.assert_array_equal(found, np.array([np.nan, np.inf, -np.inf, 1], np.float32))


@pytest.mark.parametrize("datatype", ["INT64", "UINT64"])
def test_large_whole_numbers_are_exact(datatype):
    most = int(np.iinfo(DTYPES[datatype]).max)
    assert from_json([1, most], datatype).tolist() == [1, most]


def test_whole_numbers_may_be_written_with_a_point_while_they_are_exact():
    assert from_json([1.0, 2], "INT32").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "datatype", "why"),
    [
        ([None], "FP32", "null"),
        (["1.5"], "FP32", "text"),
        ([True], "FP32", "true or false"),
        ([1e39], "FP32", "too large"),
        ([70000.0], "FP16", "too large"),
        ([10**400], "FP64", "too large"),
        ([[1, 2], [3]], "FP32", "equally long"),
        ([[1, 2], [3]], "INT32", "equally long"),
        ([1, [2]], "BYTES", "equally long"),
        ([1.5], "INT32", "no INT32"),
        ([float("nan")], "INT32", "no INT32"),
        ([9.3e18], "INT64", "no INT64"),
        ([2**63], "INT64", "no INT64"),
        ([-1], "UINT8", "no UINT8"),
        ([True], "INT32", "true or false"),
        ([None], "INT64", "null"),
        (["a"], "INT64", "text"),
        ([2], "BOOL", "true and false"),
        ([1.0], "BOOL", "true and false"),
        ([1], "BYTES", "numbers"),
        ([{"b64": "?"}], "BYTES", "not base64"),
        ([{"b64": "YQ==", "x": 1}], "BYTES", "objects"),
        (["\ud800"], "BYTES", "UTF-8"),
    ],
)
def test_what_is_no_such_tensor_is_refused(value, datatype, why):
    with pytest.raises(JsonError, match=why):
        from_json(value, datatype)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(JsonError, match="not JSON"):
        loads(text)
