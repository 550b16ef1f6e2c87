"""Padding rules against a model; padded batches and trimmed replies."""

import numpy as np
import pytest

from batcher.errors import InvalidRequest, ModelLoadError
from batcher.executor import BatchResult, ExecutionError, ModelMetadata, TensorSpec
from batcher.runtime.execution.execute import check_result
from batcher.runtime.execution.gather import Slice, count_elements, gather
from batcher.runtime.execution.scatter import scatter
from batcher.runtime.interface.layout import Layout
from batcher.runtime.interface.padding import MAX_WARMUP_BUCKETS
from batcher.runtime.interface.padding_rules import AxisRule, OutputRule, PaddingRules
from batcher.runtime.interface.resolve_padding import resolve_padding
from batcher.runtime.interface.signature import Signature
from batcher.runtime.request import InferenceRequest
from batcher.tensors import DTYPES, Tensor

NAMED = ModelMetadata(
    "test",
    (
        TensorSpec("ids", "INT64", (-1, -1), dims=("batch", "seq")),
        TensorSpec("mask", "INT64", (-1, -1), dims=("batch", "seq")),
        TensorSpec("scale", "FP32", (-1, 2)),
    ),
    (
        TensorSpec("hidden", "FP32", (-1, -1, 3), dims=("batch", "seq", None)),
        TensorSpec("pooled", "FP32", (-1, 3)),
    ),
)
BOTH = (AxisRule("ids", 1, 7, (4, 8)), AxisRule("mask", 1, 0, (4, 8)))


def rules(axes=BOTH, outputs=()):
    return PaddingRules(tuple(axes), tuple(outputs), "models[0].")


def problem(axes=BOTH, outputs=(), metadata=NAMED):
    with pytest.raises(ModelLoadError) as caught:
        resolve_padding("m", rules(axes, outputs), metadata)
    return str(caught.value)


def request(**arrays):
    names = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}
    return InferenceRequest("m", {name: Tensor(names[a.dtype], a) for name, a in arrays.items()}, 0)


def sentence(length, *, rows=1, value=1):
    ids = np.full((rows, length), value, np.int64)
    return request(ids=ids, mask=np.ones_like(ids), scale=np.ones((rows, 2), np.float32))


# Rules


def test_without_rules_nothing_is_padded():
    assert resolve_padding("m", rules(()), NAMED) is None
    own = TensorSpec("Y", "FP32", (-1, -1), dims=("batch", None))
    assert resolve_padding("m", rules(()), ModelMetadata("t", NAMED.inputs, (own,))) is None


def test_the_padded_axes_as_scheduler_settings():
    padding = resolve_padding("m", rules(), NAMED)
    assert [(a.input, a.axis, a.buckets) for a in padding.axes] == [(0, 1, (4, 8)), (1, 1, (4, 8))]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            [*BOTH, AxisRule("idz", 1, 0, (4,))],
            "models[0].padding[2].input: got 'idz'; allowed: ids, mask, scale",
        ),
        (
            [*BOTH, AxisRule("scale", 1, 0, (4,))],
            (
                "models[0].padding[2].axis: got 1; allowed: an axis of input 'scale' that varies"
                " (none does; its shape is [-1, 2])"
            ),
        ),
        (
            [AxisRule("ids", 2, 7, (4, 8)), BOTH[1]],
            (
                "models[0].padding[0].axis: got 2; allowed: an axis of input 'ids' that varies"
                " (1; its shape is [-1, -1])"
            ),
        ),
        (
            [AxisRule("ids", 1, 0.5, (4, 8)), BOTH[1]],
            (
                "models[0].padding[0].value: got 0.5; allowed: a whole number from"
                f" {-(2**63)} to {2**63 - 1}, for INT64"
            ),
        ),
        (
            [BOTH[0]],
            (
                "models[0].padding: ids axis 1, mask axis 1 are equally long ('seq' in the model);"
                " allowed: to pad all of them, to the same buckets"
            ),
        ),
        ([BOTH[0], AxisRule("mask", 1, 0, (4, 16))], "to the same buckets"),
    ],
)
def test_a_rule_that_does_not_fit_the_model_is_named(axes, message):
    assert message in problem(axes)


