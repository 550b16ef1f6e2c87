"""Answers of the Open Inference Protocol over REST: what is wrong with them is said."""

import json

import numpy as np
import pytest

from batcher.executor import ExecutionError
from batcher.executors.http.v2 import Bodies, read_specs
from batcher.executors.remote.json_values import JsonError
from batcher.tensors import TensorSpec

X = TensorSpec("X", "FP32", (-1, 2))
Y = TensorSpec("Y", "FP32", (-1, 2))
NAME = TensorSpec("name", "BYTES", (-1, 1))

GOOD = {"name": "Y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}


def made(*outputs, binary=False, batched=True):
    outputs = outputs or (Y,)
    return Bodies({"X": X}, {each.name: each for each in outputs}, batched=batched, binary=binary)


def answered(bodies, document, *, rows=2, length=None, contents=b"", wanted=None):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return bodies.answer(data + contents, length, rows, wanted, "7").outputs


def test_data_may_be_flat_or_nested():
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        found = answered(made(), {"outputs": [{**GOOD, "data": data}]})
        assert found["Y"].tolist() == [[1, 2], [3, 4]]


def test_outputs_that_were_not_asked_for_are_left_out():
    body, _ = made(Y, NAME).body({"X": np.zeros((1, 2), np.float32)}, frozenset({"Y"}), {}, "1")
    assert json.loads(body)["outputs"] == [{"name": "Y"}]
    found = answered(made(), {"outputs": [GOOD, {"name": "more", "datatype": "?", "shape": []}]})
    assert list(found) == ["Y"]


def test_parameters_and_the_number_are_sent():
    body, length = made().body(
        {"X": np.zeros((1, 2), np.float32)}, None, {"t": 0.5, "k": True}, "9"
    )
    assert length == len(body)
    assert json.loads(body)["parameters"] == {"t": 0.5, "k": True}
    assert json.loads(body)["id"] == "9"


def test_many_elements_are_written_in_pieces():
    x = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    body, _ = made().body({"X": x}, None, {}, "1")
    assert json.loads(body)["inputs"][0]["data"] == x.ravel().tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_bytes_travel_both_ways(binary):
    bodies = Bodies({"name": NAME}, {"name": NAME}, batched=True, binary=binary)
    names = np.array([[b"a"], ["\u00e4".encode()]], object)
    body, length = bodies.body({"name": names}, None, {}, "1")
    asked = json.loads(body[:length])
    document = {"id": "1", "outputs": asked["inputs"]}
    head = json.dumps(document).encode()
    answer = bodies.answer(head + body[length:], str(len(head)), 2, None, "1")
    assert answer.outputs["name"].tolist() == names.tolist()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"<html>", "not JSON"),
        ([], "no object"),
        ({}, 'no list "outputs"'),
        ({"error": "out of memory"}, "out of memory"),
        ({"id": "8", "outputs": [GOOD]}, "another request"),
        ({"id": ["7"], "outputs": [GOOD]}, "another request"),
        ({"outputs": []}, "'Y' is missing"),
        ({"outputs": ["Y"]}, "no name"),
        ({"outputs": [GOOD, GOOD]}, "twice"),
        ({"outputs": [{**GOOD, "datatype": "FP64"}]}, "datatype is 'FP64', not FP32"),
        ({"outputs": [{**GOOD, "shape": [3, 2]}]}, "4 elements"),
        ({"outputs": [{**GOOD, "shape": [4, 1]}]}, r"\[4, 1\].*does not fit \[2, 2\]"),
        ({"outputs": [{**GOOD, "shape": [-2, -2]}]}, "no list of whole numbers"),
        ({"outputs": [{**GOOD, "shape": 4}]}, "no list of whole numbers"),
        ({"outputs": [{**GOOD, "shape": [True, 4]}]}, "no list of whole numbers"),
        ({"outputs": [{**GOOD, "data": [1, 2, 3]}]}, "3 elements"),
        ({"outputs": [{**GOOD, "data": [1, 2, 3, None]}]}, "null"),
        ({"outputs": [{**GOOD, "data": None}]}, "null"),
        ({"outputs": [{**GOOD, "parameters": {"binary_data_size": 16}}]}, "0 bytes are left"),
        ({"outputs": [{**GOOD, "parameters": {"binary_data_size": -1}}]}, "binary_data_size '-1'"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(document, why):
    with pytest.raises(ExecutionError, match=why):
        answered(made(), document)


@pytest.mark.parametrize(
    ("size", "length", "contents", "why"),
    [
        (16, "0x10", bytes(16), "Inference-Header-Content-Length"),
        (16, "99999", bytes(16), "Inference-Header-Content-Length"),
        (16, None, bytes(15), "15 bytes are left"),
        (16, None, bytes(17), "1 bytes are left after"),
        (12, None, bytes(12), "expected 16 bytes"),
    ],
)
def test_contents_are_as_long_as_they_say(size, length, contents, why):
    document = {
        "outputs": [{**GOOD, "data": None, "parameters": {"binary_data_size": size}}],
    }
    head = json.dumps(document).encode()
    with pytest.raises(ExecutionError, match=why):
        answered(made(binary=True), head, length=length or str(len(head)), contents=contents)


def test_without_a_batch_axis_the_shape_is_the_models():
    bodies = made(TensorSpec("Y", "FP32", (2, 2)), batched=False)
    assert answered(bodies, {"outputs": [GOOD]}, rows=1)["Y"].shape == (2, 2)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ("X", "no list"),
        ([{"name": ""}], "no name"),
        ([{"name": "X", "datatype": "F32", "shape": [-1]}], "datatype of 'X'"),
        ([{"name": "X", "datatype": "FP32", "shape": "-1"}], "shape of 'X'"),
    ],
)
def test_metadata_that_cannot_be_read(tensors, why):
    with pytest.raises(JsonError, match=why):
        read_specs({"inputs": tensors}, "inputs")


def test_metadata_that_says_nothing():
    assert read_specs([], "inputs") == ()
    assert read_specs({"inputs": []}, "inputs") == ()


@pytest.mark.parametrize("shape", [[0, 2**70], [2**70, 0], [0, 2**41]])
def test_a_shape_that_no_array_has_is_a_wrong_answer(shape):
    with pytest.raises(ExecutionError, match="too long"):
        answered(made(), {"outputs": [{**GOOD, "shape": shape, "data": []}]}, rows=0)
