"""Rows whose outputs contain NaN."""

import numpy as np
import pytest

from batcher.executor import BatchResult
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.nan import fail_nan_rows
from batcher.runtime.interface.layout import Layout
from batcher.runtime.request import InferenceRequest


def errors(array, datatype, row_errors=None):
    executed = ExecutedBatch(0, result=BatchResult({"Y": array}, row_errors or {}))
    layout = Layout({"Y": datatype, "absent": "FP32"})
    fail_nan_rows(executed, layout, [Slice(InferenceRequest("m", {}, 0), 0, len(array))])
    return dict(executed.result.row_errors)


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)]
)
def test_only_rows_with_nan_fail(datatype, dtype):
    array = np.ones((4, 2, 3), dtype)
    array[0] = np.inf
    array[1, 1, 2] = array[3, 0, 0] = np.nan
    message = "output 'Y' contains NaN"
    assert errors(array, datatype) == {1: message, 3: message}
    assert errors(array[[0, 2]], datatype) == {}


def test_bf16_is_read_by_its_bits():
    array = np.array([[0x3F80], [0x7F80], [0x7FC0], [0xFFC1]], np.uint16)
    assert list(errors(array, "BF16")) == [2, 3]
    assert errors(array, "UINT16") == {}


def test_a_row_error_of_the_executor_is_kept():
    array = np.full((2, 1), np.nan, np.float32)
    assert errors(array, "FP32", {0: "mine"}) == {0: "mine", 1: "output 'Y' contains NaN"}


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2,)])
def test_outputs_of_any_rank_are_checked(shape):
    assert errors(np.ones(shape, np.float32), "FP32") == {}


def test_a_failed_batch_is_not_checked():
    executed = ExecutedBatch(0, failure="no")
    fail_nan_rows(executed, Layout({"Y": "FP32"}), [])
    assert executed.result is None


def test_nan_in_an_output_that_a_row_did_not_ask_for_does_not_fail_it():
    outputs = {"Y": np.ones((3, 1), np.float32), "Z": np.full((3, 1), np.nan, np.float32)}
    executed = ExecutedBatch(0, result=BatchResult(outputs))
    asked = [("Y",), None, ("Z", "Y")]
    slices = [Slice(InferenceRequest("m", {}, 0, outputs=names), 0, 1) for names in asked]
    fail_nan_rows(executed, Layout({"Y": "FP32", "Z": "FP32"}), slices)
    assert list(executed.result.row_errors) == [1, 2]


@pytest.mark.parametrize("array", [np.float32("nan"), [1, np.nan], [[1], [np.nan]]])
def test_nan_fails_the_whole_reply_of_a_model_without_a_batch_axis(array):
    executed = ExecutedBatch(0, result=BatchResult({"Y": np.asarray(array, np.float32)}))
    slices = [Slice(InferenceRequest("m", {}, 0), 0, 1)]
    fail_nan_rows(executed, Layout({"Y": "FP32"}, batched=False), slices)
    assert executed.result.row_errors == {0: "output 'Y' contains NaN"}