def test_every_problem_is_reported_at_once():
    message = problem([AxisRule("a", 1, 0, (4,)), AxisRule("b", 1, 0, (4,))])
    assert message.startswith("model 'm': models[0].padding[0].input")
    assert "models[0].padding[1].input" in message


UNNAMED = ModelMetadata(
    "test",
    (TensorSpec("x", "FP32", (-1, -1)), TensorSpec("n", "FP32", (-1, 1))),
    (TensorSpec("y", "FP32", (-1, -1)), TensorSpec("z", "FP32", (-1, 1))),
)
X = AxisRule("x", 1, None, (4, 8))


def test_the_length_of_an_output_is_never_guessed():
    assert problem([X], (), UNNAMED) == (
        "model 'm': models[0].outputs: output 'y' has the variable axis 1, and the model does not"
        " say which input axis it is as long as; allowed: {output: y, axis: 1, like: {input: ...,"
        " axis: ...}}, or like: null where its length is its own"
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (OutputRule("w", 1, None), "models[0].outputs[0].output: got 'w'; allowed: y, z"),
        (OutputRule("z", 1, None), "models[0].outputs[0].axis: got 1; allowed: an axis of output"),
        (OutputRule("y", 1, ("w", 1)), "models[0].outputs[0].like.input: got 'w'; allowed: x, n"),
        (OutputRule("y", 1, ("n", 1)), "models[0].outputs[0].like.axis: got 1; allowed: an axis"),
    ],
)
def test_a_wrong_output_rule_is_named(output, message):
    assert message in problem([X], [output], UNNAMED)


def test_an_output_is_cut_like_the_input_that_is_named():
    message = OutputRule("y", 1, ("x", 1))
    padding = resolve_padding("m", rules([X], [message]), UNNAMED)
    assert padding.of(((8,), (1,))).outputs == {"y": ((1, 8),)}
    assert padding.cuts(((3,), (1,))) == {"y": (slice(None), slice(3))}
    own = resolve_padding("m", rules([X], [OutputRule("y", 1, None)]), UNNAMED)
    assert own.of(((8,), (1,))).outputs == own.cuts(((3,), (1,))) == {}


@pytest.mark.parametrize(
    ("datatype", "value", "element"),
    [
        ("BOOL", None, False),
        ("BOOL", True, True),
        ("UINT8", 255, 255),
        ("INT32", None, 0),
        ("FP16", 1.5, 1.5),
        ("FP32", float("-inf"), float("-inf")),
        ("FP64", 3, 3.0),
        ("BF16", 1.0, 0x3F80),
        ("BYTES", None, b""),
        ("BYTES", "[PAD]", b"[PAD]"),
    ],
)
def test_the_value_is_of_the_inputs_datatype(datatype, value, element):
    metadata = ModelMetadata("t", (TensorSpec("x", datatype, (-1, -1)),), ())
    padding = resolve_padding("m", rules([AxisRule("x", 1, value, (4,))]), metadata)
    array = np.full((1, 2), 1 if datatype != "BYTES" else b"a", DTYPES[datatype])
    batch = gather(
        [
            Slice(InferenceRequest("m", {"x": Tensor(datatype, array)}, 0), 0, 1, padding.of(s))
            for s in [((4,),)]
        ],
        Layout(),
    )
    found = batch.inputs["x"]
    assert found.dtype == DTYPES[datatype]
    assert found[0].tolist() == [*array[0].tolist(), element, element]


