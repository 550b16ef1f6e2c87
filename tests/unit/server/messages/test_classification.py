"""The highest values of each row."""

import numpy as np
import pytest

from batcher.errors import InvalidRequest
from batcher.server.messages.classification import MAX_CLASSES, MAX_WIDTH, Classes, top_classes


def classes(datatype, array, count, labels=()):
    return top_classes(datatype, array, Classes(count, labels), "output 'Y'").tolist()


def test_the_highest_values_of_each_row_come_first():
    array = np.array([[0.1, 0.7, 0.2], [3, 2, 1]], np.float32)

    assert classes("FP32", array, 2) == [
        [b"0.700000:1", b"0.200000:2"],
        [b"3.000000:0", b"2.000000:1"],
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_integers_are_written_as_such(dtype):
    assert classes("any", np.array([[0, 9, 9, 4]], dtype), 3) == [[b"9:1", b"9:2", b"4:3"]]


def test_a_row_is_flattened_and_all_of_it_is_given():
    array = np.arange(4, dtype=np.int32).reshape(1, 2, 2)

    assert classes("INT32", array, 9) == [[b"3:3", b"2:2", b"1:1", b"0:0"]]


def test_bf16_is_the_upper_half_of_fp32():
    bits = np.array([[0x3F80, 0x4000]], np.uint16)

    assert classes("BF16", bits, 2) == [[b"2.000000:1", b"1.000000:0"]]


def test_nan_comes_last():
    assert classes("FP64", np.array([[np.nan, -1.0]]), 2) == [[b"-1.000000:1", b"nan:0"]]


def test_no_rows_have_no_classes():
    assert top_classes("FP32", np.zeros((0, 3), np.float32), Classes(2), "").shape == (0, 2)


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_other_datatypes_have_no_order(datatype):
    with pytest.raises(InvalidRequest, match=f"output 'Y': .* got {datatype}"):
        top_classes(datatype, np.zeros((1, 1), np.bool_), Classes(1), "output 'Y'")


@pytest.mark.parametrize("count", [1, 2, 5, 99, 100, 200])
def test_some_of_many_are_the_first_of_all_sorted(count):
    array = np.random.default_rng(0).integers(0, 9, (3, 100))

    for row, found in zip(array, classes("INT64", array, count), strict=True):
        order = sorted(range(100), key=lambda index: (-row[index], index))
        assert found == [f"{row[index]}:{index}".encode() for index in order[:count]]


@pytest.mark.parametrize(
    ("shape", "count", "text"),
    [
        ((1, MAX_WIDTH + 1), 1, f"takes at most {MAX_WIDTH} elements a row, got {MAX_WIDTH + 1}"),
        (
            (11, 10_000),
            10_000,
            f"gives at most {MAX_CLASSES} classes in one answer, got 11 rows of 10000",
        ),
    ],
)
def test_what_would_take_long_is_refused(shape, count, text):
    with pytest.raises(InvalidRequest, match=f"output 'Y': classification {text}"):
        classes("UINT8", np.zeros(shape, np.uint8), count)


def test_the_widest_row_is_classified():
    array = np.zeros((1, MAX_WIDTH), np.float32)
    array[0, [7, MAX_WIDTH - 1]] = 1

    assert classes("FP32", array, 2) == [[b"1.000000:7", f"1.000000:{MAX_WIDTH - 1}".encode()]]


def test_a_class_that_has_a_name_is_reported_by_it():
    array = np.array([[3, 2, 1]], np.int32)

    assert classes("INT32", array, 3, labels=[b"cat", "ängstlich".encode()]) == [
        [b"3:0:cat", "2:1:ängstlich".encode(), b"1:2"]
    ]
