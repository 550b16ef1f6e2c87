"""Which requests are valid, and which of them may share a batch."""

import itertools

import numpy as np
import pytest

from batcher.errors import InvalidRequest
from batcher.executor import ModelMetadata, TensorSpec
from batcher.runtime.interface import signature as module
from batcher.runtime.interface.padding_rules import AxisRule, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.signature import MAX_SHARED_INPUT_BYTES, Signature
from batcher.runtime.request import InferenceRequest
from batcher.tensors import DTYPES, Tensor

DATATYPES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
Y = TensorSpec("Y", "FP32", (-1, 1))


def request(parameters=None, **arrays):
    tensors = {name: Tensor(DATATYPES[array.dtype], array) for name, array in arrays.items()}
    return InferenceRequest("m", tensors, 0, parameters=parameters)


def signature(*inputs, outputs=(Y,), parameters=(), padding=None, max_rows=8):
    metadata = ModelMetadata("t", inputs, outputs, parameters=parameters)
    found = (
        None if padding is None else resolve_padding("m", PaddingRules(padding, (), ""), metadata)
    )
    return Signature("m", metadata, max_rows, found)


def refusal(model, each):
    with pytest.raises(InvalidRequest) as caught:
        model.validate(each)
    return str(caught.value)


# Axes of one name

IDS = TensorSpec("ids", "INT64", (-1, -1), dims=("n", "seq"))
MASK = TensorSpec("mask", "INT64", (-1, -1), dims=("n", "seq"))
PADDED = tuple(AxisRule(name, 1, 0, (4, 8)) for name in ("ids", "mask"))


@pytest.mark.parametrize("padding", [None, PADDED], ids=["as it is", "padded"])
def test_axes_of_one_name_agree_padded_or_not(padding):
    model = signature(IDS, MASK, padding=padding)
    assert model.validate(request(ids=np.ones((2, 3), int), mask=np.ones((2, 3), int))).rows == 2
    assert refusal(model, request(ids=np.ones((2, 3), int), mask=np.ones((2, 2), int))) == (
        "m: inputs have different lengths on the axis 'seq', which they share: 'ids' has 3 on axis 1,"
        " 'mask' has 2 on axis 1"
    )


def test_an_axis_name_twice_in_one_input():
    model = signature(TensorSpec("edges", "FP32", (-1, -1, -1), dims=("n", "node", "node")))
    model.validate(request(edges=np.ones((1, 3, 3), np.float32)))
    message = refusal(model, request(edges=np.ones((1, 3, 4), np.float32)))
    assert "'edges' has 3 on axis 1, 'edges' has 4 on axis 2" in message


def test_an_optional_input_that_is_absent_agrees_with_all():
    optional = TensorSpec("mask", "INT64", (-1, -1), True, ("n", "seq"))
    model = signature(IDS, optional)
    assert model.validate(request(ids=np.ones((1, 3), int))).shapes == ((3,), ())
    assert "'seq'" in refusal(model, request(ids=np.ones((1, 3), int), mask=np.ones((1, 4), int)))


def test_a_shared_input_agrees_as_well():
    bias = TensorSpec("bias", "FP32", (-1,), dims=("seq",), batched=False)
    model = signature(IDS, bias)
    both = request(ids=np.ones((2, 3), int), bias=np.ones(3, np.float32))
    assert model.validate(both).shapes == ((3,), (3,))
    message = refusal(model, request(ids=np.ones((2, 3), int), bias=np.ones(2, np.float32)))
    assert "'ids' has 3 on axis 1, 'bias' has 2 on axis 0" in message


# Parameters

X = TensorSpec("X", "FP32", (-1, 1))
ROW = np.ones((1, 1), np.float32)


def test_parameters_that_the_executor_does_not_read_do_not_separate_requests():
    model = signature(X)
    keys = {model.validate(request({"trace_id": str(n)}, X=ROW)).batch_key for n in range(3)}
    assert keys == {""}


def test_parameters_that_the_executor_reads_separate_requests():
    model = signature(X, parameters=("beam", "mode"))
    values = [True, 1, 1.0, "1", "True", 0.0, -0.0, float("nan"), "nan", "', ('mode', '", 2**63]
    each = [{"beam": value} for value in values]
    each += [{"mode": value} for value in values]
    each += [{"beam": "1", "mode": "1"}, {}, {"other": 1}]
    keys = [model.validate(request(dict(given), X=ROW)).batch_key for given in each]
    assert len(set(keys)) == len(keys) - 1, "only the last two may share a batch"
    assert keys[-1] == keys[-2] == ""
    both = [{"beam": 1, "mode": 2, "trace": 3}, {"mode": 2, "beam": 1}]
    assert len({model.validate(request(given, X=ROW)).batch_key for given in both}) == 1


# Shared inputs

B = TensorSpec("b", "FP32", (4,), batched=False)


