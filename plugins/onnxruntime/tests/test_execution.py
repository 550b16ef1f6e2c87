import numpy as np
import pytest
from onnx import TensorProto, helper

from batcher.executor import Batch, ExecutionError


def answer(executor, **inputs):
    first = next(iter(inputs.values()))
    return executor.execute(Batch(inputs, len(first) if first.shape else 1))


def test_matmul_is_a_matrix_product(models, load):
    executor, _ = load(models.matmul())
    inputs = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    expected = inputs @ np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_allclose(answer(executor, X=inputs).outputs["Y"], expected)


@pytest.mark.parametrize(
    ("kind", "datatype", "dtype"),
    [
        (TensorProto.BOOL, "BOOL", np.bool_),
        (TensorProto.UINT8, "UINT8", np.uint8),
        (TensorProto.UINT16, "UINT16", np.uint16),
        (TensorProto.UINT32, "UINT32", np.uint32),
        (TensorProto.UINT64, "UINT64", np.uint64),
        (TensorProto.INT8, "INT8", np.int8),
        (TensorProto.INT16, "INT16", np.int16),
        (TensorProto.INT32, "INT32", np.int32),
        (TensorProto.INT64, "INT64", np.int64),
        (TensorProto.FLOAT16, "FP16", np.float16),
        (TensorProto.FLOAT, "FP32", np.float32),
        (TensorProto.DOUBLE, "FP64", np.float64),
    ],
)
def test_every_datatype_comes_back_as_it_went_in(models, load, kind, datatype, dtype):
    executor, metadata = load(models.identity(kind))
    assert metadata.inputs[0].datatype == metadata.outputs[0].datatype == datatype
    inputs = np.array([[0, 1], [1, 0], [1, 1]], dtype)
    outputs = answer(executor, X=inputs).outputs["Y"]
    assert outputs.dtype == inputs.dtype
    np.testing.assert_array_equal(outputs, inputs)


def test_text_comes_back_as_the_same_bytes(models, load):
    executor, metadata = load(models.identity(TensorProto.STRING))
    assert metadata.inputs[0].datatype == "BYTES"
    texts = [["", "\N{SNOWMAN}"], ["a\0b", "x" * 1000]]
    inputs = np.array([[t.encode() for t in row] for row in texts], np.object_)
    outputs = answer(executor, X=inputs).outputs["Y"]
    assert outputs.tolist() == inputs.tolist()


def test_text_that_is_no_utf8_fails_its_own_row_only(models, load):
    executor, _ = load(models.identity(TensorProto.STRING))
    inputs = np.array([[b"a", b"b"], [b"c", b"\xff"], [b"e", b"f"]], np.object_)
    result = answer(executor, X=inputs)
    assert result.row_errors == {1: "input 'X' is not UTF-8"}
    assert result.outputs["Y"][[0, 2]].tolist() == [[b"a", b"b"], [b"e", b"f"]]


def test_variable_axis_takes_every_length(models, load):
    executor, _ = load(models.lookup())
    for length in (1, 2, 7):
        outputs = answer(executor, IDS=np.full((2, length), 3)).outputs["EMBEDDED"]
        assert outputs.shape == (2, length, 2)
        assert outputs[0, 0].tolist() == [6, 7]


