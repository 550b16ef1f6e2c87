"""Batches as instances, answers as predictions."""

import json

import numpy as np
import pytest

from batcher.executor import ExecutionError
from batcher.executors.remote.instances import Instances
from batcher.executors.remote.rows import SentRows, json_rows
from batcher.tensors import TensorSpec

X = TensorSpec("X", "FP32", (-1, 2))
NAME = TensorSpec("name", "BYTES", (-1, 1))
Y = TensorSpec("Y", "FP32", (-1, 1))
LABEL = TensorSpec("label", "BYTES", (-1, 1))


def specs(*of):
    return {spec.name: spec for spec in of}


def made(inputs=(X,), outputs=(Y,), *, batched=True, **settings):
    settings = {"style": "text", **settings}
    return Instances(specs(*inputs), specs(*outputs), batched=batched, **settings)


ROWS = {"X": np.array([[1, 2], [3, 4]], np.float32)}


def test_one_input_is_the_instance_itself():
    assert json.loads(made().body(ROWS, 2)) == {"instances": [[1, 2], [3, 4]]}


def test_it_may_be_an_object_all_the_same():
    body = json.loads(made(form="object").body(ROWS, 2))
    assert body == {"instances": [{"X": [1, 2]}, {"X": [3, 4]}]}


def test_several_inputs_are_objects_and_one_that_is_missing_is_left_out():
    instances = made((X, NAME))
    inputs = {**ROWS, "name": np.array([[b"a"], [b"b"]], object)}
    body = json.loads(instances.body(inputs, 2))
    assert body == {"instances": [{"X": [1, 2], "name": ["a"]}, {"X": [3, 4], "name": ["b"]}]}
    assert json.loads(instances.body(ROWS, 2)) == {"instances": [{"X": [1, 2]}, {"X": [3, 4]}]}


def test_without_a_batch_axis_a_batch_is_one_instance():
    x = TensorSpec("X", "FP32", (2, 2))
    y = TensorSpec("Y", "FP32", (1,))
    instances = made((x,), (y,), batched=False)
    assert json.loads(instances.body(ROWS, 1)) == {"instances": [[[1, 2], [3, 4]]]}
    assert instances.answer(b'{"predictions": [[5]]}', 1).outputs["Y"].tolist() == [5]


@pytest.mark.parametrize("predictions", ["[[5], [6]]", "[5, 6]", '[{"Y": [5]}, {"Y": 6.0}]'])
def test_predictions_are_values_or_objects(predictions):
    try:
        answer = made().answer(b'{"predictions": %b}' % predictions.encode(), 2)
    except ExecutionError as error:
        assert "equally long" in str(error)  # noqa: PT017 - the last of the three
        assert predictions.startswith("[{")
    else:
        assert answer.outputs["Y"].tolist() == [[5], [6]]
        assert answer.outputs["Y"].dtype == np.float32


def test_a_row_may_fail_alone():
    answer = made().answer(b'{"predictions": [[5], {"error": "no\\nsuch"}, [7]]}', 3)
    assert answer.row_errors == {1: "no such"}
    assert answer.outputs["Y"][[0, 2]].tolist() == [[5], [7]]


def test_a_model_may_have_an_output_called_error():
    answer = made(outputs=(TensorSpec("error", "FP32", (-1,)),)).answer(
        b'{"predictions": [{"error": 1}]}', 1
    )
    assert not answer.row_errors
    assert answer.outputs["error"].tolist() == [1]


def test_a_batch_whose_rows_all_fail_has_failed():
    with pytest.raises(ExecutionError, match="why") as caught:
        made().answer(b'{"predictions": [{"error": "why"}, {"error": "b"}]}', 2)
    assert caught.value.cause == "input"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("not json", "not JSON"),
        ("[]", 'no list "predictions"'),
        ('{"predictions": {}}', 'no list "predictions"'),
        ('{"predictions": [[1]]}', "1 predictions for 2 instances"),
        ('{"predictions": [[1], [2], [3]]}', "3 predictions for 2 instances"),
        ('{"predictions": [[1], [null]]}', "'Y'.*null"),
        ('{"predictions": [[1, 2], [3, 4]]}', "'Y'.*shape"),
        ('{"predictions": [[1], []]}', "'Y'.*equally long"),
        ('{"predictions": [[[1]], [[2]]]}', "'Y'.*shape"),
        ('{"predictions": [["a"], ["b"]]}', "'Y'.*text"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(answer, why):
    with pytest.raises(ExecutionError, match=why) as caught:
        made().answer(answer.encode(), 2)
    assert caught.value.cause == "unknown"


def test_several_outputs_need_objects():
    instances = made(outputs=(Y, LABEL))
    found = instances.answer(b'{"predictions": [{"Y": [1], "label": "a", "more": 1}]}', 1)
    assert found.outputs["label"].tolist() == [[b"a"]]
    with pytest.raises(ExecutionError, match="no 'label'"):
        instances.answer(b'{"predictions": [{"Y": [1]}]}', 1)


def test_rows_that_json_cannot_carry_stay_here():
    inputs = {"X": np.array([[1, 2], [np.nan, 0], [3, 4]], np.float32)}
    sent = json_rows(inputs, 3, specs(X), "text", batched=True)
    assert sent.rows == 2
    assert sent.inputs["X"].tolist() == [[1, 2], [3, 4]]

    result = sent.result(made().answer(b'{"predictions": [[5], {"error": "late"}]}', 2))

    assert result.outputs["Y"][0].tolist() == [5]
    assert result.outputs["Y"].shape == (3, 1)
    assert result.row_errors == {
        1: "input 'X' has NaN or infinity, which JSON cannot carry",
        2: "late",
    }


def test_bytes_of_rows_that_were_not_sent_are_empty():
    sent = SentRows({}, 1, 2, kept=[1], refused={0: "why"})
    outputs = made(outputs=(LABEL,)).answer(b'{"predictions": ["a"]}', 1)
    assert sent.result(outputs).outputs["label"].tolist() == [[b""], [b"a"]]


@pytest.mark.parametrize("batched", [True, False])
def test_a_batch_of_which_nothing_can_be_sent_has_failed(batched):
    inputs = {"X": np.full((2, 2), np.nan, np.float32)}
    with pytest.raises(ExecutionError, match="'X' has NaN") as caught:
        json_rows(inputs, 2, specs(X), "text", batched=batched)
    assert caught.value.cause == "input"


def test_an_input_of_all_rows_fails_all():
    shared = TensorSpec("S", "FP32", (2,), batched=False)
    inputs = {**ROWS, "S": np.array([1, np.nan], np.float32)}
    with pytest.raises(ExecutionError, match="'S' has NaN"):
        json_rows(inputs, 2, specs(X, shared), "text", batched=True)