def test_a_shared_input_has_its_own_shape_and_no_rows():
    model = signature(X, B)
    rows = np.ones((3, 1), np.float32)
    assert model.validate(request(X=rows, b=np.zeros(4, np.float32))).rows == 3
    message = refusal(model, request(X=rows, b=np.zeros(3, np.float32)))
    assert message == "m: input 'b' must have shape [4] (-1 varies), got [3]"


def key(spec, array):
    tensors = {"X": Tensor("FP32", ROW), "b": Tensor(spec.datatype, array)}
    return signature(X, spec).validate(InferenceRequest("m", tensors, 0)).batch_key


def test_only_equal_values_share_a_batch():
    texts = [["a", "bc"], ["ab", "c"], ["", "abc"]]
    arrays = {
        "FP32": [[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]],
        "INT32": [[0, 1], [1, 0]],
        "BF16": [[0, 1]],
        "UINT16": [[0, 1]],
    }
    keys = []
    for datatype, values in arrays.items():
        spec = TensorSpec("b", datatype, (-1,), batched=False)
        keys += [key(spec, np.array(value, DTYPES[datatype])) for value in values]
    for text in texts:
        array = np.array([each.encode() for each in text], np.object_)
        keys.append(key(TensorSpec("b", "BYTES", (-1,), batched=False), array))
    for shape in [(2, 1), (1, 2), (2,)]:
        spec = TensorSpec("b", "UINT8", (-1,) * len(shape), batched=False)
        keys.append(key(spec, np.zeros(shape, np.uint8)))
    assert len(set(keys)) == len(keys)
    spec = TensorSpec("b", "FP32", (), batched=False)
    one, other = np.float32(1), np.array([7, 1], np.float32)[1:].reshape(())
    assert key(spec, np.asarray(one)) == key(spec, other)


def test_an_array_of_any_layout_has_the_key_of_its_values():
    spec = TensorSpec("b", "INT32", (-1, -1), batched=False)
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert key(spec, array) == key(spec, np.asfortranarray(array))
    assert key(spec, array.T) != key(spec, array)


def test_shared_inputs_are_bounded(monkeypatch):
    most = MAX_SHARED_INPUT_BYTES // 4
    spec = TensorSpec("b", "FP32", (-1,), batched=False)
    assert key(spec, np.zeros(most, np.float32))
    message = refusal(signature(X, spec), request(X=ROW, b=np.zeros(most + 1, np.float32)))
    assert message.startswith(
        f"m: b (inputs with batched: false) have {MAX_SHARED_INPUT_BYTES + 4} bytes"
    )
    monkeypatch.setattr(module, "MAX_SHARED_INPUT_BYTES", 9)
    texts = TensorSpec("b", "BYTES", (-1,), batched=False)
    assert key(texts, np.array([b"abcde"], np.object_))
    with pytest.raises(InvalidRequest, match="10 bytes"):
        key(texts, np.array([b"ab", b""], np.object_))


# Models without rows, requests without inputs


def test_without_a_batch_axis_shapes_are_as_they_are():
    inputs = (
        TensorSpec("a", "FP32", (-1, 2), dims=("n", None), batched=False),
        TensorSpec("b", "FP32", (-1,), dims=("n",), batched=False),
        TensorSpec("c", "FP32", (), batched=False),
    )
    model = signature(*inputs, outputs=(TensorSpec("Y", "FP32", (), batched=False),), max_rows=1)
    arrays = {
        "a": np.ones((3, 2), np.float32),
        "b": np.ones(3, np.float32),
        "c": np.asarray(np.float32(1)),
    }
    measure = model.validate(request(**arrays))
    assert (measure.rows, measure.shapes, measure.batch_key) == (1, ((3, 2), (3,), ()), "")
    assert "axis 'n'" in refusal(model, request(**arrays | {"b": np.ones(2, np.float32)}))
    assert "shape []" in refusal(model, request(**arrays | {"c": np.ones(1, np.float32)}))


def test_a_model_whose_inputs_are_all_optional_may_get_none():
    optional = TensorSpec("X", "FP32", (-1, 1), optional=True)
    model = signature(optional)
    none, some = model.validate(request()), model.validate(request(X=ROW))
    assert none.rows == some.rows == 1
    assert none.batch_key != some.batch_key


def test_keys_of_absent_inputs_and_parameters_differ():
    specs = [TensorSpec(name, "FP32", (-1, 1), optional=True) for name in ("a", "b")]
    model = signature(*specs, parameters=("a", "b"))
    keys = []
    for there, given in itertools.product([(), ("a",), ("b",), ("a", "b")], repeat=2):
        each = request(dict.fromkeys(given, "a"), **dict.fromkeys(there, ROW))
        keys.append(model.validate(each).batch_key)
    assert len(set(keys)) == len(keys)