def test_short_batches_are_filled_up_for_a_file_with_fixed_rows(models, load):
    executor, _ = load(models.matmul(rows=4), max_batch_size=4)
    inputs = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    assert answer(executor, X=inputs).outputs["Y"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("rows", [2, 4])
def test_an_output_that_has_dropped_rows_is_not_cut(models, load, rows):
    executor, _ = load(models.compress(4, None), max_batch_size=4)
    keep = np.array([False, True, True, True])[:rows]
    inputs = {"X": np.arange(rows, dtype=np.float32).reshape(-1, 1), "KEEP": keep}
    error = failure(executor, **inputs)
    assert error.cause == "unknown"
    assert "output 'Y' has shape [3, 1]; its axis 0 should be 4" in str(error)
    whole = answer(executor, **inputs | {"KEEP": np.ones(rows, np.bool_)}).outputs["Y"]
    assert whole.tolist() == inputs["X"].tolist()


def test_an_input_without_a_batch_axis_is_passed_on_unchanged(models, load):
    executor, _ = load(models.biased(), batched={"b": False})
    inputs = {"X": np.ones((2, 4), np.float32), "b": np.arange(4, dtype=np.float32)}
    assert answer(executor, **inputs).outputs["Y"].tolist() == [[1, 2, 3, 4]] * 2


def test_a_file_of_fixed_rows_may_have_one_as_well(models, load):
    path = models.write(
        "fixed",
        [helper.make_node("Add", ["X", "b"], ["Y"])],
        {"X": (TensorProto.FLOAT, [3, 2]), "b": (TensorProto.FLOAT, [2])},
        {"Y": (TensorProto.FLOAT, [3, 2])},
    )
    executor, _ = load(path, max_batch_size=3, batched={"b": False})
    inputs = {"X": np.ones((2, 2), np.float32), "b": np.array([5, 6], np.float32)}
    assert answer(executor, **inputs).outputs["Y"].tolist() == [[6, 7]] * 2


def test_a_model_without_a_batch_axis_gets_and_gives_scalars(models, load):
    path = models.write(
        "total",
        [helper.make_node("ReduceSum", ["X"], ["TOTAL"], keepdims=0)],
        {"X": (TensorProto.FLOAT, ["n"])},
        {"TOTAL": (TensorProto.FLOAT, [])},
    )
    executor, _ = load(path, max_batch_size=0)
    for length in (0, 1, 3):
        total = executor.execute(Batch({"X": np.ones(length, np.float32)}, 1)).outputs["TOTAL"]
        assert isinstance(total, np.ndarray)
        assert (total.shape, float(total)) == ((), length)


def test_text_of_no_row_that_is_no_utf8_fails_as_a_whole(models, load):
    executor, _ = load(models.identity(TensorProto.STRING, shape=()), max_batch_size=0)
    good = executor.execute(Batch({"X": np.array(b"a", np.object_)}, 1)).outputs["Y"]
    assert good.tolist() == b"a"
    error = failure(executor, X=np.array(b"\xff", np.object_))
    assert (error.cause, str(error)) == ("input", "input 'X' is not UTF-8")


def test_only_what_is_asked_for_is_computed(models, load):
    executor, _ = load(models.several())
    square = np.ones((1, 2, 2), np.float32)
    inputs = {"A": square, "B": square, "C": np.array([-3])}
    result = executor.execute(Batch(inputs, 1, outputs=frozenset({"SIZE"})))
    assert result.outputs.keys() == {"SIZE"}
    assert result.outputs["SIZE"].tolist() == [3]


def failure(executor, **inputs):
    with pytest.raises(ExecutionError) as caught:
        answer(executor, **inputs)
    return caught.value


def test_values_that_cannot_be_computed_are_input_errors(models, load, capfd):
    executor, _ = load(models.lookup())
    error = failure(executor, IDS=np.array([[77]]))
    assert error.cause == "input"
    assert "out of data bounds" in str(error)
    assert "\n" not in str(error)
    assert "ONNXRuntimeError" not in str(error)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("operator", "given", "error_of"),
    [
        ("GatherElements", [[77, 0]], "Out of range"),
        ("Reshape", [[4, 4]], "cannot be reshaped"),
        ("TopK", [[7]], "k argument"),
    ],
)
def test_values_that_an_operator_refuses_are_input_errors(models, load, operator, given, error_of):
    """These say it by another kind of error than Gather."""
    shapes = {"GatherElements": ["n", 2], "Reshape": [1, 2], "TopK": [1, 1]}
    nodes = {
        "GatherElements": [helper.make_node("GatherElements", ["TABLE", "I"], ["Y"])],
        "Reshape": [
            helper.make_node("Squeeze", ["I"], ["S"]),
            helper.make_node("Reshape", ["TABLE", "S"], ["Y"]),
        ],
        "TopK": [
            helper.make_node("Squeeze", ["I", "ZERO"], ["S"]),
            helper.make_node("TopK", ["TABLE", "S"], ["Y", "Z"]),
        ],
    }
    path = models.write(
        operator,
        nodes[operator],
        {"I": (TensorProto.INT64, shapes[operator])},
        {"Y": (TensorProto.FLOAT, ["a", "b"])},
        weights={
            "TABLE": np.arange(10, dtype=np.float32).reshape(5, 2),
            "ZERO": np.zeros(1, np.int64),
        },
    )
    executor, _ = load(path, max_batch_size=0)
    error = failure(executor, I=np.array(given))
    assert (error.cause, error_of in str(error)) == ("input", True), str(error)


@pytest.mark.parametrize(
    "inputs",
    [{"X": np.ones((2, 4), np.float32)}, {"X": np.ones((2, 3))}],
    ids=["shape", "dtype"],
)
def test_wrong_shapes_and_dtypes_are_one_line(models, load, inputs):
    executor, _ = load(models.matmul())
    error = failure(executor, **inputs)
    assert error.cause == "input"
    assert "\n" not in str(error)


def test_missing_input_is_named(models, load):
    executor, _ = load(models.several())
    error = failure(executor, C=np.array([1]))
    assert "'A'" in str(error)