@pytest.mark.parametrize(
    ("datatype", "value", "allowed"),
    [
        ("BOOL", 1, "true or false, for BOOL"),
        ("UINT8", 256, "a whole number from 0 to 255, for UINT8"),
        ("UINT8", -1, "a whole number from 0 to 255, for UINT8"),
        ("INT32", "0", "a number, for INT32"),
        ("INT32", True, "a number, for INT32"),
        ("FP16", 1e6, "a number that FP16 holds"),
        ("BYTES", 0, "text, for BYTES"),
    ],
)
def test_a_value_of_another_datatype_is_refused(datatype, value, allowed):
    metadata = ModelMetadata("t", (TensorSpec("x", datatype, (-1, -1)),), ())
    message = problem([AxisRule("x", 1, value, (4,))], (), metadata)
    assert message == f"model 'm': models[0].padding[0].value: got {value!r}; allowed: {allowed}"


# Admission


def test_a_request_longer_than_the_last_bucket_is_refused():
    signature = Signature("m", NAMED, 8, resolve_padding("m", rules(), NAMED))
    assert signature.validate(sentence(8)).shapes == ((8,), (8,), (2,))
    with pytest.raises(InvalidRequest) as caught:
        signature.validate(sentence(9))
    assert str(caught.value) == (
        "m: input 'ids' has length 9 on axis 1; allowed: at most 8, the largest bucket (padding)"
    )


def test_an_optional_input_that_is_absent_keeps_its_place():
    specs = (
        TensorSpec("a", "FP32", (-1, -1), optional=True),
        TensorSpec("b", "FP32", (-1, -1)),
    )
    metadata = ModelMetadata("t", specs, ())
    padding = resolve_padding(
        "m", rules([AxisRule("a", 1, 0, (4,)), AxisRule("b", 1, 0, (4,))]), metadata
    )
    signature = Signature("m", metadata, 8, padding)
    own = request(b=np.ones((1, 3), np.float32))
    assert signature.validate(own).shapes == ((), (3,))
    batch = gather([Slice(own, 0, 1, padding.of(((), (4,))))], Layout())
    assert {name: array.shape for name, array in batch.inputs.items()} == {"b": (1, 4)}
    assert count_elements([Slice(own, 0, 1, padding.of(((), (4,))))], Layout()) == (3, 1)


# Batches


def test_gathering_pads_shorter_inputs_and_no_fixed_ones():
    padded = resolve_padding("m", rules(), NAMED).of(((4,), (4,), (2,)))
    slices = [
        Slice(sentence(2, value=5), 0, 1, padded),
        Slice(sentence(4, rows=3, value=6), 1, 3, padded),
    ]
    batch = gather(slices, Layout())
    assert batch.rows == 3
    assert batch.inputs["ids"].tolist() == [[5, 5, 7, 7], [6] * 4, [6] * 4]
    assert batch.inputs["mask"].tolist() == [[1, 1, 0, 0], [1] * 4, [1] * 4]
    assert batch.inputs["scale"].tolist() == [[1.0, 1.0]] * 3
    assert all(array.flags.c_contiguous for array in batch.inputs.values())
    assert count_elements(slices, Layout()) == (2 * (2 + 8), 2 * 2)
    # Filled up to 4 rows: all inputs count, and the fourth row is padding.
    assert count_elements(slices, Layout(batch_sizes=(1, 4))) == (2 * 10 + 3 * 2, 2 * 2 + 2 * 4 + 2)
    assert count_elements(slices, Layout(batch_sizes=(3,))) == (2 * 10 + 3 * 2, 2 * 2)


def test_an_exact_fit_is_passed_on_without_a_copy():
    padded = resolve_padding("m", rules(), NAMED).of(((4,), (4,), (2,)))
    own = sentence(4)
    batch = gather([Slice(own, 0, 1, padded)], Layout())
    assert all(batch.inputs[name] is own.inputs[name].array for name in own.inputs)


def test_several_axes_of_one_input():
    spec = TensorSpec("image", "UINT8", (-1, -1, -1, 3))
    metadata = ModelMetadata("t", (spec,), ())
    axes = [AxisRule("image", 1, 9, (2, 4)), AxisRule("image", 2, 9, (3, 6))]
    padding = resolve_padding("m", rules(axes), metadata)
    images = [np.full((1, 1, 3, 3), 1, np.uint8), np.full((1, 2, 1, 3), 2, np.uint8)]
    slices = [Slice(request(image=image), 0, 1, padding.of(((2, 3, 3),))) for image in images]
    (array,) = gather(slices, Layout()).inputs.values()
    assert array[..., 0].tolist() == [[[1, 1, 1], [9, 9, 9]], [[2, 9, 9], [2, 9, 9]]]


def test_a_reply_is_trimmed_to_the_length_of_its_request():
    padding = resolve_padding("m", rules(), NAMED)
    hidden = np.arange(2 * 4 * 3, dtype=np.float32).reshape(2, 4, 3)
    result = BatchResult({"hidden": hidden, "pooled": hidden[:, 0]})
    layout = Layout({"hidden": "FP32", "pooled": "FP32"})
    outputs = scatter(result, 1, 2, None, layout, padding.cuts(((3,), (3,), (2,))))
    assert outputs["hidden"].array.tolist() == hidden[1:2, :3].tolist()
    assert outputs["pooled"].array.tolist() == hidden[1:2, 0].tolist()


def test_an_output_that_is_not_as_long_as_the_input_it_follows_is_a_fault():
    padded = resolve_padding("m", rules(), NAMED).of(((4,), (4,), (2,)))
    batch = gather([Slice(sentence(3), 0, 1, padded)], Layout())
    pooled = np.zeros((1, 3), np.float32)
    layout = Layout({"hidden": "FP32", "pooled": "FP32"})
    for shape in ((1, 3, 3), (1,)):
        result = BatchResult({"hidden": np.zeros(shape, np.float32), "pooled": pooled})
        with pytest.raises(ExecutionError, match=r"'hidden'.* axis 1 should be 4 long"):
            check_result(result, batch, layout, padded)
    right = BatchResult({"hidden": np.zeros((1, 4, 3), np.float32), "pooled": pooled})
    assert check_result(right, batch, layout, padded) is right


# Warm-up


def test_axes_with_equal_buckets_are_warmed_up_together():
    padding = resolve_padding("m", rules(), NAMED)
    assert padding.warm_buckets(16) == [((4,), (4,), (2,)), ((8,), (8,), (2,))]


def test_axes_that_vary_apart_are_warmed_up_up_to_a_bound():
    spec = TensorSpec("image", "UINT8", (-1, -1, -1))
    metadata = ModelMetadata("t", (spec,), ())
    heights, widths = tuple(range(1, 11)), tuple(range(2, 12))
    axes = [AxisRule("image", 1, 9, heights), AxisRule("image", 2, 9, widths)]
    found = resolve_padding("m", rules(axes), metadata).warm_buckets(16)
    assert len(found) == MAX_WARMUP_BUCKETS
    assert (found[0], found[-1]) == (((1, 2),), ((10, 11),))


def test_warm_buckets_are_chosen_without_making_all_combinations():
    spec = TensorSpec("voxels", "UINT8", (-1,) * 6)
    metadata = ModelMetadata("t", (spec,), ())
    axes = [AxisRule("voxels", axis, 9, tuple(range(axis, axis + 32))) for axis in range(1, 6)]
    found = resolve_padding("m", rules(axes), metadata).warm_buckets(16)
    assert len(set(found)) == MAX_WARMUP_BUCKETS
    assert (found[0], found[-1]) == (((1, 2, 3, 4, 5),), ((32, 33, 34, 35, 36),))
    for axis in range(5):  # each axis in all its breadth
        assert len({shape[axis] for (shape,) in found}) >= MAX_WARMUP_BUCKETS // 2
